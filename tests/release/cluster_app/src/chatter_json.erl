%% Just enough JSON to read what the API lists: OTP 25 has none. Escapes in strings stay.
-module(chatter_json).

-export([decode/1]).

-define(TOKENS, "[][{},:]|\"(?:[^\"\\\\]|\\\\.)*\"|[^][{},:\"\\s]+").

decode(Text) ->
    {match, Matches} = re:run(Text, ?TOKENS, [global, {capture, first, binary}]),
    {Value, []} = value([Token || [Token] <- Matches]),
    Value.

value([<<"{">>, <<"}">> | Rest]) -> {#{}, Rest};
value([<<"{">> | Rest]) -> object(Rest, #{});
value([<<"[">>, <<"]">> | Rest]) -> {[], Rest};
value([<<"[">> | Rest]) -> list(Rest, []);
value([Token | Rest]) -> {scalar(Token), Rest}.

object([Key, <<":">> | Rest], Object) ->
    {Value, [Next | More]} = value(Rest),
    Longer = Object#{scalar(Key) => Value},
    case Next of
        <<",">> -> object(More, Longer);
        <<"}">> -> {Longer, More}
    end.

list(Tokens, List) ->
    {Value, [Next | More]} = value(Tokens),
    case Next of
        <<",">> -> list(More, [Value | List]);
        <<"]">> -> {lists:reverse(List, [Value]), More}
    end.

scalar(<<"\"", Text/binary>>) -> binary:part(Text, 0, byte_size(Text) - 1);
scalar(Word) -> Word.
