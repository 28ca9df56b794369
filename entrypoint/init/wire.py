"""The wire between PID 1 and the agent: one JSON object per line over a socket pair.

From the agent: `start` (a launch and a memo: the agent's own state, kept for its successor),
`memo`, `verdict` (readiness), `draining`, `ready` (the agent's own start is over), `busy` (what it
changes on the release, or null), `relaunch` (the launch of later starts in place), `restart` (stop
the release and start it again in place), and `alive` every few seconds.
From PID 1: `hello` (everything a new agent must know), then `release` and `stopping` as they
change.
"""

import json

MESSAGE_LIMIT_BYTES = 32 << 20
"""More than the largest environment the kernel takes; a longer line is a broken peer."""


def encode(message: dict[str, object]) -> bytes:
    """Return one message as a line. Undecodable bytes in strings survive as surrogates."""
    return json.dumps(message).encode() + b"\n"


class Decoder:
    """Collects received bytes and gives the whole messages in them; a cut one never counts."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, received: bytes) -> list[dict[str, object]]:
        """Return the messages that are complete now.

        Raises `ValueError` for a line that is no JSON object or exceeds 32 MiB.
        """
        self._rest += received
        if b"\n" not in received:
            if len(self._rest) > MESSAGE_LIMIT_BYTES:
                raise ValueError("a message over 32 MiB")
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("a message that is no object")
        return messages
