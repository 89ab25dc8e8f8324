"""Which rows make which chunk, when the rows come in parts of unknown length.

A chunk of HDF5 holds a fixed number of rows, a block of text holds as many as it happens to. The plan takes the parts in
their order, each as soon as its number of rows is known, and answers with the chunks that can be encoded now, each as the
pieces of parts it is made of. A worker that can reach the parts (they lie in shared memory) encodes a chunk wherever its
rows come from, so no rows are carried from part to part, and the sink gets whole chunks only. The plan is pure: it moves
no rows and knows nothing of leases.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import msgspec

__all__ = ["ChunkPlan", "Piece", "PlannedChunk"]

Part = TypeVar("Part", bound=Hashable)


class Piece(msgspec.Struct, Generic[Part], frozen=True):
    """Rows [start, stop) of a part."""

    part: Part
    start: int
    stop: int


class PlannedChunk(msgspec.Struct, Generic[Part], frozen=True):
    """A chunk that can be encoded: its index in the dataset, and its rows."""

    index: int
    pieces: tuple[Piece[Part], ...]


class ChunkPlan(Generic[Part]):
    """The chunks of one dataset.

    Parameters
    ----------
    chunk_rows : int
        Rows of a whole chunk.
    start_row : int
        The row that the first part begins with.
    is_stored : callable, optional
        Of a chunk's index: whether it need not be planned. A chunk that begins before `start_row` must be stored.
    """

    def __init__(self, chunk_rows: int, *, start_row: int = 0, is_stored: Callable[[int], bool] = lambda _: False) -> None:
        self.chunk_rows = chunk_rows
        self.is_stored = is_stored
        self._rows = start_row
        self._pieces: list[Piece[Part]] = []  # of the chunk that is not full
        self._uses: Counter[Part] = Counter()
        self._unused: deque[Part] = deque()

    @property
    def rows(self) -> int:
        """Rows planned: the row that the next part begins with."""
        return self._rows

    @property
    def pending(self) -> tuple[Piece[Part], ...]:
        """The rows of the chunk that is not full."""
        return tuple(self._pieces)

    def add(self, part: Part, rows: int) -> list[PlannedChunk[Part]]:
        """Take the next part, which has `rows` rows; returns the chunks that it completes."""
        planned, start = [], 0
        self._uses[part] += 1  # by this call, until its pieces are counted
        while start < rows:
            stop = min(rows, start + self.chunk_rows - self._rows % self.chunk_rows)
            self._pieces.append(Piece(part, start, stop))
            self._uses[part] += 1
            self._rows += stop - start
            start = stop
            if self._rows % self.chunk_rows == 0:
                planned += self._chunk((self._rows - 1) // self.chunk_rows)
        self._drop(part)
        return planned

    def finish(self) -> list[PlannedChunk[Part]]:
        """No part follows: the last chunk, unless it was full."""
        return self._chunk(self._rows // self.chunk_rows) if self._pieces else []

    def done(self, chunk: PlannedChunk[Part]) -> None:
        """A planned chunk was encoded: its rows are not needed for it any more."""
        for piece in chunk.pieces:
            self._drop(piece.part)

    def take_unused(self) -> list[Part]:
        """Parts that no chunk needs any more, each once: what holds their rows can be released."""
        unused = list(self._unused)
        self._unused.clear()
        return unused

    def _chunk(self, index: int) -> list[PlannedChunk[Part]]:
        chunk = PlannedChunk(index, tuple(self._pieces))
        self._pieces = []
        if not self.is_stored(index):
            return [chunk]
        self.done(chunk)
        return []

    def _drop(self, part: Part) -> None:
        self._uses[part] -= 1
        if not self._uses[part]:
            del self._uses[part]
            self._unused.append(part)
