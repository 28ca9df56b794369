%% @doc One HTTP/1.1 connection.
%%
%% `GET /' answers one line: version, node, connected nodes, counter, greeting, and what 0.2.0 adds.
%% `GET /env/NAME' answers the bytes of the environment variable NAME, or 404.
-module(hello_http).

-behaviour(gen_server).

-export([start_link/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(HEADERS_MS, 5000).

start_link(Socket) ->
    gen_server:start_link(?MODULE, Socket, []).

init(Socket) ->
    {ok, Socket}.

handle_call(_Request, _From, Socket) ->
    {reply, ok, Socket}.

handle_cast(serve, Socket) ->
    next(Socket).

handle_info({http, Socket, {http_request, Method, Target, Version}}, Socket) ->
    case headers(Socket, #{}) of
        {ok, Headers} -> respond(Socket, Method, Target, keeps(Version, Headers));
        {error, _Reason} -> {stop, normal, Socket}
    end;
handle_info({http, Socket, {http_error, _Line}}, Socket) ->
    send(Socket, 'GET', {400, <<"bad request\n">>}, false);
handle_info({tcp_closed, Socket}, Socket) ->
    {stop, normal, Socket};
handle_info({tcp_error, Socket, _Reason}, Socket) ->
    {stop, normal, Socket}.

next(Socket) ->
    case inet:setopts(Socket, [{active, once}]) of
        ok -> {noreply, Socket};
        {error, _Closed} -> {stop, normal, Socket}
    end.

headers(Socket, Headers) ->
    case gen_tcp:recv(Socket, 0, ?HEADERS_MS) of
        {ok, {http_header, _, Name, _, Value}} -> headers(Socket, Headers#{Name => Value});
        {ok, http_eoh} -> {ok, Headers};
        {ok, {http_error, Line}} -> {error, Line};
        {error, Reason} -> {error, Reason}
    end.

keeps(Version, Headers) ->
    case string:lowercase(maps:get('Connection', Headers, <<>>)) of
        <<"close">> -> false;
        <<"keep-alive">> -> true;
        _ -> Version >= {1, 1}
    end.

%% A body would have to be read before the next request, so other methods end the connection.
respond(Socket, Method, {abs_path, Path}, Keep) when Method =:= 'GET'; Method =:= 'HEAD' ->
    send(Socket, Method, route(Path), Keep);
respond(Socket, Method, _Target, _Keep) ->
    send(Socket, Method, {405, <<"only GET and HEAD\n">>}, false).

route(<<"/">>) ->
    {200, greet()};
route(<<"/env/", Name/binary>>) ->
    case variable(Name) of
        undefined -> {404, <<"not set\n">>};
        Value -> {200, Value}
    end;
route(_Path) ->
    {404, <<"not found\n">>}.

greet() ->
    {ok, Version} = application:get_key(hello, vsn),
    Nodes = lists:join($,, [atom_to_list(Node) || Node <- lists:sort(nodes())]),
    Line = io_lib:format(
        "version=~s node=~s nodes=~s count=~b greeting=~ts salute=~ts greeter=~s build=~s~n",
        [Version, node(), Nodes, hello_counter:next(), env(greeting), env(salute)] ++
            [greeter:greet(), hello_mishap:build()]
    ),
    unicode:characters_to_binary(Line).

env(Key) ->
    application:get_env(hello, Key, "").

%% The VM decodes the environment as it decodes file names; this is the way back.
variable(Name) ->
    case os:getenv(unicode:characters_to_list(Name)) of
        false -> undefined;
        Value -> unicode:characters_to_binary(Value, unicode, file:native_name_encoding())
    end.

send(Socket, Method, {Status, Body}, Keep) ->
    Head = io_lib:format(
        "HTTP/1.1 ~b ~s\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "Content-Length: ~b\r\nConnection: ~s\r\n\r\n",
        [Status, reason(Status), byte_size(Body), connection(Keep)]
    ),
    case gen_tcp:send(Socket, [Head | [Body || Method =/= 'HEAD']]) of
        ok when Keep -> next(Socket);
        _ClosedOrDone -> {stop, normal, Socket}
    end.

connection(true) -> "keep-alive";
connection(false) -> "close".

reason(200) -> "OK";
reason(400) -> "Bad Request";
reason(404) -> "Not Found";
reason(405) -> "Method Not Allowed".
