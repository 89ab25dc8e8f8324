"""One dataset that a reader's arrays go to: the plan of its chunks, and what it still needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from shmlease.hdf5 import HDF5Sink
from shmlease.hdf5.chunking import ChunkPlan, PlannedChunk
from shmlease.ingestion.private_memory import Memory
from shmlease.ingestion.tasks import LEASE_TIMEOUT_S, LoadContext
from shmlease.ingestion.work import HeldPart

if TYPE_CHECKING:
    from shmlease.client.lease import Lease

__all__ = ["GrowingDataset"]


class GrowingDataset:
    """A dataset of rows, in the order of their files.

    Parameters
    ----------
    number : int
        In the run.
    name : str
        Path of the dataset.
    dtype, trailing : numpy.dtype, tuple of int
        Of its rows.
    sink, registry : HDF5Sink, Memory
        Of the run.

    Attributes
    ----------
    chunks_open : int
        Chunks that are being encoded.
    parts : set of HeldPart
        Rows that this process holds for it.
    """

    def __init__(
        self,
        number: int,
        name: str,
        dtype: np.dtype[Any],
        trailing: tuple[int, ...],
        sink: HDF5Sink,
        registry: Memory,
    ) -> None:
        self.name = name
        self.codec = sink.declare(name, dtype, trailing)
        self.context = LoadContext(number, self.codec)
        self._sink = sink
        self.chunks_open = 0
        self.parts: set[HeldPart] = set()
        pending = sink.pending(name)
        start_row = sink.completed().rows.get(name, 0) - sum(map(len, pending))
        self._logged_row = start_row
        # what was stored beyond is planned again, and compared when it comes
        self._plan: ChunkPlan[HeldPart] = ChunkPlan(self.codec.chunk_rows, start_row=start_row)
        for rows in pending:
            lease = registry.lease(shape=rows.shape, dtype=rows.dtype, timeout=LEASE_TIMEOUT_S)
            lease.array[...] = rows
            self.add(HeldPart(lease), len(rows))

    @property
    def rows(self) -> int:
        """So far."""
        return self._plan.rows

    def add(self, part: HeldPart, rows: int) -> list[PlannedChunk[HeldPart]]:
        """Take the next rows; gives the chunks that can be encoded now."""
        self.parts.add(part)
        chunks = self._plan.add(part, rows)
        self.chunks_open += len(chunks)
        return chunks

    def add_stored(self, rows: int) -> None:
        """Count whole chunks that are stored already."""
        for chunk in self._plan.add(HeldPart(None), rows):
            self._plan.done(chunk)

    def finish(self) -> list[PlannedChunk[HeldPart]]:
        """No rows follow: the last chunk."""
        chunks = self._plan.finish()
        self.chunks_open += len(chunks)
        return chunks

    def done(self, chunks: list[PlannedChunk[HeldPart]], release: Callable[[Lease | None], None]) -> None:
        """Chunks were stored; `release` is called for the rows that nothing needs any more."""
        for chunk in chunks:
            self._plan.done(chunk)
        self.chunks_open -= len(chunks)
        self.release_unused(release)

    def release_unused(self, release: Callable[[Lease | None], None]) -> None:
        """Call `release` for the rows that nothing needs."""
        for part in self._plan.take_unused():
            if part in self.parts:
                self.parts.discard(part)
                release(part.lease)

    def log_pending(self) -> None:
        """Keep the rows that fill no chunk yet in the write-ahead log, so that a checkpoint can count them."""
        pieces = self._plan.pending
        first = self.rows - sum(piece.stop - piece.start for piece in pieces)
        start = max(self._logged_row, first)
        skip = start - first
        arrays = []
        for piece in pieces:
            count = piece.stop - piece.start
            if skip < count and piece.part.lease is not None:
                arrays.append(piece.part.lease.array[piece.start + skip : piece.stop])
            skip = max(skip - count, 0)
        if arrays:
            self._sink.log_rows(self.name, start, arrays)
        self._logged_row = self.rows
