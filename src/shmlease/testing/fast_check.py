"""The fast check of shared memory: enough to say that nothing new is there, in some tens of microseconds.

Taken after every test. Only where it shows something new is the system looked at properly. It may be suspicious without
cause; what it stands for:

- files, by name and inode; those of registries by their leases instead;
- files without a name that somebody holds: the inodes that the filesystem counts beyond the names;
- leases: those of this process, and in the lease tables those of other processes and those kept by arrays and views;
- System V segments.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from shmlease.errors import ProtocolError

__all__ = ["Contents", "FastCheck"]

_REGISTRY: Final = re.compile(r"shmlease-([0-9a-z]{1,32})")
_SYSV: Final = "/proc/sysvipc/shm"
# Deeper than any program goes; a neighbour may go as deep as he likes.
_MOST_LEVELS: Final = 32
# The kernel stamps a write with a clock that ticks every 1 to 10 ms: within a tick, an equal stamp proves nothing.
_TICK_NS: Final = 20_000_000


@dataclass(frozen=True, slots=True)
class Contents:
    """What is there, as sets that can be compared; leases and files under the subjects of their findings."""

    files: frozenset[tuple[str, int]] = frozenset()
    hidden_inodes: int = 0
    sysv: frozenset[str] = frozenset()
    leases: frozenset[str] = frozenset()

    def has_new(self, before: Contents) -> bool:
        """Whether something is there that was not `before`."""
        return (
            self.hidden_inodes > before.hidden_inodes
            or not self.files <= before.files
            or not self.sysv <= before.sysv
            or not self.leases <= before.leases
        )

    def subjects(self, device: int) -> Iterator[str]:
        """The subjects of findings about what is there, but for the files without a name."""
        yield from (f"file:{device}:{inode}" for _, inode in self.files)
        yield from self.sysv
        yield from self.leases


@dataclass(slots=True)
class FastCheck:
    """Lists what is below `root`; remembers the lease tables that have not changed."""

    root: str = "/dev/shm"
    _tables: dict[str, tuple[tuple[int, int], frozenset[str]]] = field(default_factory=dict)

    def look(self) -> Contents:
        """What is there now."""
        files: set[tuple[str, int]] = set()
        inodes: set[int] = set()
        leases = set(_own_leases())
        self._read(self.root, files, inodes, leases)
        count = os.statvfs(self.root)
        used = count.f_files - count.f_ffree
        # the root itself is an inode; a filesystem without a limit does not count
        hidden = used - len(inodes) - 1 if count.f_files else 0
        return Contents(frozenset(files), hidden, _sysv(), frozenset(leases))

    def _read(self, path: str, files: set[tuple[str, int]], inodes: set[int], leases: set[str]) -> None:
        pending = [(path, files, 0)]
        while pending:
            path, files, depth = pending.pop()
            try:
                with os.scandir(path) as entries:
                    for entry in entries:
                        inode = entry.inode()
                        inodes.add(inode)
                        if not entry.is_dir(follow_symlinks=False):
                            files.add((entry.path, inode))
                        elif path == self.root and (match := _REGISTRY.fullmatch(entry.name)):
                            files.add((entry.path, inode))
                            pending.append((entry.path, set(), 1))
                            leases |= self._leases_of(match[1], entry.path)
                        elif depth < _MOST_LEVELS:
                            pending.append((entry.path, files, depth + 1))
            except OSError:
                pass  # another user's, or gone meanwhile: what is in it counts as hidden, in every look alike

    def _leases_of(self, registry: str, path: str) -> frozenset[str]:
        """The leases in a registry's table that are not simply this process's own."""
        try:
            status = os.lstat(f"{path}/ledger")
        except OSError:
            return frozenset()
        stamp = (status.st_ino, status.st_mtime_ns)
        known = self._tables.get(registry)
        if known is not None and known[0] == stamp:
            return known[1]
        leases = frozenset(_foreign_leases(registry, f"{path}/ledger", is_own=status.st_uid == os.geteuid()))
        if time.time_ns() - status.st_mtime_ns > _TICK_NS:
            self._tables[registry] = (stamp, leases)
        return leases


def _own_leases() -> Iterator[str]:
    """The leases that this process holds, or its arrays do, if it has ever used shmlease."""
    links = sys.modules.get("shmlease.client.link_cache")
    if links is not None:
        holds = sys.modules["shmlease.client.hold"]
        for hold in [*(lease._hold for lease in holds.held_leases()), *links.detached_holds()]:
            yield f"lease:{hold.link.endpoint.id}:{hold.lease}"


def _foreign_leases(registry: str, path: str, *, is_own: bool) -> Iterator[str]:
    from shmlease.core.model import LeaseState, client_of  # noqa: PLC0415 - most programs have no registry
    from shmlease.system.ledger import FOREIGN_LEDGER_LIMIT_BYTES, LEDGER_LIMIT_BYTES, read_ledger  # noqa: PLC0415

    try:
        snapshot = read_ledger(path, limit_bytes=LEDGER_LIMIT_BYTES if is_own else FOREIGN_LEDGER_LIMIT_BYTES)
    except (OSError, ProtocolError):
        return  # gone, another user's, or another version's: the auditor tells
    for lease in snapshot.leases.values():
        client = snapshot.clients.get(client_of(lease.id))
        is_own = client is not None and client.identity.pid == os.getpid()
        if lease.state is not LeaseState.RESERVED and (not is_own or lease.state is not LeaseState.HELD):
            yield f"lease:{registry}:{lease.id}"


def _sysv() -> frozenset[str]:
    try:
        with open(_SYSV, "rb", buffering=0) as file:
            lines = file.readall().splitlines()[1:]
    except OSError:
        return frozenset()
    return frozenset(f"sysv:{fields[1].decode()}:{fields[0].decode()}" for fields in map(bytes.split, lines))
