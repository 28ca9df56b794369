"""Change a running release in place. May import `run_agent`; is imported by `entrypoint` only."""
