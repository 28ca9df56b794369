%% Gives the running node another environment, and its applications the configuration that comes of
%% it; all of it or nothing. Every text that leaves is for people and holds no configuration value
%% of its own accord; run-agent takes out what an exception's message may quote.
-module(run_agent_reconfigure).
-export([change/4]).

%% `Set` is [{Name, Value}], `Unset` is [Name]. `How` is {providers, SysConfig}, or {texts, Before,
%% Now} where the release tool has replaced variables in a sys.config. Answers with one of
%%   {done, [{App, Keys}]}
%%   {failed, What, Why}           everything is as it was
%%   {broken, What, Why, Apps}     Apps did not take their old configuration back
change(How, Set, Unset, Seconds) ->
    Until = now_ms() + Seconds * 1000,
    case bounded(Until, fun() -> configuration(How, before) end) of
        {failed, Why} ->
            {failed, "the present configuration", Why};
        {ended, Before} ->
            {Former, Absent} = run_agent_environment:put(Set, Unset),
            Answer = change_to(How, Before, Until),
            [run_agent_environment:put(Former, Absent) || element(1, Answer) =/= done],
            Answer
    end.

change_to(How, Before, Until) ->
    case bounded(Until, fun() -> configuration(How, now) end) of
        {failed, Why} -> {failed, "the new configuration", Why};
        {ended, Now} -> change_applications(Before, Now, Until)
    end.

%% One map of {App, Key} => Value. A sys.config may also name other files: nothing replaces
%% variables in those, so they cannot differ.
configuration({providers, SysConfig}, _) ->
    flat(run_agent_configuration:computed(SysConfig));
configuration({texts, Before, _}, before) ->
    flat(parsed(Before));
configuration({texts, _, Now}, now) ->
    flat(parsed(Now)).

parsed(Text) ->
    case erl_scan:string(Text) of
        {ok, Tokens, _} ->
            case erl_parse:parse_term(Tokens) of
                {ok, Term} when is_list(Term) -> Term;
                {ok, _} -> throw({cannot, "read sys.config: it holds no list"});
                {error, Error} -> throw({cannot, syntax_error(Error)})
            end;
        {error, Error, _} ->
            throw({cannot, syntax_error(Error)})
    end.

%% Without the parser's own words: they quote the text.
syntax_error({Line, _, _}) when is_integer(Line) ->
    lists:flatten(io_lib:format("read sys.config: line ~b is no Erlang", [Line]));
syntax_error(_) ->
    "read sys.config: it is no Erlang".

flat(Configuration) ->
    maps:from_list(
        [{{App, Key}, Value} || {App, Keys} <- Configuration, {Key, Value} <- Keys]).

%% What the application has set by itself, and no configuration names, is left alone.
change_applications(Before, Now, Until) ->
    Set = [{Place, Value} || {Place, Value} <- maps:to_list(Now),
                             maps:find(Place, Before) =/= {ok, Value}],
    Gone = [Place || Place <- maps:keys(Before), not maps:is_key(Place, Now)],
    Places = lists:sort(Gone ++ [Place || {Place, _} <- Set]),
    Former = environments(Places),
    [application:set_env(App, Key, Value, [{persistent, true}]) || {{App, Key}, Value} <- Set],
    [remove(App, Key) || {App, Key} <- Gone],
    case tell_all(Former, Until, []) of
        ok -> {done, keys_by_application(Places)};
        {failed, App, Why, Told} -> take_back(App, Why, Told, Before, Places, Former)
    end.

environments(Places) ->
    [{App, application:get_all_env(App)} || App <- lists:usort([App || {App, _} <- Places])].

keys_by_application(Places) ->
    [{atom_to_list(App), [atom_to_list(Key) || {Of, Key} <- Places, Of =:= App]}
     || App <- lists:usort([App || {App, _} <- Places])].

%% A key that nobody configures has the value that the application's own .app file gives it.
remove(App, Key) ->
    application:unset_env(App, Key, [{persistent, true}]),
    [application:set_env(App, Key, Value) || {Name, Value} <- defaults(App), Name =:= Key].

