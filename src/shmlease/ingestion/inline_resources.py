"""What a run needs that the calling thread does by itself: memory of its own, no registry and no other process."""

from __future__ import annotations

from typing import Any, Final, Self

from shmlease.ingestion.inline_pool import InlineWorkerPool
from shmlease.ingestion.private_memory import PrivateMemory
from shmlease.units import parse_bytes

__all__ = ["InlineResources"]

# As much as a run with one worker may have of shared memory; blocks and chunks are of their usual size.
_CAPACITY_BYTES: Final = 96 << 20


class InlineResources:
    """As `RunResources`, for the length of a ``with`` block.

    Parameters
    ----------
    capacity : int or str, optional
        What blocks and rows under way may take.
    """

    workers = 1
    is_executor = has_processes = False
    peak_bytes = used_bytes = 0
    leaks: tuple[str, ...] = ()

    def __init__(self, capacity: int | str | None) -> None:
        self.capacity_bytes = _CAPACITY_BYTES if capacity is None else parse_bytes(capacity)
        self.registry = PrivateMemory()
        self.pool = InlineWorkerPool(self.registry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.pool.close()
