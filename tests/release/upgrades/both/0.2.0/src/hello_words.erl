%% @doc Counts words: a module that 0.2.0 adds and 0.3.0 removes.
-module(hello_words).

-export([count/1]).

count(Line) ->
    length(binary:split(Line, <<" ">>, [global, trim_all])).
