%% The node's OS environment, and a sys.config in force. Interpreted on the node, never loaded.
-module(run_agent_environment).

-export([put/2, put_for_now/3, put_back/1, keep/0, enforce/1]).

%% Set the variables `Set`, [{Name, Value}], and unset `Unset`, [Name]. Returns {Set, Unset} as
%% put/2 takes them to make this undone.
put(Set, Unset) ->
    change(Set, Unset).

%% As put/2, but undone where the emulator restarts before put_back/1 or keep/0 is called, at most
%% `Milliseconds` later: the version that it restarts with reads the variables again.
put_for_now(Set, Unset, Milliseconds) ->
    keep(),
    {PutBack, UnsetAgain} = Before = change(Set, Unset),
    Caller = self(),
    Guard = spawn(fun() ->
        Handler = monitor(process, release_handler),
        Caller ! {self(), watches},
        receive
            {'DOWN', Handler, process, _, _} ->
                case init:get_status() of
                    {stopping, _} -> change(PutBack, UnsetAgain);
                    _ -> ok
                end;
            keep ->
                ok
        after Milliseconds -> ok
        end
    end),
    receive
        {Guard, watches} -> true = register(run_agent_environment_guard, Guard)
    end,
    Before.

%% Undo put_for_now/3, which has returned `Before`.
put_back({Set, Unset}) ->
    keep(),
    change(Set, Unset).

%% Let what put_for_now/3 has put stay.
keep() ->
    case whereis(run_agent_environment_guard) of
        undefined ->
            kept;
        Guard ->
            Ended = monitor(process, Guard),
            Guard ! keep,
            receive
                {'DOWN', Ended, process, _, _} -> kept
            end
    end.

change(Set, Unset) ->
    Names = [Name || {Name, _} <- Set] ++ Unset,
    Before = [{Name, os:getenv(Name)} || Name <- Names],
    [os:putenv(Name, Value) || {Name, Value} <- Set],
    [os:unsetenv(Name) || Name <- Unset],
    {
        [{Name, Value} || {Name, Value} <- Before, Value =/= false],
        [Name || {Name, false} <- Before]
    }.

%% See to it that what the sys.config at `Path` says is the application environment. Returns
%% {Mended, Other}: the keys, as "APP KEY", that were not as it says and now are, and those that
%% are not even so, since the application itself has changed them again.
enforce(Path) ->
    Config = run_agent_configuration:read(Path),
    case run_agent_configuration:differences(Config) of
        [] ->
            {[], []};
        Different ->
            Before = application_controller:prep_config_change(),
            [
                application:set_env(App, Key, Value)
             || {App, Keys} <- Config,
                {Key, Value} <- Keys,
                lists:member({App, Key}, Different)
            ],
            _ = application_controller:config_change(Before),
            Other = run_agent_configuration:differences(Config),
            {names(Different -- Other), names([Key || Key <- Other, lists:member(Key, Different)])}
    end.

names(Keys) ->
    [lists:flatten(io_lib:format("~tw ~tw", [App, Key])) || {App, Key} <- Keys].
