"""What comes due when: one heap of deadlines for all parts of the table.

A deadline is never cancelled. Its handler looks at the rows and does nothing if they say otherwise by then; a part also
tells which of its deadlines still matter, so that the heap does not grow with what ended long before.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from typing import Final

__all__ = ["Timers"]

# Deadlines are looked through for stale ones when there are twice as many as mattered the last time, and not below this.
_KEPT: Final = 64

Handler = Callable[[int, int], None]  # key, time
Wanted = Callable[[set[tuple[int, int]]], set[tuple[int, int]]]  # of deadlines and keys, those that still matter


class Timers:
    """Deadlines by kind and key."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str, int]] = []
        self._kept = _KEPT
        self._handlers: dict[str, Handler | None] = {}
        self._wanted: dict[str, Wanted] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def handle(self, kind: str, handler: Handler | None, wanted: Wanted) -> None:
        """Call `handler` when a deadline of `kind` comes due; without one, it only wakes the table.

        `wanted` picks those that still matter of the deadlines that have not come due.
        """
        self._handlers[kind] = handler
        self._wanted[kind] = wanted

    def at(self, deadline_ns: int, kind: str, key: int = 0) -> None:
        """Set a deadline."""
        heapq.heappush(self._heap, (deadline_ns, kind, key))
        if len(self._heap) > self._kept:
            self._drop_stale()

    def next_ns(self) -> int | None:
        """The earliest deadline; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def run_due(self, now_ns: int, may_run: Callable[[str, int], bool] = lambda *_: True) -> None:
        """Handle everything that has come due, each kind and key once, if it `may_run`."""
        due: list[tuple[str, int]] = []
        while self._heap and self._heap[0][0] <= now_ns:
            _, kind, key = heapq.heappop(self._heap)
            due.append((kind, key))
        for kind, key in dict.fromkeys(due):
            handler = self._handlers[kind]
            if handler is not None and may_run(kind, key):
                handler(key, now_ns)

    def _drop_stale(self) -> None:
        by_kind: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
        for deadline_ns, kind, key in self._heap:
            by_kind[kind].add((deadline_ns, key))
        self._heap = [
            (deadline_ns, kind, key)
            for kind, entries in by_kind.items()
            for deadline_ns, key in self._wanted[kind](entries)
        ]
        heapq.heapify(self._heap)
        self._kept = max(2 * len(self._heap), _KEPT)
