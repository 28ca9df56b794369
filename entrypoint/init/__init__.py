"""PID 1: small, standard library only, and the one process that must never fail.

It opens the sockets, starts the release and the agent as siblings, reaps every orphan, passes
signals on, answers the probes, runs the stop clock and owns the exit code. It reads no setting
and parses no answer from outside: `run-agent init` validates the settings and replaces itself
by `python -m entrypoint.init OPTIONS`, so that nothing needed only at the start stays in memory.

`supervisor` is the loop and the decisions; the other modules are its parts.
"""
