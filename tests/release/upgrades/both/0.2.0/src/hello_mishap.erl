%% @doc What goes wrong with this build. A bad build differs from the good one in `build/0' only.
%%
%%   raising   code_change of the line connections raises
%%   crashing  a process that is new in the tree takes the whole application down after 2 s
%%   hanging   HTTP is not accepted any more, the node lives
-module(hello_mishap).

-behaviour(gen_server).

-export([build/0, changing/0, children/0, upgraded/1, downgrading/1, start_link/0]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(CRASH_MS, 2000).

%% @doc The name of this build; the build of a variant replaces it.
build() ->
    good.

%% @doc Called where the state of a connection is converted.
changing() ->
    changing(build()).

changing(raising) -> error(asked_to_raise);
changing(_Build) -> ok.

%% @doc What the tree of this build has in addition.
children() ->
    children(build()).

children(Build) when Build =:= crashing; Build =:= hanging ->
    [#{id => ?MODULE, start => {?MODULE, start_link, []}}];
children(_Build) ->
    [].

%% @doc Start them in a tree that runs, whether or not it has their specifications.
upgraded(Supervisor) ->
    [
        case supervisor:start_child(Supervisor, Child) of
            {ok, _Pid} -> ok;
            {error, already_present} -> {ok, _} = supervisor:restart_child(Supervisor, Id)
        end
     || #{id := Id} = Child <- children()
    ].

%% @doc Take them out of a tree that runs.
downgrading(Supervisor) ->
    [
        begin
            ok = supervisor:terminate_child(Supervisor, Id),
            ok = supervisor:delete_child(Supervisor, Id)
        end
     || #{id := Id} <- children()
    ].

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, build(), []).

init(crashing) ->
    {ok, erlang:send_after(?CRASH_MS, self(), crash)};
init(hanging) ->
    process_flag(trap_exit, true),
    {ok, [], {continue, stop_accepting}}.

handle_continue(stop_accepting, []) ->
    Listeners = [
        {Listener, Id}
     || {{_, Protocol}, Listener, _, _} <- supervisor:which_children(supervisor()),
        lists:member(Protocol, [hello_http, 'Elixir.Hello.HTTP']),
        {Id, _, worker, _} <- supervisor:which_children(Listener)
    ],
    [ok = supervisor:terminate_child(Listener, Id) || {Listener, Id} <- Listeners],
    {noreply, Listeners}.

handle_call(_Request, _From, State) ->
    {reply, ok, State}.

handle_cast(_Request, State) ->
    {noreply, State}.

handle_info(crash, State) ->
    exit(supervisor(), kill),
    {noreply, State}.

%% A downgrade mends it, as it would mend a mistake in the new code.
terminate(_Reason, Listeners) when is_list(Listeners) ->
    [supervisor:restart_child(Listener, Id) || {Listener, Id} <- Listeners];
terminate(_Reason, _Timer) ->
    ok.

supervisor() ->
    Names = [hello_sup, 'Elixir.Hello.Supervisor'],
    hd([Pid || Name <- Names, Pid <- [whereis(Name)], is_pid(Pid)]).
