%% `GET /` tells the version, the node and the connected nodes, `GET /tally` what came from whom,
%% `GET /peers` the outcome of the last look for peers, `GET /env/NAME` a variable.
-module(chatter_http).

-export([start/1, do/1]).

-include_lib("inets/include/httpd.hrl").

start(Port) ->
    inets:start(httpd, [
        {port, Port},
        {bind_address, any},
        {server_name, "chatter"},
        {server_root, "/"},
        {document_root, "/"},
        {max_keep_alive_request, 1000000},
        {modules, [?MODULE]}
    ]).

do(#mod{request_uri = Path}) ->
    {Status, Text} = answer(Path),
    {proceed, [{response, {Status, unicode:characters_to_list(Text)}}]}.

answer("/") ->
    {ok, Version} = application:get_key(chatter, vsn),
    {200, io_lib:format("version=~s node=~s nodes=~s~n", [Version, node(), connected()])};
answer("/tally") ->
    {200, chatter_post:tally()};
answer("/peers") ->
    {200, chatter_peers:last()};
answer("/env/" ++ Name) ->
    case os:getenv(Name) of
        false -> {404, "not set\n"};
        Value -> {200, Value}
    end;
answer(_Path) ->
    {404, "not found\n"}.

connected() ->
    lists:join($,, [atom_to_list(Node) || Node <- lists:sort(nodes())]).
