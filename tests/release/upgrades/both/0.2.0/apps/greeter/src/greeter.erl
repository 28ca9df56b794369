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
    {ok, 0}.

handle_call(greet, _From, Count) ->
    {reply, io_lib:format("hello-~b", [Count + 1]), Count + 1}.

handle_cast(_Request, Count) ->
    {noreply, Count}.

code_change(_OldVersion, Count, _Extra) ->
    {ok, Count}.
