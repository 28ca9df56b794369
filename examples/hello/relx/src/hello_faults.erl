%% @doc Ways in which an application can misbehave, switched on by the environment, so that
%% run-agent can be seen to cope. An application of yours has no such module.
%%
%%   HELLO_START=crash  the application does not start, and the VM ends
%%   HELLO_PORT=none    a worker: no HTTP
%%   HELLO_STOP=slow    stopping takes a minute
%%   HELLO_ORPHANS=N    N processes are started that leave the VM's process group and session
-module(hello_faults).

-export([starting/0, stopping/0, serves_http/0]).

-define(SLOW_STOP_MS, 60_000).

starting() ->
    Orphans = list_to_integer(os:getenv("HELLO_ORPHANS", "0")),
    [os:cmd("setsid sleep 300 </dev/null >/dev/null 2>&1 &") || _ <- lists:seq(1, Orphans)],
    case os:getenv("HELLO_START") of
        "crash" -> {error, asked_to_crash};
        _ -> ok
    end.

stopping() ->
    [timer:sleep(?SLOW_STOP_MS) || os:getenv("HELLO_STOP") =:= "slow"],
    ok.

serves_http() ->
    os:getenv("HELLO_PORT") =/= "none".
