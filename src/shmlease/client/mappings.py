"""Mappings kept for the next use of a recycled segment: the pages, faulted in once, need not be again."""

from __future__ import annotations

from typing import Final

from shmlease.client.endpoint import Endpoint
from shmlease.system.mapping import Mapping

__all__ = ["MappingCache"]

# As many as a producer of small arrays has segments going round, and some more. Address space is all that an idle mapping
# costs: the registry frees the pages of what it retires, mapped or not.
_KEPT: Final = 256


class MappingCache:
    """Idle mappings of one registry's segments, least recently used first."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._idle: dict[tuple[int, bool], Mapping] = {}

    def take(self, segment: int, size_bytes: int, *, writable: bool, reserve: bool = False) -> Mapping:
        """A mapping of `segment`, kept or new; with `reserve`, all its pages get memory first.

        Raises
        ------
        FileNotFoundError
            The segment is gone.
        OSError
            It cannot be mapped, or (ENOSPC) its pages cannot be reserved.
        """
        kept = self._idle.pop((segment, writable), None)
        if kept is not None and not reserve:
            return kept
        return self._endpoint.map(segment, size_bytes, writable=writable, reserve=reserve)

    def give_back(self, segment: int, mapping: Mapping) -> None:
        """Keep `mapping`, which nothing uses any more, for the next `take`."""
        self._idle[segment, mapping.writable] = mapping
        if len(self._idle) > _KEPT:
            oldest = self._idle.pop(next(iter(self._idle), (segment, mapping.writable)), None)
            if oldest is not None:
                oldest.close()

    def forget(self, segment: int) -> None:
        """Unmap `segment`, which is no more."""
        for writable in (False, True):
            idle = self._idle.pop((segment, writable), None)
            if idle is not None:
                idle.close()

    def clear(self) -> None:
        """Unmap all that is idle."""
        while self._idle:
            self._idle.popitem()[1].close()
