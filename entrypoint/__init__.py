"""What the container executes: PID 1, the agent, and the `run-agent` command.

`init` is PID 1 and imports the standard library only. `agent` is the resident process beside it;
`boot` composes the parts of `run_agent` into one replica. `cli` is the only place that prints for
a person and exits.
"""
