%% @doc The top of the tree: the counter, then a listener for each port that is asked for.
%%
%% HTTP is served on PORT (4000), the line protocol on TCP_PORT where that is set.
-module(hello_sup).

-behaviour(supervisor).

-export([start_link/0, init/1]).

start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

init([]) ->
    Counter = #{id => hello_counter, start => {hello_counter, start_link, []}},
    {ok, {#{strategy => one_for_one}, [Counter | listeners()] ++ hello_mishap:children()}}.

listeners() ->
    Http = [
        hello_listener:child_spec(hello_http, http_bin, os:getenv("PORT", "4000"))
     || hello_faults:serves_http()
    ],
    Line = [
        hello_listener:child_spec(hello_line, line, Port)
     || Port <- [os:getenv("TCP_PORT")], Port =/= false
    ],
    Http ++ Line.
