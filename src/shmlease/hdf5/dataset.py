"""What is known of one dataset on its way into the file: which chunks are stored, their checksums, whose rows they are.

Chunks are stored in any order. The checksum of the rows can only be joined in order, so what arrives early waits.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from shmlease.errors import SinkError
from shmlease.hdf5 import write_ahead_log
from shmlease.hdf5.checksum import Checksum, crc32, joined
from shmlease.hdf5.chunk_encoding import Codec, plain_bytes
from shmlease.hdf5.layout import Grid, parse_dtype
from shmlease.hdf5.provenance import Source, format_checksum

__all__ = ["DatasetState"]

Pieces = tuple[tuple[int, int], ...]


class DatasetState:
    """One dataset under way, from its declaration on.

    Attributes
    ----------
    cursor : int
        The row that is to be handed over next.
    finished : bool
        No more rows will come.
    sources : list of Source
    attributes : dict
    """

    def __init__(self, declared: write_ahead_log.Dataset) -> None:
        self.declared = declared
        self.codec = Codec(
            parse_dtype(declared.dtype),
            Grid(declared.trailing, declared.chunk_shape),
            declared.compression,
            declared.transposed,
        )
        self.cursor = 0
        self.finished = False
        self.sources: list[Source] = []
        self.attributes: dict[str, Any] = {}
        self.checksum = Checksum()
        self._next = 0
        self._early: dict[int, Pieces] = {}
        self._short: int | None = None  # index of the chunk that is not full

    @property
    def name(self) -> str:
        """Path of the dataset in the file."""
        return self.declared.name

    @property
    def rows_stored(self) -> int:
        """Rows in the file, counted from row 0 to the first one missing."""
        return self.checksum.size_bytes // self.codec.row_bytes if self.codec.row_bytes else self.cursor

    @property
    def first_missing(self) -> int:
        """Index of the first chunk that is not stored."""
        return self._next

    def is_stored(self, index: int) -> bool:
        """Whether chunk `index` is in the file."""
        return index < self._next or index in self._early

    def stored(self, index: int, pieces: Pieces) -> None:
        """Note that chunk `index` was stored."""
        self._early[index] = pieces
        while (pieces_next := self._early.pop(self._next, None)) is not None:
            self.checksum.extend(pieces_next)
            self._next += 1

    def require_same(self, index: int, pieces: Pieces) -> None:
        """Raise unless the chunk stored as `index` holds what `pieces` describe.

        Raises
        ------
        SinkError
            It holds other rows: the run that is being resumed was given other input.
        """
        size_bytes = sum(size for size, _ in pieces)
        known: tuple[int, int | None]
        if index in self._early:
            known = sum(size for size, _ in self._early[index]), joined(self._early[index])
        else:
            start, stop = (
                min(self.codec.grid.first_element(place) * self.codec.dtype.itemsize, self.checksum.size_bytes)
                for place in (index, index + 1)
            )
            known = stop - start, self.checksum.between(start, stop)
        if known != (size_bytes, joined(pieces)):
            raise SinkError(
                f"dataset {self.name!r}: chunk {index} was stored with other rows before; "
                f"the input has changed since the interrupted run, start again without resuming it",
                dataset=self.name,
                chunk=index,
            )

    def require_place(self, index: int, data_bytes: int) -> None:
        """Raise unless a chunk of this size can stand at `index`: only the last one may be short.

        Raises
        ------
        SinkError
            It cannot.
        """
        size = self.codec.row_bytes
        if index < 0 or not 0 < data_bytes <= self.codec.bound_bytes or data_bytes % size:
            raise SinkError(
                f"dataset {self.name!r}: chunk {index} has {data_bytes} bytes; "
                f"a chunk has 1 to {self.codec.chunk_rows} rows of {size} bytes",
                dataset=self.name,
                chunk=index,
            )
        last = max((self._next - 1, index, *self._early))
        if data_bytes < self.codec.bound_bytes:
            self._short = index if self._short is None else min(index, self._short)
        if self._short is not None and self._short < last:
            raise SinkError(
                f"dataset {self.name!r}: chunk {self._short} is not full, and chunk {last} follows it",
                dataset=self.name,
                chunk=self._short,
            )

    def require_growing(self) -> None:
        """Raise unless the dataset takes rows.

        Raises
        ------
        SinkError
            It is finished, or was to be written whole.
        """
        if self.finished:
            raise SinkError(f"dataset {self.name!r} is finished and takes no more rows", dataset=self.name)
        if self.declared.rows is not None and not self.declared.encoded:
            raise SinkError(f"dataset {self.name!r} was not written whole; write it again", dataset=self.name)

    def require_equal(self, values: np.ndarray[Any, Any]) -> None:
        """Raise unless `values` are what the finished dataset holds.

        Raises
        ------
        SinkError
            They are not.
        """
        rows = values.shape[0] if values.ndim else 1
        kind = self.codec.dtype, self.declared.rows, self.declared.trailing
        if kind != (values.dtype, rows, values.shape[1:]) or self.checksum.value != crc32(plain_bytes(values)):
            raise SinkError(
                f"dataset {self.name!r} is there already, with other contents; choose another name", dataset=self.name
            )

    def finish(self, chunk_shape: tuple[int, ...]) -> None:
        """Take no more rows; chunks are of this shape from now on."""
        self.finished = True
        if chunk_shape != self.codec.grid.chunk_shape:
            self.codec = msgspec.structs.replace(self.codec, grid=Grid(self.declared.trailing, chunk_shape))

    def require_whole(self, rows: int | None) -> None:
        """Raise unless every chunk up to the last is stored, and `rows` rows in all when that is known.

        Raises
        ------
        SinkError
            A chunk never came, or others than those handed over are stored.
        """
        if self._early:
            raise SinkError(
                f"dataset {self.name!r}: chunk {self._next} was never stored, though chunk {max(self._early)} was",
                dataset=self.name,
                chunk=self._next,
            )
        if rows is not None and rows != self.rows_stored:
            raise SinkError(
                f"dataset {self.name!r}: {self.rows_stored} rows are stored, {rows} were handed over; "
                f"if the input has changed since the run that is resumed, start again without resuming it",
                dataset=self.name,
                rows=self.rows_stored,
            )

    def sources_checked(self) -> list[Source]:
        """The sources in row order, each with the checksum of its rows."""
        size = self.codec.row_bytes
        result = []
        for source in sorted(self.sources, key=lambda source: (source.start, source.stop)):
            value = self.checksum.between(source.start * size, source.stop * size)
            result.append(msgspec.structs.replace(source, checksum=None if value is None else format_checksum(value)))
        return result
