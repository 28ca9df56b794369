%% @doc The application callback, and its only supervisor.
-module(greeter_sup).

-behaviour(application).
-behaviour(supervisor).

-export([start/2, stop/1, init/1]).

start(_Type, _Args) ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

stop(_State) ->
    ok.

init([]) ->
    {ok, {#{}, [#{id => greeter, start => {greeter, start_link, []}}]}}.
