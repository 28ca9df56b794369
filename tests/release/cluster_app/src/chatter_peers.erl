%% Finds the other nodes as a Kubernetes strategy does: asks the API every second for the endpoints
%% with our label, and connects to each ready address. Reads the mounted token and certificate
%% anew each time, since both are replaced while we run. A failure is kept, and tried again.
-module(chatter_peers).
-behaviour(gen_server).

-export([start_link/0, last/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

%% The name that every API server's certificate has; OTP 25 compares no address given as text.
-define(API, "kubernetes.default.svc").

-define(POLL_MS, 1000).
-define(ANSWER_MS, 3000).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% The outcome of the last look, as a line of text.
last() ->
    gen_server:call(?MODULE, last, 2 * ?ANSWER_MS).

init([]) ->
    self() ! look,
    {ok, "not yet\n"}.

handle_call(last, _From, Last) ->
    {reply, Last, Last}.

handle_cast(_Message, Last) ->
    {noreply, Last}.

handle_info(look, _Last) ->
    erlang:send_after(?POLL_MS, self(), look),
    {noreply, look()};
handle_info(_Message, Last) ->  % an answer that came too late
    {noreply, Last}.

look() ->
    try addresses(ask()) of
        Addresses ->
            Nodes = [node_at(Address) || Address <- Addresses],
            [net_kernel:connect_node(Node) || Node <- Nodes -- [node() | nodes()]],
            io_lib:format("found ~w~n", [length(Nodes)])
    catch
        _Class:Reason -> io_lib:format("failed ~0p~n", [Reason])
    end.

ask() ->
    Folder = filename:join(os:getenv("RUN_AGENT_ROOT"), secrets()),
    {ok, Token} = file:read_file(filename:join(Folder, "token")),
    {ok, Namespace} = file:read_file(filename:join(Folder, "namespace")),
    Query = uri_string:compose_query(
        [{"labelSelector", os:getenv("LIBCLUSTER_KUBERNETES_SELECTOR")}]
    ),
    Url = io_lib:format("https://~s:~s/api/v1/namespaces/~s/endpoints?~s", [
        os:getenv("KUBERNETES_SERVICE_HOST"),
        os:getenv("KUBERNETES_SERVICE_PORT"),
        Namespace,
        Query
    ]),
    Headers = [{"authorization", "Bearer " ++ string:trim(binary_to_list(Token))}],
    Tls = [
        {verify, verify_peer},
        {cacertfile, filename:join(Folder, "ca.crt")},
        {server_name_indication, ?API}
    ],
    Options = [{timeout, ?ANSWER_MS}, {connect_timeout, ?ANSWER_MS}, {ssl, Tls}],
    Request = {lists:flatten(Url), Headers},
    case httpc:request(get, Request, Options, [{body_format, binary}]) of
        {ok, {{_, 200, _}, _, Body}} -> chatter_json:decode(Body);
        {ok, {{_, Status, _}, _, _}} -> error({status, Status});
        {error, Reason} -> error(Reason)
    end.

secrets() ->
    "var/run/secrets/kubernetes.io/serviceaccount".

addresses(#{<<"items">> := Items}) ->
    [
        Address
     || Item <- Items,
        Subset <- listed(<<"subsets">>, Item),
        #{<<"ip">> := Address} <- listed(<<"addresses">>, Subset)
    ].

listed(Key, Object) ->
    case Object of
        #{Key := List} when is_list(List) -> List;
        #{} -> []
    end.

node_at(Address) ->
    Name = os:getenv("LIBCLUSTER_KUBERNETES_NODE_BASENAME"),
    list_to_atom(lists:flatten(io_lib:format("~s@~s", [Name, Address]))).
