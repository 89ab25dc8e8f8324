"""The rows of a lease table in memory: the twin of `shmlease.system.ledger`, which nobody else can read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shmlease.core.model import Change, Row
from shmlease.core.snapshot import Snapshot, apply_changes

__all__ = ["MemoryLedger"]


class MemoryLedger:
    """Holds the live rows, and no history."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], Row] = {}

    def snapshot(self) -> Snapshot:
        """The table."""
        return Snapshot.of(self._rows)

    def wants_compaction(self) -> bool:
        """Never."""
        return False

    def has_room(self) -> bool:
        """Always."""
        return True

    def commit(self, changes: Sequence[Change]) -> None:
        """Take over `changes`."""
        apply_changes(self._rows, changes)

    def compact(self, rows: Iterable[Row]) -> None:
        """Begin anew with `rows`."""
        self._rows.clear()
        apply_changes(self._rows, rows)
