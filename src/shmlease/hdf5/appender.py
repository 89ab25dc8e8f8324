"""Rows of any number cut into chunks: full ones are encoded where they lie, what is left over waits for more."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from shmlease.hdf5 import write_ahead_log
from shmlease.hdf5.chunk_encoding import ChunkEncoder
from shmlease.hdf5.dataset import DatasetState
from shmlease.hdf5.encoder_pool import EncoderPool
from shmlease.hdf5.partial_chunk import Remainder
from shmlease.hdf5.session import Session

__all__ = ["Appender"]

Array = np.ndarray[Any, Any]


class Appender:
    """Brings the rows of a session's datasets into chunks, in `encoders` threads."""

    def __init__(self, session: Session, encoders: int | None) -> None:
        self._session = session
        self._pool = EncoderPool(encoders)
        self._encoders: dict[str, ChunkEncoder] = {}
        self._remainders: dict[str, Remainder] = {}
        self._moved: set[str] = set()  # datasets that took rows since the last checkpoint
        for state in session.datasets.values():
            if state.declared.rows is None and not state.declared.encoded:
                self._refill(state)

    def append(self, state: DatasetState, rows: Array) -> None:
        """Take rows; they are free again when this returns."""
        codec, remainder, first = state.codec, self._remainder(state), state.cursor
        state.cursor += len(rows)
        self._moved.add(state.name)
        if not codec.row_bytes:
            return
        start = remainder.take(rows) if remainder.rows else 0
        if remainder.is_full:
            self._encode(state, first + start - codec.chunk_rows, remainder.release())
        stop = start + (len(rows) - start) // codec.chunk_rows * codec.chunk_rows
        for place in range(start, stop, codec.chunk_rows):
            self._encode(state, first + place, [rows[place : place + codec.chunk_rows]])
        if stop > start:
            self._pool.drain()  # until here the encoders read the caller's memory
        remainder.take(rows[stop:])

    def write(self, state: DatasetState, values: Array) -> None:
        """Take the whole of a dataset whose number of rows was known."""
        step = state.codec.chunk_rows
        for place in range(0, len(values), step):
            self._encode(state, place, [values[place : place + step]])
        self._pool.drain()
        state.cursor = len(values)

    def mark(self, state: DatasetState, rows: Iterable[int]) -> None:
        """Note the rows where sources meet, so that each gets a checksum of its own."""
        remainder = self._remainders.get(state.name)
        if remainder is not None:
            for row in rows:
                remainder.mark(row - (state.cursor - remainder.rows))

    def settle(self) -> dict[str, int]:
        """Store or log all rows taken; returns the rows of the datasets that took some since the last time."""
        self._pool.drain()
        moved = {name: self._session.datasets[name].cursor for name in sorted(self._moved)}
        for name, cursor in moved.items():
            remainder = self._remainders.get(name)  # none once the dataset is finished
            if remainder is not None and remainder.logged < remainder.rows:
                start = cursor - remainder.rows + remainder.logged
                start_byte = start * self._session.datasets[name].codec.row_bytes
                self._session.log(write_ahead_log.Remainder(name, start_byte, remainder.unlogged()))
        self._moved.clear()
        return moved

    def finish(self, state: DatasetState) -> None:
        """Store the rows that fill no chunk; none follow."""
        self._pool.drain()
        remainder = self._remainders.pop(state.name, None)
        left = remainder.rows if remainder is not None else 0
        shape = state.codec.grid.chunk_shape
        if left and not state.first_missing:
            shape = (left, *shape[1:])  # all rows there are: the chunk need not be larger
        self._session.finish(state, shape)
        if remainder is not None and left:
            self._encode(state, state.cursor - left, remainder.release())
            self._pool.drain()

    def close(self) -> None:
        """Drop what is not stored, and end the threads."""
        self._pool.close()

    def _encode(self, state: DatasetState, first_row: int, pieces: list[Array]) -> None:
        grid = state.codec.grid
        encoder = self._encoders.get(state.name)
        if encoder is None or encoder.codec is not state.codec:
            encoder = self._encoders[state.name] = ChunkEncoder(state.codec)
        index = first_row // grid.chunk_rows * grid.chunks_per_row_block
        # only rows larger than a chunk make several, and those come one at a time
        chunks = [pieces] if grid.chunks_per_row_block == 1 else ([part] for part in grid.cut(pieces[0]))
        for place, chunk in enumerate(chunks, start=index):
            self._pool.encode(encoder, chunk, partial(self._session.put_chunk, state, place))

    def _remainder(self, state: DatasetState) -> Remainder:
        remainder = self._remainders.get(state.name)
        if remainder is None:
            codec = state.codec
            remainder = self._remainders[state.name] = Remainder(codec.dtype, codec.grid.trailing, codec.chunk_rows)
        return remainder

    def _refill(self, state: DatasetState) -> None:
        """Gather again the rows of the chunk that an interrupted run was filling."""
        remainder = self._remainder(state)
        remainder.take(self._session.pending_rows(state))
        if state.rows_stored < state.cursor:
            remainder.logged = remainder.rows
        for source in state.sources:
            remainder.mark(source.stop - (state.cursor - remainder.rows))
