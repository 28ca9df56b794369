"""File transfers: `run_agent.ssh.files` as a child of the daemon, and what it tells the audit."""
