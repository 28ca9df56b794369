%% What came from each node that was ever connected: a fault is a number out of turn. Pure.
%% `ref` names the connection, and is undefined while there is none.
-module(chatter_tally).

-export([new/0, connected/2, gone/2, got/4, silent/1, text/1, converted/2]).

new() ->
    #{}.

connected(Node, Tally) ->
    case peer(Node, Tally) of
        #{ref := undefined, connections := Connections} = Peer ->
            Tally#{Node => Peer#{ref := make_ref(), last := 0, connections := Connections + 1}};
        _Connected ->
            Tally
    end.

gone(Node, Tally) ->
    Tally#{Node => (peer(Node, Tally))#{ref := undefined}}.

got(Node, Ref, Number, Tally) ->
    case peer(Node, Tally) of
        #{ref := Ref, last := Last, received := Received, faults := Faults} = Peer ->
            Fault = if Number =:= Last + 1 -> 0; true -> 1 end,
            Tally#{Node => Peer#{
                last := Number, received := Received + 1, faults := Faults + Fault
            }};
        _OfAnotherConnection ->
            Tally
    end.

%% The connected nodes that have sent nothing yet.
silent(Tally) ->
    [{Node, Ref} || {Node, #{ref := Ref, last := 0}} <- maps:to_list(Tally), Ref =/= undefined].

text(Tally) ->
    [
        io_lib:format("~s connections=~w received=~w faults=~w~n", [Node, C, R, F])
     || {Node, #{connections := C, received := R, faults := F}} <- maps:to_list(Tally)
    ].

converted({down, _}, Tally) ->
    maps:map(fun(_Node, Peer) -> maps:remove(pause, Peer) end, Tally).

peer(Node, Tally) ->
    Unknown = #{ref => undefined, last => 0, connections => 0, received => 0, faults => 0},
    maps:get(Node, Tally, Unknown).
