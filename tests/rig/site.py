"""A registry seen from outside.

Not in a conftest: there is more than one of that name, and a spawned process that imports it may meet another.
"""

from __future__ import annotations

import os
import signal

from rig.until import until
from shmlease.core.snapshot import Snapshot
from shmlease.system.directory import SHM_ROOT, RegistryDirectory
from shmlease.system.ledger import read_ledger


def has_died(pid: int) -> bool:
    """Whether the process is dead, buried or not; its locks are gone then."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Site:
    """A registry, seen from outside: through its directory and ledger, as an auditor sees it, without asking it."""

    def __init__(self, id: str) -> None:
        self.directory = RegistryDirectory(id)

    def ledger(self) -> Snapshot:
        return read_ledger(self.directory.ledger_path)

    @property
    def pid(self) -> int:
        registry = self.ledger().registry
        assert registry is not None
        return registry.identity.pid

    @property
    def epoch(self) -> int:
        registry = self.ledger().registry
        assert registry is not None
        return registry.epoch

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Kill the registry process, and wait until it is dead; who waits for it may have started a successor by then."""
        pid = self.pid
        os.kill(pid, number)
        if number == signal.SIGKILL:
            until(lambda: has_died(pid), what="the death of the registry")
        return pid

    def files(self) -> list[str]:
        """Segments that have a file."""
        return [name for name in os.listdir(self.directory.path) if name[0] == "s" and name != "socket"]

    def is_gone(self) -> bool:
        """Whether nothing of it is left in /dev/shm."""
        prefix = f"shmlease-{self.directory.id}"
        return not [name for name in os.listdir(SHM_ROOT) if name == prefix or name.startswith(f"{prefix}-")]
