"""How large the file of a segment is, and how much larger a recycled one may be."""

from __future__ import annotations

from typing import Final

__all__ = ["PAGE_BYTES", "WASTE_LIMIT", "file_size"]

PAGE_BYTES: Final = 4096
# A recycled segment may be this much larger than what was asked for. A fresh 64 MiB segment costs 11-15 memcpys in page
# faults and a warm one none, so that a quarter of slack is cheap; more would let small arrays hold large segments.
WASTE_LIMIT: Final = 1.25


def file_size(nbytes: int) -> int:
    """Bytes of the file that holds an array of `nbytes`: whole pages, at least one."""
    return max(-(-nbytes // PAGE_BYTES), 1) * PAGE_BYTES
