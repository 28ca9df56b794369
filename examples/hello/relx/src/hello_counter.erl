%% @doc State that lives in a process: a counter that every request increments.
-module(hello_counter).

-behaviour(gen_server).

-export([start_link/0, next/0]).
-export([init/1, handle_call/3, handle_cast/2, code_change/3]).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc Increment the counter and return it.
next() ->
    gen_server:call(?MODULE, next).

init([]) ->
    {ok, 0}.

handle_call(next, _From, Count) ->
    {reply, Count + 1, Count + 1}.

handle_cast(_Request, Count) ->
    {noreply, Count}.

code_change(_OldVersion, Count, _Extra) ->
    {ok, Count}.
