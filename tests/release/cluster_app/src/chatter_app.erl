%% The tree: what finds the peers, and what talks to them. HTTP is inets' own.
-module(chatter_app).
-behaviour(application).
-behaviour(supervisor).

-export([start/2, stop/1, init/1]).

start(_Type, _Arguments) ->
    {ok, _} = chatter_http:start(list_to_integer(os:getenv("PORT", "4000"))),
    supervisor:start_link({local, chatter_sup}, ?MODULE, []).

stop(_State) ->
    ok.

init([]) ->
    {ok, {#{}, [
        #{id => Module, start => {Module, start_link, []}}
     || Module <- [chatter_post, chatter_peers]
    ]}}.
