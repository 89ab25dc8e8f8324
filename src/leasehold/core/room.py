"""Which segment serves a request, and which must go to make room: pure choices over figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["PAGE_BYTES", "WASTE_LIMIT", "evictions", "file_size", "reusable"]

PAGE_BYTES: Final = 4096
# A recycled segment may be this much larger than what was asked for. A fresh 64 MiB segment costs 11-15 memcpys in page
# faults and a warm one none, so that a quarter of slack is cheap; more would let small arrays hold large segments.
WASTE_LIMIT: Final = 1.25


def file_size(nbytes: int) -> int:
    """Bytes of the file that holds an array of `nbytes`: whole pages, at least one."""
    return max(-(-nbytes // PAGE_BYTES), 1) * PAGE_BYTES


def reusable(warm: dict[int, int], size_bytes: int) -> int | None:
    """The warm segment that fits `size_bytes` best, the most recently used among equals; None if none fits."""
    best, best_size = None, int(size_bytes * WASTE_LIMIT) + 1
    for segment in reversed(warm):
        size = warm[segment]
        if size_bytes <= size < best_size:
            if size == size_bytes:
                return segment
            best, best_size = segment, size
    return best


def evictions(warm: dict[int, int], missing_bytes: int) -> Iterator[int]:
    """Warm segments to give back until `missing_bytes` are free, least recently used first."""
    for segment, size_bytes in warm.items():
        if missing_bytes <= 0:
            return
        missing_bytes -= size_bytes
        yield segment
