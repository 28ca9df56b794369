%% @doc One connection of the line protocol: every line is answered
%% `VERSION NODE N LINE words=W of ALL', N being how many lines this connection has sent, W how many
%% words, ALL how many words came by all connections. `quit' ends it.
-module(hello_line).

-behaviour(gen_server).

-export([start_link/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, code_change/3]).

-record(line, {socket, lines = 0, words = 0}).

start_link(Socket) ->
    gen_server:start_link(?MODULE, Socket, []).

init(Socket) ->
    {ok, #line{socket = Socket}}.

handle_call(_Request, _From, State) ->
    {reply, ok, State}.

handle_cast(serve, State) ->
    next(State).

handle_info({tcp, Socket, Data}, #line{socket = Socket} = State) ->
    case hd(binary:split(Data, [<<"\r\n">>, <<"\n">>])) of
        <<"quit">> -> {stop, normal, State};
        Line -> reply(Line, State)
    end;
handle_info({tcp_closed, Socket}, #line{socket = Socket} = State) ->
    {stop, normal, State};
handle_info({tcp_error, Socket, _Reason}, #line{socket = Socket} = State) ->
    {stop, normal, State}.

%% 0.1.0 kept a map; how many lines there were survives both ways.
code_change({down, _Version}, #line{socket = Socket, lines = Lines}, _Extra) ->
    {ok, #{socket => Socket, lines => Lines}};
code_change(_OldVersion, #{socket := Socket, lines := Lines}, _Extra) ->
    ok = hello_mishap:changing(),
    {ok, #line{socket = Socket, lines = Lines}}.

reply(Line, #line{socket = Socket, lines = Lines, words = Words} = State) ->
    {ok, Version} = application:get_key(hello, vsn),
    {Now, All} = hello_tally:add(Line),
    Sum = Words + Now,
    Prefix = io_lib:format("~s ~s ~b ", [Version, node(), Lines + 1]),
    case gen_tcp:send(Socket, [Prefix, Line, io_lib:format(" words=~b of ~b~n", [Sum, All])]) of
        ok -> next(State#line{lines = Lines + 1, words = Sum});
        {error, _Closed} -> {stop, normal, State}
    end.

next(#line{socket = Socket} = State) ->
    case inet:setopts(Socket, [{active, once}]) of
        ok -> {noreply, State};
        {error, _Closed} -> {stop, normal, State}
    end.
