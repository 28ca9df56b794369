%% The configuration that a fresh boot of a release would end with. Interpreted on the node.
%%
%% A configuration is [{Application, [{Key, Value}]}]. Values never appear in a reason.
-module(run_agent_configuration).

-export([read/1, computed/1, providers/1, differences/1]).

%% A sys.config with the files that it includes; of a key that is there twice the later one counts
%% (config(4)).
read(Path) ->
    Folder = filename:dirname(Path),
    lists:foldl(
        fun
            ({_, _} = Part, Config) -> overlaid(Config, [Part]);
            (Name, Config) -> overlaid(Config, consulted(included(Name, Folder)))
        end,
        [],
        consulted(Path)
    ).

%% What the sys.config says, and what Elixir's configuration providers, which it names, make of it
%% in the present OS environment.
computed(Path) ->
    Config = read(Path),
    case provider(Config) of
        none ->
            Config;
        {App, Key, Provider} ->
            {ok, _} = application:ensure_all_started(elixir),
            Libraries = libraries(Path),
            Booted = booted(App, Key, Provider, Config),
            Provided = with_new_modules(Libraries, fun() -> provided(Booted, Provider) end),
            Final = rebooted(Config, Provided, Provider),
            validate(maps:get(validate_compile_env, Provider, false), Final, Libraries),
            Final
    end.