defaults(App) ->
    case code:where_is_file(atom_to_list(App) ++ ".app") of
        non_existing ->
            [];
        Path ->
            case file:consult(Path) of
                {ok, [{application, App, Properties}]} -> proplists:get_value(env, Properties, []);
                _ -> []
            end
    end.

%% Only what is started has somebody to be told.
tell_all([], _, _) ->
    ok;
tell_all([{App, Former} | Rest], Until, Told) ->
    case tell(App, Former, application:get_all_env(App), Until) of
        nobody -> tell_all(Rest, Until, Told);
        {ended, {error, Reason}} ->
            Why = lists:flatten(io_lib:format("it returned an error: ~tP", [Reason, 8])),
            {failed, App, Why, [App | Told]};
        {ended, _} -> tell_all(Rest, Until, [App | Told]);
        {failed, Why} -> {failed, App, Why, [App | Told]}
    end.

tell(App, Former, Present, Until) ->
    {Known, New} = lists:partition(fun({Key, _}) -> lists:keymember(Key, 1, Former) end, Present),
    Changed = Known -- Former,
    Removed = [Key || {Key, _} <- Former, not lists:keymember(Key, 1, Present)],
    case {Changed, New, Removed, callback(App)} of
        {[], [], [], _} -> nobody;
        {_, _, _, none} -> nobody;
        {_, _, _, Module} ->
            bounded(Until, fun() -> Module:config_change(Changed, New, Removed) end)
    end.

callback(App) ->
    case lists:keymember(App, 1, application:which_applications()) andalso
        application:get_key(App, mod) of
        {ok, {Module, _}} ->
            code:ensure_loaded(Module),
            case erlang:function_exported(Module, config_change, 3) of
                true -> Module;
                false -> none
            end;
        _ ->
            none
    end.

%% What is configured is what was, and what is set as well: an application may have changed it.
take_back(App, Why, Told, Before, Places, Former) ->
    Present = environments(Places),
    [put_back(Place, Before, proplists:get_value(element(1, Place), Former)) || Place <- Places],
    Until = now_ms() + 10000,
    Lost = [Each || Each <- Told, is_lost(
        tell(Each, proplists:get_value(Each, Present), application:get_all_env(Each), Until))],
    What = lists:concat([App, " does not take its new configuration"]),
    case Lost of
        [] -> {failed, What, Why};
        _ -> {broken, What, Why, [atom_to_list(Each) || Each <- Lost]}
    end.

put_back({App, Key}, Before, Former) ->
    case Before of
        #{{App, Key} := Value} -> application:set_env(App, Key, Value, [{persistent, true}]);
        #{} -> application:unset_env(App, Key, [{persistent, true}])
    end,
    case lists:keyfind(Key, 1, Former) of
        {_, Was} -> application:set_env(App, Key, Was);
        false -> application:unset_env(App, Key)
    end.

is_lost({failed, _}) -> true;
is_lost({ended, {error, _}}) -> true;
is_lost(_) -> false.

%% In a process of its own: what hangs is killed, and what it leaves in its mailbox goes with it.
bounded(Until, Work) ->
    {Pid, Monitor} = spawn_monitor(fun() -> exit({run_agent, outcome(Work)}) end),
    receive
        {'DOWN', Monitor, process, Pid, {run_agent, Outcome}} -> Outcome;
        {'DOWN', Monitor, process, Pid, Reason} -> {failed, shown(exit, Reason, [])}
    after max(0, Until - now_ms()) ->
        exit(Pid, kill),
        erlang:demonitor(Monitor, [flush]),
        {failed, "it does not come to an end"}
    end.

outcome(Work) ->
    try
        {ended, Work()}
    catch
        throw:{cannot, Why} -> {failed, "cannot " ++ Why};
        Class:Reason:Stack -> {failed, shown(Class, Reason, Stack)}
    end.

%% In Elixir's words where there is Elixir. Without the stack: it holds arguments, which are values.
shown(Class, Reason, Stack) ->
    Text = case code:ensure_loaded('Elixir.Exception') of
        {module, Exception} -> Exception:format_banner(Class, Reason, Stack);
        {error, _} -> io_lib:format("~tp: ~tP", [Class, Reason, 8])
    end,
    unicode:characters_to_list(Text).

now_ms() ->
    erlang:monotonic_time(millisecond).
