"""Room in /dev/shm that is spoken for: fresh segments whose pages their clients have yet to reserve."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["UnreservedBytes"]

# Looked at again whenever one is added: more than are added, so that complete ones are forgotten, however many there are.
_LOOKED_AT: Final = 2


class UnreservedBytes:
    """Segments whose pages are not all there yet; `missing_bytes` tells what a segment still lacks."""

    def __init__(self, missing_bytes: Callable[[int], int]) -> None:
        self._missing_bytes = missing_bytes
        self._pending: dict[int, int] = {}  # segment -> bytes it lacked when it was last looked at
        self.total_bytes = 0

    def add(self, segment: int, size_bytes: int) -> None:
        """A segment was made, and none of its pages are there."""
        self._look_at(itertools.islice(self._pending, _LOOKED_AT))
        self._pending[segment] = size_bytes
        self.total_bytes += size_bytes

    def discard(self, segment: int) -> None:
        """A segment is no more."""
        self.total_bytes -= self._pending.pop(segment, 0)

    def look_at_all(self) -> None:
        """Find out which segments have all their pages by now."""
        self._look_at(self._pending)

    def _look_at(self, segments: Iterable[int]) -> None:
        for segment in list(segments):
            self.discard(segment)
            missing = self._missing_bytes(segment)
            if missing:  # behind the others: these were not looked at for longer
                self._pending[segment] = missing
                self.total_bytes += missing
