"""Rows that do not fill a chunk yet."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Remainder"]

Array = np.ndarray[Any, Any]


class Remainder:
    """Rows gathered until they fill a chunk; takes memory for what it holds, up to one chunk.

    Attributes
    ----------
    rows : int
        Held at present.
    logged : int
        Of these, rows that the write-ahead log has.
    """

    def __init__(self, dtype: np.dtype[Any], trailing: tuple[int, ...], chunk_rows: int) -> None:
        self._buffer: Array = np.empty((0, *trailing), dtype)
        self._chunk_rows = chunk_rows
        self._marks: set[int] = set()
        self.rows = 0
        self.logged = 0

    def take(self, rows: Array) -> int:
        """Copy rows in, as many as the chunk still has room for, and return their number."""
        count = min(len(rows), self._chunk_rows - self.rows)
        needed = self.rows + count
        if needed > len(self._buffer):
            capacity = min(self._chunk_rows, max(needed, 2 * len(self._buffer)))
            grown = np.empty((capacity, *self._buffer.shape[1:]), self._buffer.dtype)
            grown[: self.rows] = self._buffer[: self.rows]
            self._buffer = grown
        self._buffer[self.rows : needed] = rows[:count]
        self.rows = needed
        return count

    @property
    def is_full(self) -> bool:
        """Whether a chunk is filled."""
        return self.rows == self._chunk_rows

    def mark(self, rows: int) -> None:
        """Note that a source ends after `rows` of the rows held: its rows get a checksum of their own."""
        if 0 < rows <= self.rows:
            self._marks.add(rows)

    def unlogged(self) -> bytes:
        """The rows that the write-ahead log does not have yet; it has them from now on."""
        data = self._buffer[self.logged : self.rows].tobytes()
        self.logged = self.rows
        return data

    def release(self) -> list[Array]:
        """All rows held, cut at the marks; the memory is the caller's from now on."""
        held, self._buffer = self._buffer[: self.rows], np.empty_like(self._buffer[:0])
        cuts = sorted({*self._marks, self.rows})
        self._marks, self.rows, self.logged = set(), 0, 0
        return [held[start:stop] for start, stop in zip([0, *cuts], cuts, strict=False)]