%% The providers that the sys.config names, with the code by which they run: {Module, Md5}.
providers(Path) ->
    case provider(read(Path)) of
        none -> [];
        {_, _, #{providers := Providers}} -> [{Module, code(Module)} || {Module, _} <- Providers]
    end.

code(Module) ->
    case erlang:module_loaded(Module) of
        true -> Module:module_info(md5);
        false -> none
    end.

%% The keys of loaded applications, as {Application, Key}, for which the node has another value.
%% What its command line says (-APP KEY VALUE) wins over every configuration.
differences(Config) ->
    Loaded = [App || {App, _, _} <- application:loaded_applications()],
    [
        {App, Key}
     || {App, Keys} <- Config,
        lists:member(App, Loaded),
        {Key, Value} <- Keys,
        application:get_env(App, Key) =/= {ok, Value},
        not lists:member(atom_to_list(Key), given(App))
    ].

given(App) ->
    case init:get_argument(App) of
        {ok, Flags} -> [Key || Flag <- Flags, Key <- keys(Flag)];
        error -> []
    end.

keys([Key, _Value | More]) -> [Key | keys(More)];
keys(_) -> [].

consulted(Path) ->
    case file:consult(Path) of
        {ok, [Config]} when is_list(Config) -> Config;
        {ok, _} -> cannot("read ~ts: it is no configuration", [Path]);
        {error, Reason} when is_atom(Reason) ->
            cannot("read ~ts: ~ts", [Path, file:format_error(Reason)]);
        {error, {Line, _, _}} -> cannot("read ~ts: see its line ~w", [Path, Line])
    end.

%% Relative to the sys.config, or to where the VM was started.
included(Name, Folder) ->
    File = filename:rootname(Name, ".config") ++ ".config",
    Beside = filename:absname(File, Folder),
    case filelib:is_regular(Beside) of
        true -> Beside;
        false -> File
    end.

overlaid(Config, Others) ->
    lists:foldl(
        fun({App, Keys}, All) ->
            Before = proplists:get_value(App, All, []),
            lists:keystore(App, 1, All, {App, keys_overlaid(Before, Keys)})
        end,
        Config,
        Others
    ).

keys_overlaid(Keys, Others) ->
    lists:foldl(fun({Key, _} = Pair, All) -> lists:keystore(Key, 1, All, Pair) end, Keys, Others).

%% Elixir's boot looks in one place; which one has changed since 1.9.
provider(Config) ->
    Found = [
        {App, Key, Provider}
     || {App, Keys} <- Config,
        {Key, #{'__struct__' := 'Elixir.Config.Provider'} = Provider} <- Keys
    ],
    case Found of
        [] -> none;
        [First | _] -> First
    end.

%% What Elixir adds before the providers run: what the release was built with, and that they ran.
booted(App, Key, Provider, Config) ->
    Extra = maps:get(extra_config, Provider, []),
    Merged = 'Elixir.Config':'__merge__'(Config, Extra),
    case {reboots(Provider), Key} of
        {false, _} -> Merged;
        {true, config_provider_init} -> mark(elixir, config_provider_booted, {booted, nil}, Merged);
        {true, _} -> mark(App, Key, booted, Merged)
    end.

%% A node that has run them has its own mark, which may name a file of its boot.
mark(App, Key, Default, Config) ->
    Mark =
        case application:get_env(App, Key) of
            {ok, booted} -> booted;
            {ok, {booted, _} = Booted} -> Booted;
            _ -> Default
        end,
    overlaid(Config, [{App, [{Key, Mark}]}]).

reboots(Provider) ->
    Reboots = maps:get(reboot_after_config, Provider, true),
    not lists:member(maps:get(reboot_system_after_config, Provider, Reboots), [false, nil]).

provided(Config, Provider) ->
    lists:foldl(
        fun({Module, State}, Before) ->
            try Module:load(Before, State) of
                After when is_list(After) -> After;
                _ -> cannot("compute the configuration: ~ts returned none", [name(Module)])
            catch
                throw:{cannot, Reason} -> throw({cannot, Reason});
                Class:Reason -> failed(Module, Class, Reason)
            end
        end,
        Config,
        maps:get(providers, Provider)
    ).

%% Without the reboot a key that a provider leaves out stays as it was, and what is running by then
%% cannot be configured any more: Elixir refuses to boot.
rebooted(Config, Provided, Provider) ->
    case reboots(Provider) of
        true ->
            Provided;
        false ->
            Late = [
                App
             || App <- [kernel, stdlib],
                proplists:get_value(App, Config) =/= proplists:get_value(App, Provided)
            ],
            Late =:= [] orelse
                cannot("compute the configuration: it changes ~w, for which the release must be "
                    "built with reboot_system_after_config", [hd(Late)]),
            overlaid(Config, Provided)
    end.

%% The folders of the release's libraries, as far as the node knows the release.
libraries(Path) ->
    Version = filename:basename(filename:dirname(Path)),
    case lists:keyfind(Version, 2, release_handler:which_releases()) of
        {_, _, Names, _} -> [filename:join([code:root_dir(), "lib", Name]) || Name <- Names];
        false -> []
    end.

%% Run Fun with the modules that only the new release has. They are taken away again: which code
%% runs is release_handler's affair.
with_new_modules(Libraries, Fun) ->
    Running = [filename:absname(Folder) || Folder <- code:get_path()],
    Ebins = [filename:join(Library, "ebin") || Library <- Libraries],
    Modules = [
        {list_to_atom(filename:rootname(File)), filename:join(Ebin, filename:rootname(File))}
     || Ebin <- Ebins,
        not lists:member(Ebin, Running),
        File <- filelib:wildcard("*.beam", Ebin)
    ],
    New = [{Module, File} || {Module, File} <- Modules, code:which(Module) =:= non_existing],
    [{module, _} = code:load_abs(File) || {_, File} <- New],
    try
        Fun()
    after
        [code:delete(Module) andalso code:purge(Module) || {Module, _} <- New]
    end.

%% As Elixir does at every boot: what was compiled in must be what is configured.
validate(Expected, Config, Libraries) when is_list(Expected) ->
    Wrong = [
        {App, Path}
     || {App, [Key | Keys] = Path, Value} <- Expected,
        within(value(App, Key, Config, Libraries), Keys) =/= Value
    ],
    case Wrong of
        [] ->
            ok;
        [{App, [Key | _]} | _] ->
            cannot("compute the configuration: ~w ~w is not what the release was compiled with; "
                "build it again, or with validate_compile_env: false", [App, Key])
    end;
validate(_, _, _) ->
    ok.

value(App, Key, Config, Libraries) ->
    case lists:keyfind(Key, 1, proplists:get_value(App, Config, [])) of
        {_, Value} -> {ok, Value};
        false -> default(App, Key, Libraries)
    end.

%% What the application's own .app file says.
default(App, Key, Libraries) ->
    Name = atom_to_list(App),
    Files = [
        filename:join([Library, "ebin", Name ++ ".app"])
     || Library <- Libraries, lists:prefix(Name ++ "-", filename:basename(Library))
    ],
    case [Keys || File <- Files, {ok, [{application, _, Keys}]} <- [file:consult(File)]] of
        [Keys | _] ->
            case lists:keyfind(Key, 1, proplists:get_value(env, Keys, [])) of
                {_, Value} -> {ok, Value};
                false -> error
            end;
        [] ->
            error
    end.

within(Value, []) -> Value;
within(error, _) -> error;
within({ok, Value}, [Key | Keys]) -> within('Elixir.Access':fetch(Value, Key), Keys).

failed(Module, Class, Reason) ->
    cannot("compute the configuration: ~ts failed: ~ts", [name(Module), explained(Class, Reason)]).

explained(error, Reason) ->
    case 'Elixir.Exception':normalize(error, Reason) of
        #{'__struct__' := Name, file := File, line := Line, description := Text} when is_binary(Text) ->
            io_lib:format("~ts in ~ts, line ~w: ~ts", [name(Name), File, Line, Text]);
        #{'__struct__' := Name, message := Text} when is_binary(Text) ->
            io_lib:format("~ts: ~ts", [name(Name), Text]);
        #{'__struct__' := Name} = Exception ->
            explained_by_name(Name, Exception)
    end;
explained(Class, _) ->
    atom_to_list(Class).

%% Of these the message holds no value of the configuration; others repeat what they were given.
explained_by_name(Name, Exception) ->
    Plain = ['Elixir.System.EnvError', 'Elixir.UndefinedFunctionError', 'Elixir.File.Error'],
    case lists:member(Name, Plain) of
        true -> [name(Name), ": ", 'Elixir.Exception':message(Exception)];
        false -> name(Name)
    end.

name(Module) ->
    case atom_to_list(Module) of
        "Elixir." ++ Name -> Name;
        Name -> Name
    end.

cannot(Format, Arguments) ->
    throw({cannot, lists:flatten(io_lib:format(Format, Arguments))}).
