"""A session: one channel with a child process, its terminal or its pipes, and its environment."""
