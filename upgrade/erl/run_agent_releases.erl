%% What release_handler knows, and the small steps around an install. Interpreted on the node.
%%
%% No function here deletes a file: release_handler:remove_release/1 would delete what the running
%% version shares with the one removed, since it takes lib/NAME and ROOT/lib/NAME for different
%% libraries, and all of lib where RELEASES had been missing when the node started.
-module(run_agent_releases).

-export([relup/1, set_unpacked/1, make_permanent/1, remove/1]).

%% none, or {Version, Up, Down} with each way as {OtherVersion, RestartsTheEmulator}.
relup(Path) ->
    case file:consult(Path) of
        {ok, [{Version, Up, Down}]} when is_list(Up), is_list(Down) ->
            {Version, [way(Way) || Way <- Up], [way(Way) || Way <- Down]};
        {error, enoent} ->
            none;
        {error, Reason} ->
            cannot("read ~ts: ~ts; have the release built again", [Path, file:format_error(Reason)]);
        {ok, _} ->
            no_relup(Path)
    end.

set_unpacked(RelFile) ->
    sound(),
    case release_handler:set_unpacked(RelFile, []) of
        {ok, _Version} -> ok;
        {error, {existing_release, Version}} -> cannot("add ~ts: the node knows it already", [Version]);
        {error, _} -> cannot("add the release of ~ts: it cannot be read as a .rel file", [RelFile])
    end.

make_permanent(Version) ->
    sound(),
    case release_handler:make_permanent(Version) of
        ok -> ok;
        {error, {bad_status, Status}} -> cannot("make ~ts permanent: it is ~ts", [Version, Status]);
        {error, {no_such_release, _}} -> cannot("make ~ts permanent: the node has no such version", [Version]);
        {error, {_, File}} -> cannot("make ~ts permanent: look at ~0tp", [Version, File]);
        {error, _} -> cannot("make ~ts permanent: release_handler failed", [Version])
    end.

remove(Version) ->
    case lists:keyfind(Version, 2, known()) of
        false ->
            ok;
        {_, _, _, Status} when Status =:= unpacked; Status =:= old ->
            sound(),
            ok = release_handler:set_removed(Version);
        {_, _, _, Status} ->
            cannot("remove ~ts: it is the ~ts version", [Version, Status])
    end.

known() ->
    release_handler:which_releases().

way({Version, _Description, Instructions}) when is_list(Instructions) ->
    Restarts = lists:member(restart_new_emulator, Instructions) orelse
        lists:member(restart_emulator, Instructions),
    {Version, Restarts};
way(_) ->
    no_relup("the relup").

no_relup(Path) ->
    cannot("read ~ts: it is no relup; have the release built again", [Path]).

%% See to it that RELEASES, which release_handler writes from what it has in memory, is whole. Where
%% it is missing, or a full disk has cut it, one release is all that can be written without guessing.
sound() ->
    Path = filename:join(releases_folder(), "RELEASES"),
    case {file:consult(Path), known()} of
        {{error, _}, [{Name, Version, _, permanent}]} ->
            create(filename:dirname(Path), Name, Version);
        {{ok, []}, [{Name, Version, _, permanent}]} ->
            create(filename:dirname(Path), Name, Version);
        {{ok, [Releases]}, Known} ->
            Written = lists:sort([element(3, Release) || Release <- Releases]),
            Whole = lists:sort([Version || {_, Version, [_ | _], _} <- Known]),
            Written =:= Whole orelse unsound(Path);
        _ ->
            unsound(Path)
    end.

unsound(Path) ->
    cannot("change what the node knows of its releases: ~ts does not agree with it; "
        "restart the replica", [Path]).

%% With the root [] the paths of the libraries are relative, as in the file that a boot makes.
create(Folder, Name, Version) ->
    RelFile = filename:join([Folder, Version, Name ++ ".rel"]),
    case release_handler:create_RELEASES([], Folder, RelFile, []) of
        ok ->
            ok = supervisor:terminate_child(sasl_sup, release_handler),
            {ok, _} = supervisor:restart_child(sasl_sup, release_handler),
            ok;
        {error, _} ->
            cannot("make ~ts/RELEASES, which the release has not: look at ~ts", [Folder, RelFile])
    end.

%% Where release_handler itself looks for it when it starts.
releases_folder() ->
    case {application:get_env(sasl, releases_dir), os:getenv("RELDIR")} of
        {{ok, Folder}, _} -> Folder;
        {undefined, false} -> filename:join(code:root_dir(), "releases");
        {undefined, Folder} -> Folder
    end.

cannot(Format, Arguments) ->
    throw({cannot, lists:flatten(io_lib:format(Format, Arguments))}).
