"""The rows of one array that a reader gives: compared where they came before, and cut into the chunks of their dataset."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from shmlease.errors import IngestError
from shmlease.hdf5.checksum import combine, crc32
from shmlease.hdf5.chunk_encoding import Codec, plain_bytes
from shmlease.hdf5.layout import Grid
from shmlease.hdf5.partial_chunk import Remainder
from shmlease.ingestion.tasks import LoadContext

__all__ = ["ArrayRows", "codec_for", "own_context"]

Array = np.ndarray[Any, Any]

_CHUNK_BYTES: Final = 1 << 20  # as of HDF5Sink
_SMALL_BYTES: Final = 16 << 10  # as of HDF5Sink: what is smaller gets no chunks
# Contexts of a worker's own, beside those that the coordinator numbers from 0.
_context_ids = itertools.count(-1, -1)


def codec_for(dtype: np.dtype[Any], trailing: tuple[int, ...], compression: str, rows: int | None = None) -> Codec:
    """How the sink has the chunks of such a dataset encoded; `rows` if it has no more."""
    grid = Grid.fit(trailing, dtype.itemsize, _CHUNK_BYTES, rows, whole_rows=True)
    return Codec(dtype, grid, compression)


def own_context(codec: Codec) -> LoadContext:
    """A context that only this worker knows."""
    return LoadContext(next(_context_ids), codec)


class ArrayRows:
    """The rows of one array on their way: in chunks of the dataset where its rows so far are known, else of themselves."""

    def __init__(self, name: str, codec: Codec, taken: tuple[int, int], give: Callable[..., None]) -> None:
        self.name = name
        self.codec = codec
        self.context = own_context(codec)
        self._give = give
        self._row: int | None = None  # of the dataset, that comes next
        self._held = Remainder(codec.dtype, codec.grid.trailing, codec.chunk_rows)
        self._left, self._expected = taken
        self._checksum = 0
        self._has_given = self._left > 0

    def begin_at(self, start_rows: Mapping[str, int] | None) -> None:
        """Take note of the rows that the dataset has, once that is known."""
        if self._row is None and start_rows is not None:
            held = self._held.release()
            self._row = start_rows.get(self.name, 0)
            for rows in held:
                self._gather(rows)

    def take(self, rows: Array) -> None:
        """The next rows.

        Raises
        ------
        IngestError
            They are not those that came before.
        """
        if self._left:
            again = rows[: self._left]
            self._left -= len(again)
            data = plain_bytes(again)
            self._checksum = combine(self._checksum, crc32(data), data.size)
            if not self._left:
                self._require_same(is_same=self._checksum == self._expected)
            rows = rows[len(again) :]
        self._gather(rows)

    def end(self, *, is_alone: bool, is_failed: bool) -> None:
        """There are no more; if `is_alone`, the dataset gets none from elsewhere either."""
        self._require_same(is_same=is_failed or not self._left)
        count = self._held.rows
        held = self._held.release()
        if not self._has_given and not count:
            held = [np.empty((0, *self.codec.grid.trailing), self.codec.dtype)]
        elif not count:
            return
        if self._has_given or not is_alone:
            self._give(self, held, codec=None)
        elif held[0].nbytes <= _SMALL_BYTES:
            self._give(self, held, codec=None, is_whole=True)
        else:
            codec = codec_for(self.codec.dtype, self.codec.grid.trailing, self.codec.compression, count)
            self._give(self, held, codec=codec, is_whole=True)

    def _require_same(self, *, is_same: bool) -> None:
        if not is_same:
            raise IngestError(
                f"the reader gave other rows of {self.name!r} when it was called again; it must give the same for a path"
            )

    def _gather(self, rows: Array) -> None:
        chunk_rows = self.codec.chunk_rows
        while len(rows):
            place = (self._row or 0) % chunk_rows
            if self._row is not None and not place and not self._held.rows and len(rows) >= chunk_rows:
                stop = len(rows) // chunk_rows * chunk_rows
                self._flush([rows[start : start + chunk_rows] for start in range(0, stop, chunk_rows)])
                rows = rows[stop:]
                continue
            room = chunk_rows - place - self._held.rows
            rows = rows[self._held.take(rows[:room]) :]
            if self._held.rows == chunk_rows - place:
                self._flush(self._held.release())

    def _flush(self, parts: list[Array]) -> None:
        self._has_given = True
        if self._row is None:
            self._give(self, parts, codec=None)
            return
        is_chunk = len(parts[0]) == self.codec.chunk_rows
        self._give(self, parts, codec=self.codec if is_chunk else None, first_chunk=self._row // self.codec.chunk_rows)
        self._row += sum(map(len, parts))
