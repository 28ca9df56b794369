%% @doc Greets, and counts how often.
-module(greeter).

-behaviour(gen_server).

-export([start_link/0, greet/0]).
-export([init/1, handle_call/3, handle_cast/2, code_change/3]).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc A greeting with its number: the state that an upgrade has to keep.
greet() ->
    gen_server:call(?MODULE, greet).

init([]) ->
    {ok, #{count => 0}}.

handle_call(greet, _From, #{count := Count}) ->
    {reply, io_lib:format("welcome-~b", [Count + 1]), #{count => Count + 1}}.

handle_cast(_Request, State) ->
    {noreply, State}.

code_change({down, _Version}, #{count := Count}, _Extra) ->
    {ok, Count};
code_change(_OldVersion, Count, _Extra) ->
    {ok, #{count => Count}}.
