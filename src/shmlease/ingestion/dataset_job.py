"""One dataset on its way: pieces of files in their order, parsed in any order, become parts, chunks, and rows of the file.

Rows are counted in file order, so that a run gives the same result whatever its workers do, and whenever it was
interrupted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from shmlease.errors import TicketError
from shmlease.hdf5.chunking import ChunkPlan, PlannedChunk
from shmlease.hdf5.columnar_sink import AnySink
from shmlease.hdf5.columns import AnyCodec
from shmlease.ingestion.bad_rows import BadRows
from shmlease.ingestion.budget import CHUNK_BYTES, most_rows
from shmlease.ingestion.file_progress import FileProgress
from shmlease.ingestion.piece_source import PieceSource
from shmlease.ingestion.private_memory import Memory
from shmlease.ingestion.readers import HeldText, Input, StreamReader
from shmlease.ingestion.report import FileReport
from shmlease.ingestion.tasks import Encoded, ParsedPiece
from shmlease.ingestion.work import EncodeWork, HeldPart, ParseWork, ReadWork
from shmlease.text.blocks import Piece
from shmlease.text.schema import Schema

if TYPE_CHECKING:
    from shmlease.client.ticket import Ticket

__all__ = ["DatasetJob"]

_SMALL_CHUNK_BYTES = 16 << 10  # no less, for those who append later


class DatasetJob:
    """The making of one dataset.

    Parameters
    ----------
    name : str
        The dataset.
    inputs : sequence of Input
        Its files, in order.
    sink, registry, bad_rows
        Of the run.
    position : mapping, optional
        Where an interrupted run had come to, as `position` gave it.
    attributes : mapping, optional
        Of the dataset, as the user wants them.
    in_turn : bool
        Its pieces are parsed one after another: so many datasets are made at once that workers have enough to do. The first
        row of each piece is then known, and its chunks are made where its rows are parsed.

    Attributes
    ----------
    held_bytes : int
        Bytes of the segments that this process holds for the dataset.
    counts_files : bool
        Its position says which files are done, also once it is finished.
    wants_checkpoint : bool
        A checkpoint is due, however little came since the last.
    """

    counts_files: ClassVar[bool] = False
    wants_checkpoint: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        inputs: Sequence[Input],
        sink: AnySink,
        registry: Memory,
        bad_rows: BadRows,
        chunks_a_task: int,
        position: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
        *,
        in_turn: bool = False,
    ) -> None:
        self.name = name
        self.in_turn = in_turn
        table = inputs[0].context.table
        codec = _declare(sink, name, table.schema, _small_chunk_rows(inputs))
        found = {key: _number_or_text(value) for key, value in table.attributes}
        sink.attributes(name).update(table.schema.attributes | found | dict(attributes or {}))
        changed = msgspec.structs.replace
        inputs = [changed(each, context=changed(each.context, codec=codec)) for each in inputs]
        self._last_input = inputs[-1]
        self._sink = sink
        self._registry = registry
        self._chunks_a_task = chunks_a_task
        self.files = FileProgress(name, inputs, sink, bad_rows, position)
        self._pieces = PieceSource(inputs, registry, self.files.counts, in_turn=in_turn)
        self.resumed_rows = sink.completed().rows.get(name, 0)
        self.chunk_plan: ChunkPlan[HeldPart] = sink.plan(name)
        self._dispatched = self._settled = 0
        self._arrived: dict[int, tuple[ParseWork, list[HeldPart], ParsedPiece]] = {}
        self._stored_early: set[int] = set()
        self._held: set[HeldPart | HeldText] = set()
        self.held_bytes = 0
        self._chunks_open = 0
        self._rest_planned = False
        self.has_stored = False
        self.is_finished = False

    # --- dispatching -------------------------------------------------------------------------------------------------

    @property
    def has_input(self) -> bool:
        """Whether there are pieces left to dispatch, now or once a block has been read."""
        return self._pieces.has_input

    def next_work(self) -> ParseWork | ReadWork | None:
        """The next piece to parse or block to read; None while there is none."""
        if self.in_turn and self._dispatched > self._settled:
            return None
        piece = self._pieces.next()
        if isinstance(piece, StreamReader):
            return ReadWork(self, piece, self._pieces.current)
        if piece is not None:
            return self._parse_work(self._pieces.current, piece, None, is_last=self._pieces.is_last)
        return None

    def take_text(self, work: ReadWork, text: HeldText) -> ParseWork:
        """Take a block that was read."""
        work.reader.is_reading = False
        self._hold(text)
        work.reader.unclaimed = None
        return self._parse_work(work.source, None, text, is_last=False)

    def take_piece(self, work: ReadWork, piece: Piece) -> ParseWork:
        """Take where a block lies in its file."""
        work.reader.is_reading = False
        return self._parse_work(work.source, piece, None, is_last=False)

    def take_end_of_file(self, work: ReadWork) -> None:
        """Take note that there was no further block to read."""
        work.reader.is_reading = False
        work.reader.is_at_end = True
        self.files.take_crc32(work.source, work.reader.file_crc32)

    def _parse_work(self, source: Input, piece: Piece | None, text: HeldText | None, *, is_last: bool) -> ParseWork:
        start_row = self.chunk_plan.rows if self._dispatched == self._settled else None
        work = ParseWork(self, source, self._dispatched, piece, text, start_row, is_last, self._pieces.steps)
        self._dispatched += 1
        return work

    # --- results --------------------------------------------------------------------------------------------------------

    def take_parsed(self, work: ParseWork, parsed: ParsedPiece) -> list[EncodeWork]:
        """Take what a piece held; gives the chunks that can be encoded now.

        Raises
        ------
        TicketError
            A ticket has run out; nothing was taken.
        """
        parts: list[HeldPart] = []
        try:
            for part in parsed.parts:
                parts.append(HeldPart(None if part.ticket is None else self._registry.redeem(part.ticket)))
                self._hold(parts[-1])
            if parsed.encoded is not None:
                self._store(parsed.encoded)
        except TicketError:
            for held in parts:
                self._release(held)
            raise
        if parsed.encoded is not None:
            self._stored_early.update(index for index, _, _ in parsed.encoded.chunks)
        if work.text is not None:
            self._release(work.text)
        if work.steps is not None:
            work.steps.take(parsed)
            if parsed.is_end:
                self.files.take_crc32(work.source, parsed.file_crc32)
        self._arrived[work.number] = work, parts, parsed
        works: list[EncodeWork] = []
        while self._settled in self._arrived:
            settled = self._arrived.pop(self._settled)
            self._settled += 1
            works += self._settle(*settled)
        return works + self.take_end()

    def _settle(self, work: ParseWork, parts: list[HeldPart], parsed: ParsedPiece) -> list[EncodeWork]:
        self.files.take_parsed(work.source, parsed, self.chunk_plan.rows)
        chunks: list[PlannedChunk[HeldPart]] = []
        for part, held in zip(parsed.parts, parts, strict=True):
            chunks += self.chunk_plan.add(held, part.rows)
        return self._encode_works(chunks, work.source)

    def take_end(self) -> list[EncodeWork]:
        """Whatever is complete now: the last chunk when nothing follows, and the dataset when all chunks are stored."""
        works: list[EncodeWork] = []
        if not self._rest_planned and self._settled == self._dispatched and not self._pieces.has_more():
            self._rest_planned = True
            self.files.close(self.chunk_plan.rows)
            works = self._encode_works(self.chunk_plan.finish(), self._last_input)
        self._release_unused()
        return works

    def _encode_works(self, chunks: list[PlannedChunk[HeldPart]], source: Input) -> list[EncodeWork]:
        left = []
        for chunk in chunks:
            if chunk.index in self._stored_early:
                self._stored_early.discard(chunk.index)
                self.chunk_plan.done(chunk)
            else:
                left.append(chunk)
        self._chunks_open += len(left)
        step = self._chunks_a_task
        return [EncodeWork(self, source, left[start : start + step]) for start in range(0, len(left), step)]

    def take_encoded(self, work: EncodeWork, encoded: Encoded) -> None:
        """Store chunks."""
        self._store(encoded)
        for chunk in work.chunks:
            self.chunk_plan.done(chunk)
        self._chunks_open -= len(work.chunks)
        self._release_unused()

    def _store(self, encoded: Encoded) -> None:
        self.has_stored = True
        lease = None if encoded.ticket is None else self._registry.redeem(encoded.ticket)
        with lease or contextlib.nullcontext():
            for index, place, chunk in encoded.chunks:
                self._sink.append_encoded(self.name, index, chunk, encoded.payload(lease, place, chunk))

    def _release_unused(self) -> None:
        for part in self.chunk_plan.take_unused():
            self._release(part)
        if self._rest_planned and not self._chunks_open and not self.is_finished:
            self.files.finish()
            self._sink.finish(self.name, rows=self.chunk_plan.rows)
            self.is_finished = True

    def _hold(self, held: HeldPart | HeldText) -> None:
        if held.lease is not None:
            self._held.add(held)
            self.held_bytes += held.lease.nbytes

    def _release(self, held: HeldPart | HeldText) -> None:
        if held in self._held and held.lease is not None:
            self._held.discard(held)
            self.held_bytes -= held.lease.nbytes
            held.lease.release()

    # --- the rest ------------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows settled so far."""
        return self.chunk_plan.rows

    @property
    def bytes_done(self) -> int:
        """Bytes of files settled so far."""
        return self.files.bytes_done

    @property
    def reports(self) -> list[FileReport]:
        """What became of the files that were settled."""
        return self.files.reports

    def row_counts(self) -> dict[str, int]:
        """For a checkpoint: the rows of the dataset."""
        return {self.name: self.chunk_plan.rows}

    def position(self) -> dict[str, Any]:
        """For a checkpoint: where the files have come to; nothing if that is their beginning."""
        return self.files.position()

    def reclaim_tickets(self, tickets: Sequence[Ticket]) -> None:
        """Use up tickets that a dead worker was given, so that nothing waits for it."""
        for ticket in tickets:
            with contextlib.suppress(TicketError):  # it had redeemed it
                self._registry.redeem(ticket).release()

    def abandon(self) -> None:
        """Release everything; no block is being read any more."""
        unclaimed = self._pieces.unclaimed()
        if unclaimed is not None:
            self._hold(unclaimed)
        for held in list(self._held):
            self._release(held)


def _declare(sink: AnySink, name: str, schema: Schema, chunk_rows: int | None) -> AnyCodec:
    """Start a dataset for rows of this schema."""
    if schema.matrix:
        dtype = schema.fields[0].dtype
        return sink.declare(name, dtype.base, dtype.shape, chunk_rows=chunk_rows, transposed=schema.transpose)
    return sink.declare(name, schema.dtype, labels=schema.labels, chunk_rows=chunk_rows, variable=schema.variable)


def _small_chunk_rows(inputs: Sequence[Input]) -> int | None:
    """Rows of a chunk for files that do not fill one of the usual size; None for others.

    The rest of a chunk is zeros, which take time to encode and a thousandth of their size in the file.
    """
    tables = [each.context.table for each in inputs]
    if any(table.compression != "plain" for table in tables):
        return None
    row_bytes = tables[0].schema.dtype.itemsize
    rows = sum(most_rows(table.schema, table.extent[1] - table.extent[0]) for table in tables)
    if rows * row_bytes >= CHUNK_BYTES // 2:
        return None
    return max(rows, _SMALL_CHUNK_BYTES // row_bytes, 1)


def _number_or_text(value: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value
