%% Sends numbers to the same process of every connected node, and checks what comes from there.
%%
%% A node asks its peer to send: `{send_to, Pid, Ref}`. The numbers of one Ref begin with 1, and
%% none may be missing or come out of turn: Erlang promises that as long as the connection stands.
%% Another connection has another Ref.
-module(chatter_post).
-behaviour(gen_server).

-export([start_link/0, tally/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, code_change/3]).

-define(NUMBER_MS, 5).
-define(ASK_MS, 200).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% A line for each node that was ever heard of, and how it went.
tally() ->
    gen_server:call(?MODULE, tally).

init([]) ->
    ok = net_kernel:monitor_nodes(true),
    self() ! number,
    self() ! ask,
    Tally = lists:foldl(fun chatter_tally:connected/2, chatter_tally:new(), nodes()),
    {ok, {Tally, #{}}}.

handle_call(tally, _From, {Tally, _} = State) ->
    {reply, chatter_tally:text(Tally), State}.

handle_cast(_Message, State) ->
    {noreply, State}.

handle_info({number, Node, Ref, Number}, {Tally, Sent}) ->
    {noreply, {chatter_tally:got(Node, Ref, Number, Tally), Sent}};
handle_info(number, {Tally, Sent}) ->
    erlang:send_after(?NUMBER_MS, self(), number),
    {noreply, {Tally, maps:map(fun send/2, Sent)}};
handle_info(ask, {Tally, _} = State) ->
    % The peer may have been connected before its application was there to hear.
    erlang:send_after(?ASK_MS, self(), ask),
    [ask(Node, Ref) || {Node, Ref} <- chatter_tally:silent(Tally)],
    {noreply, State};
handle_info({send_to, _Pid, Ref}, {_, Sent} = State) when is_map_key(Ref, Sent) ->
    {noreply, State};
handle_info({send_to, Pid, Ref}, {Tally, Sent}) ->
    {noreply, {Tally, Sent#{Ref => {Pid, monitor(process, Pid), 0}}}};
handle_info({'DOWN', Monitor, process, _Pid, _Reason}, {Tally, Sent}) ->
    Left = maps:filter(fun(_Ref, {_, Watching, _}) -> Watching =/= Monitor end, Sent),
    {noreply, {Tally, Left}};
handle_info({nodeup, Node}, {Tally, Sent}) ->
    {noreply, {chatter_tally:connected(Node, Tally), Sent}};
handle_info({nodedown, Node}, {Tally, Sent}) ->
    {noreply, {chatter_tally:gone(Node, Tally), Sent}}.

%% The tally's shape is another one in 1.1.0.
code_change(Version, {Tally, Sent}, _Extra) ->
    {ok, {chatter_tally:converted(Version, Tally), Sent}}.

ask(Node, Ref) ->
    erlang:send({?MODULE, Node}, {send_to, self(), Ref}, [noconnect]).

send(Ref, {Pid, Monitor, Number}) ->
    erlang:send(Pid, {number, node(), Ref, Number + 1}, [noconnect]),
    {Pid, Monitor, Number + 1}.
