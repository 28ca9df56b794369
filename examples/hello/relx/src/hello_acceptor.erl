%% @doc Owns a listening socket and hands each connection to a process of its own.
-module(hello_acceptor).

-export([start_link/3, init/3, accept/2]).

%% So often the loop calls itself by its full name, and a hot upgrade takes it along.
-define(ACCEPT_MS, 1000).

%% Out of file descriptors: time for connections to close, instead of a busy loop.
-define(EXHAUSTED_MS, 100).

%% The longest header, or line, that arrives in one piece.
-define(LINE_BYTES, 16384).

start_link(Connections, Packet, Port) ->
    proc_lib:start_link(?MODULE, init, [Connections, Packet, Port]).

init(Connections, Packet, Port) ->
    Options = [
        binary,
        {packet, Packet},
        {buffer, ?LINE_BYTES},
        {active, false},
        {backlog, 1024},
        {reuseaddr, true},
        {nodelay, true}
    ],
    case gen_tcp:listen(Port, Options) of
        {ok, Listen} ->
            proc_lib:init_ack({ok, self()}),
            accept(Listen, Connections);
        {error, Reason} ->
            proc_lib:init_ack({error, {listen, Port, Reason}})
    end.

accept(Listen, Connections) ->
    case gen_tcp:accept(Listen, ?ACCEPT_MS) of
        {ok, Socket} -> hand_over(Socket, Connections);
        {error, Reason} when Reason =:= emfile; Reason =:= enfile -> timer:sleep(?EXHAUSTED_MS);
        {error, Reason} when Reason =:= timeout; Reason =:= econnaborted -> ok
    end,
    ?MODULE:accept(Listen, Connections).

%% The connection becomes active only once it belongs to its process: nothing is lost.
hand_over(Socket, Connections) ->
    {ok, Pid} = supervisor:start_child(Connections, [Socket]),
    ok = gen_tcp:controlling_process(Socket, Pid),
    gen_server:cast(Pid, serve).
