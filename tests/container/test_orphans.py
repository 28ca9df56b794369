"""Whatever loses its parent in the container is reaped by PID 1, at once."""

from support.wait import until

ORPHANS = 500

FORKS = f"""
trap 'exit 7' TERM
for number in {{1..{ORPHANS}}}; do (true & true &); done
(setsid sleep 600 &)
(setsid bash -c '(sleep 0.1 & exit 3) & exec sleep 0.2' &)
echo done
exec 3<> <(:)
while :; do read -t 0.05 -u 3; done
"""
"""Leaves orphans that end at once, a chain of them that ends later, and one that stays."""


def test_no_zombie_stays_and_what_runs_on_is_let_alone(host):
    replica = host.boot("bash", "-c", FORKS, verb=("exec", "--")).until_ready()
    replica.until_printed("done")
    until_only_the_last_sleeps(replica)
    assert replica.term().wait() == 7


def test_what_a_command_beside_the_release_leaves_is_reaped(host):
    replica = host.boot("sleep", "600", verb=("exec", "--")).until_ready()
    line = "for number in {1..20}; do (true &); (setsid sleep 0.1 &) done"
    assert replica.exec("bash", "-c", line).returncode == 0
    until_only_the_last_sleeps(replica)
    assert replica.term().wait() == 143


def until_only_the_last_sleeps(replica):
    """Wait until the others have ended, and nobody is a zombie any more."""

    def sleeping():
        commands = replica.commands().values()
        return {command for command in commands if command.startswith("sleep")}

    until(lambda: sleeping() == {"sleep 600"}, lambda: f"they run: {replica.commands()}")
    until(lambda: not replica.zombies(), lambda: f"zombies: {replica.zombies()}")
