"""Rows of any number cut into chunks: full ones are encoded where they lie, what is left over waits for more."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from shmlease.hdf5 import write_ahead_log
from shmlease.hdf5.chunk_encoding import ChunkEncoder
from shmlease.hdf5.dataset import Progress
from shmlease.hdf5.encoder_pool import EncodePool
from shmlease.hdf5.remainder import Rest
from shmlease.hdf5.session import Session

__all__ = ["Appender"]

Array = np.ndarray[Any, Any]


class Appender:
    """Brings the rows of a session's datasets into chunks, in `encoders` threads."""

    def __init__(self, session: Session, encoders: int | None) -> None:
        self._session = session
        self._pool = EncodePool(encoders)
        self._encoders: dict[str, ChunkEncoder] = {}
        self._rests: dict[str, Rest] = {}
        self._moved: set[str] = set()  # datasets that took rows since the last checkpoint
        for progress in session.datasets.values():
            if progress.declared.rows is None and not progress.declared.encoded:
                self._refill(progress)

    def append(self, progress: Progress, rows: Array) -> None:
        """Take rows; they are free again when this returns."""
        codec, rest, first = progress.codec, self._rest(progress), progress.cursor
        progress.cursor += len(rows)
        self._moved.add(progress.name)
        if not codec.row_bytes:
            return
        start = rest.take(rows) if rest.rows else 0
        if rest.is_full:
            self._encode(progress, first + start - codec.chunk_rows, rest.release())
        stop = start + (len(rows) - start) // codec.chunk_rows * codec.chunk_rows
        for place in range(start, stop, codec.chunk_rows):
            self._encode(progress, first + place, [rows[place : place + codec.chunk_rows]])
        if stop > start:
            self._pool.drain()  # until here the encoders read the caller's memory
        rest.take(rows[stop:])

    def write(self, progress: Progress, values: Array) -> None:
        """Take the whole of a dataset whose number of rows was known."""
        step = progress.codec.chunk_rows
        for place in range(0, len(values), step):
            self._encode(progress, place, [values[place : place + step]])
        self._pool.drain()
        progress.cursor = len(values)

    def mark(self, progress: Progress, rows: Iterable[int]) -> None:
        """Note the rows where sources meet, so that each gets a checksum of its own."""
        rest = self._rests.get(progress.name)
        if rest is not None:
            for row in rows:
                rest.mark(row - (progress.cursor - rest.rows))

    def settle(self) -> dict[str, int]:
        """Store or journal all rows taken; returns the rows of the datasets that took some since the last time."""
        self._pool.drain()
        moved = {name: self._session.datasets[name].cursor for name in sorted(self._moved)}
        for name, cursor in moved.items():
            rest = self._rests.get(name)  # none once the dataset is finished
            if rest is not None and rest.journaled < rest.rows:
                start = cursor - rest.rows + rest.journaled
                start_byte = start * self._session.datasets[name].codec.row_bytes
                self._session.log(write_ahead_log.Rest(name, start_byte, rest.unjournaled()))
        self._moved.clear()
        return moved

    def finish(self, progress: Progress) -> None:
        """Store the rows that fill no chunk; none follow."""
        self._pool.drain()
        rest = self._rests.pop(progress.name, None)
        left = rest.rows if rest is not None else 0
        shape = progress.codec.grid.chunk_shape
        if left and not progress.first_missing:
            shape = (left, *shape[1:])  # all rows there are: the chunk need not be larger
        self._session.finish(progress, shape)
        if rest is not None and left:
            self._encode(progress, progress.cursor - left, rest.release())
            self._pool.drain()

    def close(self) -> None:
        """Drop what is not stored, and end the threads."""
        self._pool.close()

    def _encode(self, progress: Progress, first_row: int, pieces: list[Array]) -> None:
        grid = progress.codec.grid
        encoder = self._encoders.get(progress.name)
        if encoder is None or encoder.codec is not progress.codec:
            encoder = self._encoders[progress.name] = ChunkEncoder(progress.codec)
        index = first_row // grid.chunk_rows * grid.chunks_per_row_block
        # only rows larger than a chunk make several, and those come one at a time
        chunks = [pieces] if grid.chunks_per_row_block == 1 else ([part] for part in grid.cut(pieces[0]))
        for place, chunk in enumerate(chunks, start=index):
            self._pool.encode(encoder, chunk, partial(self._session.put_chunk, progress, place))

    def _rest(self, progress: Progress) -> Rest:
        rest = self._rests.get(progress.name)
        if rest is None:
            codec = progress.codec
            rest = self._rests[progress.name] = Rest(codec.dtype, codec.grid.trailing, codec.chunk_rows)
        return rest

    def _refill(self, progress: Progress) -> None:
        """Gather again the rows of the chunk that an interrupted run was filling."""
        codec, rest = progress.codec, self._rest(progress)
        start = progress.cursor - progress.cursor % codec.chunk_rows
        if not codec.row_bytes or start == progress.cursor:
            return
        if progress.rows_stored >= progress.cursor:
            rest.take(self._session.read_rows(progress, start, progress.cursor))
        else:
            journaled = self._session.recovery.rest(progress.name)
            rest.take(np.frombuffer(journaled, codec.dtype).reshape(-1, *codec.grid.trailing))
            rest.journaled = rest.rows
        for source in progress.sources:
            rest.mark(source.stop - start)
