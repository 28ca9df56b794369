%% @doc One listening port: its connections, each a process of its own, and the acceptor.
%%
%% A protocol is a module with `start_link(Socket)'. Its connections end with the listener, but
%% outlive the acceptor.
-module(hello_listener).

-behaviour(supervisor).

-export([child_spec/3, start_link/3, start_connections/1, init/1]).

%% @doc The listener of `Protocol' on `Port'; `Packet' is how gen_tcp splits what arrives.
child_spec(Protocol, Packet, Port) ->
    #{
        id => {?MODULE, Protocol},
        type => supervisor,
        start => {?MODULE, start_link, [Protocol, Packet, list_to_integer(Port)]}
    }.

start_link(Protocol, Packet, Port) ->
    supervisor:start_link(?MODULE, {listener, Protocol, Packet, Port}).

start_connections(Protocol) ->
    supervisor:start_link({local, connections(Protocol)}, ?MODULE, {connections, Protocol}).

init({listener, Protocol, Packet, Port}) ->
    Connections = #{
        id => connections,
        type => supervisor,
        start => {?MODULE, start_connections, [Protocol]}
    },
    Acceptor = #{
        id => acceptor,
        start => {hello_acceptor, start_link, [connections(Protocol), Packet, Port]}
    },
    {ok, {#{strategy => rest_for_one}, [Connections, Acceptor]}};
init({connections, Protocol}) ->
    Connection = #{
        id => connection,
        restart => temporary,
        start => {Protocol, start_link, []}
    },
    {ok, {#{strategy => simple_one_for_one}, [Connection]}}.

connections(hello_http) -> hello_http_connections;
connections(hello_line) -> hello_line_connections.
