"""Which warm segment serves a request, and which go first to make room."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from shmlease.core.sizes import WASTE_LIMIT

__all__ = ["WarmIndex"]


class WarmIndex:
    """Free segments by size: the best fit is found without looking at all of them."""

    def __init__(self) -> None:
        self.total_bytes = 0
        self._sizes: dict[int, int] = {}  # segment -> size, least recently used first
        self._of_size: dict[int, dict[int, None]] = {}  # size -> its segments, least recently used first
        self._ordered: list[int] = []  # the sizes there are

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def add(self, segment: int, size_bytes: int) -> None:
        """Take in a segment, as the most recently used."""
        self._sizes[segment] = size_bytes
        self.total_bytes += size_bytes
        if size_bytes not in self._of_size:
            self._of_size[size_bytes] = {}
            bisect.insort(self._ordered, size_bytes)
        self._of_size[size_bytes][segment] = None

    def remove(self, segment: int) -> None:
        """Take out a segment."""
        size_bytes = self._sizes.pop(segment)
        self.total_bytes -= size_bytes
        same = self._of_size[size_bytes]
        del same[segment]
        if not same:
            del self._of_size[size_bytes]
            self._ordered.pop(bisect.bisect_left(self._ordered, size_bytes))

    def best_fit(self, size_bytes: int) -> int | None:
        """The smallest segment that holds `size_bytes` without waste, the most recently used among equals; or None."""
        position = bisect.bisect_left(self._ordered, size_bytes)
        if position == len(self._ordered) or self._ordered[position] > size_bytes * WASTE_LIMIT:
            return None
        return next(reversed(self._of_size[self._ordered[position]]))

    def evictions(self, missing_bytes: int) -> list[int]:
        """Segments to give back until `missing_bytes` are free, least recently used first."""
        chosen = []
        for segment, size_bytes in self._sizes.items():
            if missing_bytes <= 0:
                break
            missing_bytes -= size_bytes
            chosen.append(segment)
        return chosen
