"""Registries as an outsider sees them: who holds the lock, and what the ledger says. Nothing is written or waited for.

Anybody may create such a directory and put anything into it: see `shmlease.system.safe_open`. What is wrong with one is
reported, and the others are read.
"""

from __future__ import annotations

import os
from typing import Final

from shmlease.auditor.judge.evidence import LockState, RegistryFacts
from shmlease.auditor.judge.findings import Gap
from shmlease.auditor.observe.shm_scan import Listing
from shmlease.auditor.observe.statx import AT_EMPTY_PATH, FileStatus, statx
from shmlease.core.model import SegmentState
from shmlease.core.snapshot import Snapshot
from shmlease.errors import PermissionDeniedError, ProtocolError
from shmlease.system.ledger import FOREIGN_LEDGER_LIMIT_BYTES, LEDGER_LIMIT_BYTES, parse_ledger
from shmlease.system.names import DIRECTORY_NAME
from shmlease.system.registry_lock import is_locked
from shmlease.system.safe_open import directory_of, open_directory, read_regular, reason_of

__all__ = ["read_registries"]

# A segment being created has no file yet, and one being retired none any more.
_WITHOUT_FILE: Final = frozenset({SegmentState.CREATING, SegmentState.RETIRING})
# How much of the ledgers of other users is read in one pass, all of them together.
_FOREIGN_BYTES: Final = 32 * 1024 * 1024
# How many rows of theirs are judged: each may be a finding, and all of them be lies.
_FOREIGN_ROWS: Final = 20_000


def read_registries(listing: Listing) -> tuple[list[RegistryFacts], list[Gap]]:
    """The registries whose directories `listing` has, and those that could not be looked into."""
    registries: list[RegistryFacts] = []
    gaps: list[Gap] = []
    reader = _LedgerReader()
    for name, status in listing.directories.items():
        match = DIRECTORY_NAME.fullmatch(name.rpartition("/")[2])
        if match is None:
            continue
        path = f"{listing.root.path}/{name}"
        try:
            with directory_of(listing.root.path, name) as (parent, last):
                directory = open_directory(last, directory=parent)
            try:
                facts = _read_registry(match[1], path, directory, listing, status, reader)
            finally:
                os.close(directory)
        except FileNotFoundError:
            continue  # it has ended meanwhile
        except PermissionDeniedError as error:
            gaps.append(Gap(f"the directory {path}", str(error), source="open"))
        except PermissionError:
            gaps.append(Gap(f"the lease table of registry {match[1]}", f"it belongs to uid {status.uid}", source=path))
        except OSError as error:
            gaps.append(Gap(f"the lease table of registry {match[1]}", reason_of(error), source=path))
        else:
            registries.append(facts)
    return registries, gaps


class _LedgerReader:
    """Reads ledgers, and those of other users up to a limit in all."""

    def __init__(self) -> None:
        self._foreign_bytes = _FOREIGN_BYTES
        self._foreign_rows = _FOREIGN_ROWS

    def read(self, directory: int, owner: int) -> tuple[Snapshot | None, str]:
        """The lease table, or the reason why there is none to read."""
        is_own = owner == os.geteuid()
        limit_bytes = LEDGER_LIMIT_BYTES if is_own else min(FOREIGN_LEDGER_LIMIT_BYTES, self._foreign_bytes)
        try:
            content = read_regular("ledger", limit_bytes, directory=directory, owner=owner)
            if is_own:
                return parse_ledger(content), ""
            self._foreign_bytes -= len(content)
            return self._judged(parse_ledger(content))
        except FileNotFoundError:
            return None, ""  # killed before it wrote one
        except PermissionDeniedError as error:
            return None, str(error)
        except PermissionError:
            raise
        except (ProtocolError, OSError) as error:
            return None, str(error)

    def _judged(self, snapshot: Snapshot) -> tuple[Snapshot | None, str]:
        tables = (snapshot.segments, snapshot.leases, snapshot.tickets, snapshot.clients, snapshot.events)
        rows = sum(len(table) for table in tables)
        if rows > self._foreign_rows:
            return None, f"it has {rows} rows; no more than {_FOREIGN_ROWS} of all other users are judged in one look"
        self._foreign_rows -= rows
        return snapshot, ""


def _read_registry(
    id: str, path: str, directory: int, listing: Listing, status: FileStatus, reader: _LedgerReader
) -> RegistryFacts:
    if statx("", directory=directory, flags=AT_EMPTY_PATH).identity != status.identity:
        raise FileNotFoundError
    lock, problem = _lock_state(directory, status.uid)
    snapshot, unreadable = reader.read(directory, status.uid)
    absent = _absent(path, directory, listing, snapshot) if snapshot else frozenset()
    return RegistryFacts(
        id=id,
        path=path,
        root=listing.root,
        directory=status.identity,
        uid=status.uid,
        lock=lock,
        snapshot=snapshot,
        problem=unreadable or problem,
        absent=absent,
    )


def _lock_state(directory: int, owner: int) -> tuple[LockState, str]:
    """Whether a registry holds the lock, and why that cannot be told."""
    try:
        return LockState.HELD if is_locked("lock", directory=directory, owner=owner) else LockState.FREE, ""
    except PermissionDeniedError as error:
        return LockState.UNKNOWN, str(error)
    except PermissionError:
        raise
    except OSError as error:
        return LockState.UNKNOWN, f"its lock: {reason_of(error)}"


def _absent(path: str, directory: int, listing: Listing, snapshot: Snapshot) -> frozenset[int]:
    """The segments of the table that should have a file and have none, asked for again after the table was read."""
    prefix = f"{path.removeprefix(listing.root.path + '/')}/s"
    names = {name for file in listing.files.values() for name in (file.name, *file.aliases) if name.startswith(prefix)}
    expected = (row.number for row in snapshot.segments.values() if row.state not in _WITHOUT_FILE)
    unlisted = (number for number in expected if f"{prefix}{number}" not in names)
    return frozenset(number for number in unlisted if not _exists(f"s{number}", directory))


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
