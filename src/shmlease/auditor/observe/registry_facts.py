"""Registries as an outsider sees them: who holds the lock, and what the ledger says. Nothing is written or waited for."""

from __future__ import annotations

import fcntl
import os
from typing import Final

from shmlease.auditor.judge.evidence import LockState, RegistryFacts
from shmlease.auditor.judge.findings import Gap
from shmlease.auditor.observe.shm_scan import Listing
from shmlease.core.model import SegmentState, Snapshot
from shmlease.errors import ProtocolError
from shmlease.system.ledger import read_ledger
from shmlease.system.names import DIRECTORY_NAME

__all__ = ["read_registries"]

# A segment being created has no file yet, and one being retired none any more.
_WITHOUT_FILE: Final = frozenset({SegmentState.CREATING, SegmentState.RETIRING})


def read_registries(listing: Listing) -> tuple[list[RegistryFacts], list[Gap]]:
    """The registries whose directories `listing` has, and those that this user may not look into."""
    registries: list[RegistryFacts] = []
    gaps: list[Gap] = []
    for name, status in listing.directories.items():
        match = DIRECTORY_NAME.fullmatch(name.rpartition("/")[2])
        if match is None:
            continue
        path = f"{listing.root.path}/{name}"
        try:
            lock = _lock_state(f"{path}/lock")
            snapshot, problem = _table(f"{path}/ledger")
        except PermissionError:
            gaps.append(Gap(f"the lease table of registry {match[1]}", f"it belongs to uid {status.uid}", source=path))
            continue
        absent = _absent(path, listing, snapshot) if snapshot else frozenset()
        registries.append(
            RegistryFacts(
                match[1], path, listing.root, status.identity, status.uid, lock, snapshot, problem, absent
            )
        )  # fmt: skip
    return registries, gaps


def _lock_state(path: str) -> LockState:
    """Whether a registry holds the lock. A free one is held by us, shared, for some microseconds: a successor that is
    elected in that moment asks again."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return LockState.FREE  # it had not been made, or was the last thing removed
    except PermissionError:
        raise
    except OSError:
        return LockState.UNKNOWN
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return LockState.HELD
    except OSError:
        return LockState.UNKNOWN
    finally:
        os.close(descriptor)
    return LockState.FREE


def _table(path: str) -> tuple[Snapshot | None, str]:
    """The lease table, or the reason why there is none to read."""
    try:
        return read_ledger(path), ""
    except FileNotFoundError:
        return None, ""  # killed before it wrote one
    except PermissionError:
        raise
    except (ProtocolError, OSError) as error:
        return None, str(error)


def _absent(path: str, listing: Listing, snapshot: Snapshot) -> frozenset[int]:
    """The segments of the table that should have a file and have none, asked for again after the table was read."""
    prefix = f"{path.removeprefix(listing.root.path + '/')}/s"
    names = {name for file in listing.files.values() for name in (file.name, *file.aliases) if name.startswith(prefix)}
    expected = (row.number for row in snapshot.segments.values() if row.state not in _WITHOUT_FILE)
    return frozenset(
        number
        for number in expected
        if f"{prefix}{number}" not in names and not os.path.lexists(f"{path}/s{number}")
    )  # fmt: skip
