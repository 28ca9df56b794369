%% @doc The application callback.
-module(hello_app).

-behaviour(application).

-export([start/2, prep_stop/1, stop/1]).

start(_Type, _Args) ->
    ok = hello_faults:starting(),
    hello_sup:start_link().

prep_stop(State) ->
    ok = hello_faults:stopping(),
    State.

stop(_State) ->
    ok.
