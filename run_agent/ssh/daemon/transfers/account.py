"""What a file transfer tells of itself, brought into the audit."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from run_agent.ssh.daemon.audit import Audit, Entry
from run_agent.ssh.daemon.site import Login

READ_BYTES = 64 << 10


class Account:
    """One transfer session. Owns the descriptor, and closes it when nothing more is told."""

    def __init__(self, audit: Audit, login: Login, protocol: str, descriptor: int) -> None:
        self._audit, self._login, self._descriptor = audit, login, descriptor
        self._session = audit.open(protocol, login)
        self._files: dict[int, Entry] = {}
        self._totals: dict[str, Any] = {"error": "cut off"}
        self._rest = b""
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def _read(self) -> None:
        told = os.read(self._descriptor, READ_BYTES)
        if not told:
            self._close()
            return
        *lines, self._rest = (self._rest + told).split(b"\n")
        for line in lines:
            self._note(json.loads(line))

    def _note(self, told: dict[str, Any]) -> None:
        match told.pop("event"):
            case "opened":
                number = told.pop("file")
                self._files[number] = self._audit.open("transfer", self._login, **told)
            case "closed":
                self._files.pop(told.pop("file")).close(**told)
            case "changed":
                self._audit.note("file change", self._login, **told)
            case "totals":
                self._totals = told

    def _close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        for entry in self._files.values():
            entry.close(error="cut off")
        self._session.close(**{name: total for name, total in self._totals.items() if total})
