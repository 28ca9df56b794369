%% @doc Called as Ecto's is; it only tells what it would do. The node's environment decides:
%%
%%   HELLO_MIGRATE=raise       the second migration fails
%%   HELLO_MIGRATE_SECONDS=N   it takes N seconds, and a line is printed each 100 ms
-module('Elixir.Ecto.Migrator').

-export([run/3, run/4]).

-define(TICK_MS, 100).

run(Repo, Direction, Options) ->
    run(Repo, filename:join(code:priv_dir(hello), "repo/migrations"), Direction, Options).

run(Repo, Folder, up, [{all, true}]) ->
    hello = proplists:get_value(otp_app, Repo:config()),
    {ok, Files} = file:list_dir(Folder),
    Ticks = list_to_integer(os:getenv("HELLO_MIGRATE_SECONDS", "0")) * 1000 div ?TICK_MS,
    [tick(Tick) || Tick <- lists:seq(1, Ticks)],
    [migrate(File) || File <- lists:sort(Files)].

tick(Tick) ->
    timer:sleep(?TICK_MS),
    io:format("migrating: ~b ms~n", [Tick * ?TICK_MS]).

migrate(File) ->
    {Version, _Name} = string:to_integer(File),
    case {Version, os:getenv("HELLO_MIGRATE")} of
        {2, "raise"} -> error(asked_to_raise);
        _ -> io:format("migrated ~s~n", [File])
    end,
    Version.
