%% As in 1.0.0, and the longest pause between two numbers of one connection.
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
    #{pause := {_, Longest}} = Peer = peer(Node, Tally),
    Tally#{Node => Peer#{ref := undefined, pause := {undefined, Longest}}}.

got(Node, Ref, Number, Tally) ->
    case peer(Node, Tally) of
        #{ref := Ref, last := Last, received := Received, faults := Faults} = Peer ->
            Fault = if Number =:= Last + 1 -> 0; true -> 1 end,
            Tally#{Node => paused(Peer#{
                last := Number, received := Received + 1, faults := Faults + Fault
            })};
        _OfAnotherConnection ->
            Tally
    end.

%% The connected nodes that have sent nothing yet.
silent(Tally) ->
    [{Node, Ref} || {Node, #{ref := Ref, last := 0}} <- maps:to_list(Tally), Ref =/= undefined].

text(Tally) ->
    [
        io_lib:format("~s connections=~w received=~w faults=~w pause_ms=~w~n", [Node, C, R, F, P])
     || {Node, Peer} <- maps:to_list(Tally),
        #{connections := C, received := R, faults := F, pause := {_, P}} <- [Peer]
    ].

converted(_From_1_0_0, Tally) ->
    maps:map(fun(_Node, Peer) -> Peer#{pause => {undefined, 0}} end, Tally).

paused(#{pause := {undefined, Longest}} = Peer) ->
    Peer#{pause := {now_ms(), Longest}};
paused(#{pause := {Before, Longest}} = Peer) ->
    Now = now_ms(),
    Peer#{pause := {Now, max(Longest, Now - Before)}}.

now_ms() ->
    erlang:monotonic_time(millisecond).

peer(Node, Tally) ->
    Unknown = #{ref => undefined, last => 0, connections => 0, received => 0, faults => 0},
    maps:get(Node, Tally, Unknown#{pause => {undefined, 0}}).
