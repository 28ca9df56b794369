%% One install by release_handler, with the configuration that a fresh boot would compute.
%% Interpreted on the node.
-module(run_agent_install).

-export([install/4, put_back/1]).

%% Install Version, whose files are in Folder (releases/VERSION), in an OS environment with Set,
%% [{Name, Value}], and without Unset, [Name]. Where it fails the environment is as before, soon
%% enough for a node that release_handler now restarts.
install(Version, Folder, Set, Unset) ->
    installed(release_handler:check_install_release(Version)),
    put_back(Folder),
    {Before, Missing} = run_agent_environment:put(Set, Unset),
    try
        Path = filename:join(Folder, "sys.config"),
        Providers = run_agent_configuration:providers(Path),
        Config = run_agent_configuration:computed(Path),
        Unwritable = write(Path, Config),
        try
            installed(release_handler:install_release(Version, [{update_paths, true}]))
        after
            put_back(Folder)
        end,
        set(Unwritable ++ corrected(Path, Config, Providers))
    catch
        Class:Reason ->
            run_agent_environment:put(Before, Missing),
            erlang:raise(Class, Reason, [])
    end.

%% Undo what an install that was cut off has left: the version's own sys.config.
put_back(Folder) ->
    case file:rename(original(Folder), filename:join(Folder, "sys.config")) of
        ok -> ok;
        {error, enoent} -> ok
    end.

original(Folder) ->
    filename:join(Folder, "sys.config.original").

%% Put Config in the place of the version's own, readable for nobody else; return the keys, as
%% {App, Key, Value}, whose values (functions, pids) no file can hold.
write(Path, Config) ->
    Unwritable =
        case written(Config) of
            true ->
                [];
            false ->
                [{App, Key, Value} || {App, Keys} <- Config, {Key, Value} <- Keys, not written(Value)]
        end,
    Left = [
        {App, [{Key, Value} || {Key, Value} <- Keys, not lists:member({App, Key, Value}, Unwritable)]}
     || {App, Keys} <- Config
    ],
    New = Path ++ ".new",
    _ = file:delete(New),
    {ok, Device} = file:open(New, [write, exclusive, raw]),
    ok = file:change_mode(New, 8#600),
    ok = file:write(Device, text(Left)),
    ok = file:close(Device),
    ok = file:make_link(Path, original(filename:dirname(Path))),
    ok = file:rename(New, Path),
    Unwritable.

%% Whether what is read is what was written.
written(Term) ->
    {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(text(Term))),
    try erl_parse:parse_term(Tokens) of
        {ok, Read} -> Read =:= Term;
        {error, _} -> false
    catch
        error:_ -> false
    end.

text(Term) ->
    unicode:characters_to_binary(io_lib:format("%% coding: utf-8~n~tw.~n", [Term])).

%% What providers whose code is another one now make otherwise, as {App, Key, Value}.
corrected(Path, Config, Providers) ->
    case run_agent_configuration:providers(Path) of
        Providers ->
            [];
        _ ->
            [
                {App, Key, Value}
             || {App, Keys} <- run_agent_configuration:computed(Path),
                {Key, Value} <- Keys,
                not lists:member({Key, Value}, proplists:get_value(App, Config, []))
            ]
    end.

set([]) ->
    ok;
set(Values) ->
    Before = application_controller:prep_config_change(),
    [application:set_env(App, Key, Value) || {App, Key, Value} <- Values],
    _ = application_controller:config_change(Before),
    ok.

installed({ok, _From, _Description}) -> ok;
installed({continue_after_restart, _From, _Description}) -> ok;
installed({error, Reason}) -> cannot("install: ~ts", [explained(Reason)]).

explained({no_such_release, Version}) ->
    io_lib:format("the node does not know ~ts", [Version]);
explained({already_installed, Version}) ->
    io_lib:format("~ts serves already", [Version]);
explained({no_such_from_vsn, Version}) ->
    io_lib:format("the relup has no way from ~ts", [Version]);
explained({enoent, Path}) ->
    % It has looked for the way up first, then for the way down.
    case filename:basename(Path) of
        "relup" -> "neither version has a relup from or to the other; have it built";
        _ -> explained({no_such_file, Path})
    end;
explained({no_such_file, Path}) ->
    io_lib:format("there is no ~ts", [Path]);
explained({bad_relup_file, Path}) ->
    io_lib:format("~ts is no relup", [Path]);
explained({old_processes, Module}) ->
    io_lib:format("a process still runs old code of ~tw; try again once it has ended", [Module]);
explained({code_change_failed, _Process, Module, _Version, _Reason}) ->
    io_lib:format("code_change of ~tw failed, and the node restarts itself", [Module]);
%% A process may show its state in what it died of, so only the first words of it are told.
explained(Reason) ->
    io_lib:format("release_handler failed: ~ts", [words(Reason)]).

words(Reason) when is_atom(Reason) -> atom_to_list(Reason);
words(Reason) when is_tuple(Reason), tuple_size(Reason) > 0 -> words(element(1, Reason));
words(_) -> "see the app's log".

cannot(Format, Arguments) ->
    throw({cannot, lists:flatten(io_lib:format(Format, Arguments))}).
