"""Mappings kept for the next use of a recycled segment: the pages, faulted in once, need not be again."""

from __future__ import annotations

from typing import Final, Protocol

from shmlease.client.endpoint import Endpoint
from shmlease.system.mapping import Mapping
from shmlease.system.page_reservation import map_pages

__all__ = ["MappingCache"]

# As many as a producer of small arrays has segments going round, and some more. Address space is all that an idle mapping
# costs: the registry frees the pages of what it retires, mapped or not.
_KEPT: Final = 256


class Holder(Protocol):
    """Who has a mapping of a segment."""

    segment: int
    mapping: Mapping | None


class MappingCache:
    """Idle mappings of one registry's segments, least recently used first."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._idle: dict[tuple[int, bool], Mapping] = {}

    def take_to_fill(self, segment: int, size_bytes: int, *, reserve: bool) -> Mapping:
        """A mapping of `segment`, all of which is to be written; with `reserve`, all its pages get memory first.

        Raises
        ------
        OSError
            As `take`; or (ENOSPC) its pages cannot be reserved.
        """
        kept = self._idle.pop((segment, True), None)
        if kept is not None and not reserve:
            return kept
        mapping = self._endpoint.map(segment, size_bytes, writable=True, private=False, reserve=reserve)
        if not reserve:
            map_pages(mapping)
        return mapping

    def take(self, segment: int, size_bytes: int, *, writable: bool, private: bool = False) -> Mapping:
        """A mapping of `segment`, kept or new, a `private` one always new.

        Raises
        ------
        FileNotFoundError
            The segment is gone.
        OSError
            It cannot be mapped.
        """
        if private:
            return self._endpoint.map(segment, size_bytes, writable=writable, private=True, reserve=False)
        kept = self._idle.pop((segment, writable), None)
        if kept is not None:
            return kept
        return self._endpoint.map(segment, size_bytes, writable=writable, private=False, reserve=False)

    def give_back(self, holder: Holder) -> None:
        """Keep the mapping of `holder`, which nothing uses any more, for the next `take`."""
        mapping = holder.mapping
        if mapping is None or mapping.private:  # what was written into that one is nobody else's
            return
        key = (holder.segment, mapping.writable)
        holder.mapping = None  # no call between the two: a mapping never has two owners
        self._idle[key] = mapping
        if len(self._idle) > _KEPT:
            self._idle.pop(next(iter(self._idle), key), None)

    def forget(self, segment: int) -> None:
        """Unmap `segment`, which no longer exists."""
        for writable in (False, True):
            self._idle.pop((segment, writable), None)

    def clear(self) -> None:
        """Unmap all that is idle."""
        self._idle.clear()
