%% @doc One connection of the line protocol: every line is answered `VERSION NODE N LINE', N being
%% how many lines this connection has sent. `quit' ends it.
-module(hello_line).

-behaviour(gen_server).

-export([start_link/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, code_change/3]).

start_link(Socket) ->
    gen_server:start_link(?MODULE, Socket, []).

init(Socket) ->
    {ok, #{socket => Socket, lines => 0}}.

handle_call(_Request, _From, State) ->
    {reply, ok, State}.

handle_cast(serve, State) ->
    next(State).

handle_info({tcp, Socket, Data}, #{socket := Socket} = State) ->
    case hd(binary:split(Data, [<<"\r\n">>, <<"\n">>])) of
        <<"quit">> -> {stop, normal, State};
        Line -> reply(Line, State)
    end;
handle_info({tcp_closed, Socket}, #{socket := Socket} = State) ->
    {stop, normal, State};
handle_info({tcp_error, Socket, _Reason}, #{socket := Socket} = State) ->
    {stop, normal, State}.

code_change(_OldVersion, State, _Extra) ->
    {ok, State}.

reply(Line, #{socket := Socket, lines := Lines} = State) ->
    {ok, Version} = application:get_key(hello, vsn),
    Prefix = io_lib:format("~s ~s ~b ", [Version, node(), Lines + 1]),
    case gen_tcp:send(Socket, [Prefix, Line, $\n]) of
        ok -> next(State#{lines := Lines + 1});
        {error, _Closed} -> {stop, normal, State}
    end.

next(#{socket := Socket} = State) ->
    case inet:setopts(Socket, [{active, once}]) of
        ok -> {noreply, State};
        {error, _Closed} -> {stop, normal, State}
    end.
