#!/usr/bin/env escript
%%! -noinput
%% What systools(3) makes of release trees:
%%   relup WAY REL OLD_REL...   writes `relup' beside REL, from and to each OLD_REL;
%%                              WAY is usual, one_way, restarting or rebooting
%%   tar REL FOLDER             writes FOLDER/NAME.tar.gz
%% A REL is TREE/releases/VERSION/NAME, without its `.rel'.

main(["relup", Way, Rel | Olds]) ->
    Down = [Old || Old <- Olds, Way =/= "one_way"],
    Paths = [ebins(Tree) || Tree <- [Rel | Olds]],
    Options = [restart_emulator || Way =:= "rebooting"],
    {ok, Relup, systools_relup, _Warnings} =
        systools:make_relup(Rel, Olds, Down, [silent, noexec, {path, Paths} | Options]),
    Text = io_lib:format("~p.~n", [altered(Way, Relup)]),
    ok = file:write_file(filename:join(filename:dirname(Rel), "relup"), Text);
main(["tar", Rel, Folder]) ->
    {ok, systools_make, _Warnings} =
        systools:make_tar(Rel, [silent, {path, [ebins(Rel)]}, {outdir, Folder}]).

ebins(Rel) ->
    filename:join([filename:dirname(Rel), "..", "..", "lib", "*", "ebin"]).

altered("restarting", {Version, Up, Down}) ->
    {Version, restarted(Up), restarted(Down)};
altered(_Way, Relup) ->
    Relup.

restarted(Ways) ->
    [{Version, Text, [restart_new_emulator | Steps]} || {Version, Text, Steps} <- Ways].
