"""The SSH daemon: the one process that imports asyncssh.

`service` takes connections from the door and ends when idle; `connection` is one of them, on
`transport`, with `admission` telling who gets in and `requests` what they may ask for. What they
get has a room each: `sessions` with their `processes`, `forwards`, `transfers`. `audit` writes who
did what. Starts processes only through the `Spawn` that it is given.
"""
