"""SSH: who may log in, the door in the agent, and the daemon behind it.

The resident agent holds the `door`: it accepts, drops and penalises, and hands a connection that
speaks to the daemon, over `wire`. It also keeps the `keys` fresh. The `daemon` is a process of its
own that PID 1 starts when the door first needs it; it alone imports asyncssh, and ends when nobody
is logged in, so that its memory goes back.
"""
