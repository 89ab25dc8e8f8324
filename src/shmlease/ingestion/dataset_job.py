"""One dataset on its way: pieces of files in their order, parsed in any order, become parts, chunks, and rows of the file.

Rows are counted, malformed lines numbered and the ends of files noted strictly in file order, so that
a run gives the same result whatever its workers do, and whenever it was interrupted.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from shmlease.client.handle import RegistryHandle
from shmlease.client.ticket import Ticket
from shmlease.errors import IngestError, TicketError
from shmlease.hdf5 import HDF5Sink
from shmlease.hdf5.checksum import combine
from shmlease.hdf5.chunking import ChunkPlan, PlannedChunk
from shmlease.hdf5.provenance import Source, checksum_of_file, format_checksum
from shmlease.ingestion.bad_rows import BadRows
from shmlease.ingestion.readers import FilePieces, HeldText, Input, StreamReader, open_reader
from shmlease.ingestion.report import FileReport
from shmlease.ingestion.tasks import Encoded, ParsedPiece
from shmlease.ingestion.work import EncodeWork, HeldPart, ParseWork, ReadWork
from shmlease.text.blocks import Piece

__all__ = ["DatasetJob", "report_of"]


class _FileState(msgspec.Struct):
    """How far a file was settled: what a checkpoint keeps, besides the rows themselves."""

    file: int = 0
    text_bytes: int = 0
    lines: int = 0
    crc32: int = 0
    start_row: int = 0
    rejected: int = 0
    kept_bytes: int = 0
    notes: dict[str, int] = msgspec.field(default_factory=dict)


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
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[Input],
        sink: HDF5Sink,
        registry: RegistryHandle,
        bad_rows: BadRows,
        chunks_a_task: int,
        position: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.reports: list[FileReport] = []
        codec = sink.declare(name, inputs[0].context.table.schema.dtype)
        self._inputs = [replace(each, context=replace(each.context, codec=codec)) for each in inputs]
        self._sink = sink
        self._registry = registry
        self._bad_rows = bad_rows
        self._chunks_a_task = chunks_a_task
        self._state = msgspec.convert(position or {}, _FileState)
        bad_rows.resume(name, self._state.kept_bytes)
        done = sink.completed()
        self._known_sources = {(s.path, s.start, s.stop) for s in done.sources.get(name, ())}
        self.reports += [report_of(source, name) for source in done.sources.get(name, ())][: self._state.file]
        self.resumed_rows = done.rows.get(name, 0)
        self.chunk_plan: ChunkPlan[HeldPart] = sink.plan(name)
        self._opened = self._state.file  # the file whose pieces are being dispatched
        self._reader: FilePieces | StreamReader | None = None
        self._dispatched = self._settled = 0
        self._arrived: dict[int, tuple[ParseWork, list[HeldPart], ParsedPiece]] = {}
        self._stored_early: set[int] = set()
        self._held: set[HeldPart | HeldText] = set()
        self._file_crc32s: dict[int, int | None] = {}
        self._chunks_open = 0
        self._rest_planned = False
        self.has_stored = False
        self.is_finished = False

    # --- dispatching ----------------------------------------------------------------------------------------------------

    @property
    def has_input(self) -> bool:
        """Whether there are pieces left to dispatch, now or once a block has been read."""
        return self._opened < len(self._inputs)

    @property
    def source(self) -> Input:
        """The file whose pieces are being dispatched."""
        return self._inputs[self._opened]

    def next_work(self) -> ParseWork | ReadWork | None:
        """The next piece to parse or block to read; None while there is none."""
        while self.has_input:
            reader = self._open_reader()
            if reader.is_at_end:
                self._reader = None
                self._opened += 1
            elif isinstance(reader, FilePieces):
                piece = reader.next()
                is_last = reader.is_at_end and self._opened == len(self._inputs) - 1
                return self._parse_work(self.source, piece, None, is_last=is_last)
            elif reader.is_reading:
                return None
            else:
                reader.is_reading = True
                return ReadWork(self, reader, self.source)
        return None

    def take_text(self, work: ReadWork, text: HeldText) -> ParseWork:
        """Take a block that was read."""
        work.reader.is_reading = False
        self._held.add(text)
        work.reader.unclaimed = None
        return self._parse_work(work.source, None, text, is_last=False)

    def take_end_of_file(self, work: ReadWork) -> None:
        """Take note that there was no further block to read."""
        work.reader.is_reading = False
        work.reader.is_at_end = True
        self._file_crc32s[work.source.index] = work.reader.file_crc32

    def _open_reader(self) -> FilePieces | StreamReader:
        if self._reader is None:
            resumed = self._state if self._opened == self._state.file else _FileState()
            self._reader = open_reader(self.source, resumed.text_bytes, self._registry)
        return self._reader

    def _parse_work(self, source: Input, piece: Piece | None, text: HeldText | None, *, is_last: bool) -> ParseWork:
        start_row = self.chunk_plan.rows if self._dispatched == self._settled else None
        work = ParseWork(self, source, self._dispatched, piece, text, start_row, is_last)
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
                self._held.add(parts[-1])
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
        self._arrived[work.number] = work, parts, parsed
        works: list[EncodeWork] = []
        while self._settled in self._arrived:
            settled = self._arrived.pop(self._settled)
            self._settled += 1
            works += self._settle(*settled)
        return works + self.take_end()

    def _settle(self, work: ParseWork, parts: list[HeldPart], parsed: ParsedPiece) -> list[EncodeWork]:
        place = work.source.index - self._inputs[0].index
        self._close_files(before=place)
        state, table = self._state, work.source.context.table
        lines_before = table.data_line - 1 + state.lines
        bad = [each.below(lines_before) for each in parsed.bad]
        self._bad_rows.take(self.name, place, work.source.path, bad)
        state.lines += parsed.lines
        state.crc32 = combine(state.crc32, parsed.crc32, parsed.text_bytes)
        state.text_bytes += parsed.text_bytes
        state.rejected += parsed.bad_count
        state.notes = dict(Counter(state.notes) + parsed.notes)
        chunks: list[PlannedChunk[HeldPart]] = []
        for part, held in zip(parsed.parts, parts, strict=True):
            chunks += self.chunk_plan.add(held, part.rows)
        return self._encode_works(chunks, work.source)

    def take_end(self) -> list[EncodeWork]:
        """Whatever is complete now: the last chunk when nothing follows, and the dataset when all chunks are stored."""
        works: list[EncodeWork] = []
        if not self._rest_planned and self._settled == self._dispatched and not self._has_more():
            self._rest_planned = True
            self._close_files(before=len(self._inputs))
            works = self._encode_works(self.chunk_plan.finish(), self._inputs[-1])
        self._release_unused()
        return works

    def _has_more(self) -> bool:
        while self.has_input and self._open_reader().is_at_end:
            self._reader = None
            self._opened += 1
        return self.has_input

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
        with self._registry.redeem(encoded.ticket) as lease:
            for index, place, chunk in encoded.chunks:
                self._sink.append_encoded(self.name, index, chunk, lease.array[place : place + chunk.size_bytes])

    def _release_unused(self) -> None:
        for part in self.chunk_plan.take_unused():
            self._release(part)
        if self._rest_planned and not self._chunks_open and not self.is_finished:
            self._bad_rows.finish(self.name, [each.path for each in self._inputs])
            self._sink.finish(self.name, rows=self.chunk_plan.rows)
            self.is_finished = True

    def _release(self, held: HeldPart | HeldText) -> None:
        self._held.discard(held)
        if held.lease is not None:
            held.lease.release()

    # --- files ---------------------------------------------------------------------------------------------------------

    def _close_files(self, before: int) -> None:
        """Note where the rows of each file end, up to the file `before`."""
        while self._state.file < before:
            state, source = self._state, self._inputs[self._state.file]
            source.require_unchanged()
            rows = state.start_row, self.chunk_plan.rows
            if (source.path, *rows) not in self._known_sources:
                self._sink.source(
                    self.name,
                    path=source.path,
                    rows=rows,
                    size_bytes=source.mark.size_bytes,
                    digest=format_checksum(self._crc32(source, state)),
                    lines=state.lines,
                    rejected=state.rejected,
                    notes=state.notes,
                )
            size_bytes = source.mark.size_bytes
            self.reports.append(
                FileReport(source.path, self.name, rows[0], rows[1] - rows[0], state.rejected, size_bytes, state.notes)
            )
            self._state = _FileState(file=state.file + 1, start_row=self.chunk_plan.rows)

    def _crc32(self, source: Input, state: _FileState) -> int:
        """Of the file as it lies on the disk."""
        table = source.context.table
        if table.compression != "plain":
            known = self._file_crc32s.pop(source.index, None)
            return checksum_of_file(source.path) if known is None else known
        if table.data_offset + state.text_bytes != source.mark.size_bytes:
            raise IngestError(
                f"{source.path}: {table.data_offset + state.text_bytes} bytes were read of a file of "
                f"{source.mark.size_bytes}; it was changed meanwhile; run again when it no longer changes",
                path=source.path,
            )
        return combine(checksum_of_file(source.path, table.data_offset), state.crc32, state.text_bytes)

    # --- the rest ------------------------------------------------------------------------------------------------------

    @property
    def bytes_done(self) -> int:
        """Of the files as they lie on the disk: those that were settled, and as much of the next as is known."""
        done = sum(report.size_bytes for report in self.reports)
        if self._state.file < len(self._inputs):
            table = self._inputs[self._state.file].context.table
            done += self._state.text_bytes if table.compression == "plain" else 0
        return done

    @property
    def held_bytes(self) -> int:
        """Bytes of the segments that this process holds for the dataset."""
        return sum(held.lease.nbytes for held in self._held if held.lease is not None)

    def position(self) -> dict[str, Any]:
        """Where the dataset has come to, for a checkpoint of `plan.rows` rows."""
        self._state.kept_bytes = self._bad_rows.kept_bytes(self.name)
        position: dict[str, Any] = msgspec.to_builtins(self._state)
        return position

    def reclaim_tickets(self, tickets: Sequence[Ticket]) -> None:
        """Use up tickets that a dead worker was given, so that nothing waits for it."""
        for ticket in tickets:
            with contextlib.suppress(TicketError):  # it had redeemed it
                self._registry.redeem(ticket).release()

    def abandon(self) -> None:
        """Release everything; no block is being read any more."""
        if isinstance(self._reader, StreamReader) and self._reader.unclaimed is not None:
            self._held.add(self._reader.unclaimed)
        for held in list(self._held):
            self._release(held)


def report_of(source: Source, dataset: str) -> FileReport:
    """What became of a file, from the record that an interrupted run kept of it."""
    details = source.details
    return FileReport(
        source.path or "",
        dataset,
        source.start,
        source.stop - source.start,
        details.get("rejected", 0),
        source.size_bytes or 0,
        details.get("notes", {}),
    )
