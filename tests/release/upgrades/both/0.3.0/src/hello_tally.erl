%% @doc How many words all connections have sent: a process that 0.3.0 adds to the tree.
-module(hello_tally).

-behaviour(gen_server).

-export([start_link/0, add/1]).
-export([init/1, handle_call/3, handle_cast/2]).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc Add the words of `Line'; returns how many these are, and how many there are by now.
add(Line) ->
    Words = length(binary:split(Line, <<" ">>, [global, trim_all])),
    {Words, gen_server:call(?MODULE, {add, Words})}.

init([]) ->
    {ok, 0}.

handle_call({add, Words}, _From, Total) ->
    {reply, Total + Words, Total + Words}.

handle_cast(_Request, Total) ->
    {noreply, Total}.
