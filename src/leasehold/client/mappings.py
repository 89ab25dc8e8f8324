"""Mappings kept for the next use of a recycled segment: the pages, faulted in once, need not be again."""

from __future__ import annotations

import os
from typing import Final

from leasehold.system.directory import RegistryDirectory
from leasehold.system.mapping import Mapping, map_segment

__all__ = ["MappingCache"]

# A hand-over alternates between two or three segments; a pool of workers between some dozen. Address space is all that an
# idle mapping costs: the registry frees the pages of what it retires, mapped or not.
_KEPT: Final = 64


class MappingCache:
    """Idle mappings of one registry's segments, least recently used first."""

    def __init__(self, directory: RegistryDirectory) -> None:
        self._directory = directory
        self._idle: dict[tuple[int, bool], Mapping] = {}

    def take(self, segment: int, size_bytes: int, *, writable: bool, fd: int | None = None) -> Mapping:
        """A mapping of `segment`, kept or new.

        Parameters
        ----------
        fd : int, optional
            The segment's file, if the caller has it open; it stays open.

        Raises
        ------
        FileNotFoundError
            The segment is gone.
        OSError
            It cannot be mapped.
        """
        kept = self._idle.pop((segment, writable), None)
        if kept is not None:
            return kept
        if fd is not None:
            return map_segment(fd, size_bytes, writable=writable)
        opened = os.open(self._directory.segment_path(segment), (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            return map_segment(opened, size_bytes, writable=writable)
        finally:
            os.close(opened)

    def give_back(self, segment: int, mapping: Mapping) -> None:
        """Keep `mapping`, which nothing uses any more, for the next `take`."""
        self._idle[segment, mapping.writable] = mapping
        if len(self._idle) > _KEPT:
            self._idle.pop(next(iter(self._idle))).close()

    def clear(self) -> None:
        """Unmap all that is idle."""
        for mapping in self._idle.values():
            mapping.close()
        self._idle.clear()
