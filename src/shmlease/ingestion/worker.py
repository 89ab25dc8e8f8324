"""What a worker does with a task: text to rows, rows to chunks, each in a leased segment.

Memory of a worker beside the segments it maps: the interpreter with numpy, one block of text, up to three chunks that the
encoder works in, what they became, and with the numpy parser 6 MiB that it works in.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np

from shmlease.hdf5.checksum import combine, crc32
from shmlease.hdf5.chunk_encoding import EncodedChunk
from shmlease.hdf5.columns import AnyCodec, AnyEncoder, encoder_of
from shmlease.ingestion.private_memory import Memory, PrivateMemory
from shmlease.ingestion.tasks import (
    EXAMPLES,
    TASK_BYTES,
    TICKET_TTL_S,
    Context,
    Encode,
    Encoded,
    Load,
    LoadContext,
    Loaded,
    Measure,
    Measured,
    Parse,
    ParsedPiece,
    Part,
    Result,
    Task,
)
from shmlease.text.blocks import read_piece
from shmlease.text.native_parser import last_row_end_native
from shmlease.text.parser import BadRow
from shmlease.text.parser_choice import PARSERS
from shmlease.text.schema import Schema
from shmlease.text.string_lengths import measure_strings
from shmlease.text.text_buffer import Bytes

if TYPE_CHECKING:
    from shmlease.client.lease import Lease
    from shmlease.ingestion.opened_reader import OpenedReader

__all__ = ["LEASE_STEP_BYTES", "Worker"]

# Leases of rows are whole multiples of this, so that blocks of about the same length recycle each other's segments.
LEASE_STEP_BYTES = 256 << 10
_ENCODED_STEP_BYTES = 128 << 10
# Payloads up to here are sent: 64 KiB through the socket take 30 us, a lease, its ticket and its redemption ten times that.
_SENT_BYTES = 64 << 10
# The coordinator admits no task whose leases do not fit, so waiting is for others who use the same registry.
_LEASE_TIMEOUT_S = 60.0
_ENCODERS_KEPT = 64
_SKIP_STRETCH_BYTES = 1 << 20

Rows = np.ndarray[Any, Any]


class Worker:
    """Runs tasks, one at a time."""

    def __init__(self, registry: Memory) -> None:
        self._registry = registry
        self._private = PrivateMemory()
        self._buffer = bytearray()
        self._encoded = np.empty(0, np.uint8)
        self._encoders: dict[int, AnyEncoder] = {}
        self._opened: OpenedReader | None = None

    def run(self, task: Task) -> Result:
        """Do what `task` says.

        Raises
        ------
        IngestError
            The file cannot be read.
        CapacityError
            There was no room for a lease for a minute.
        TicketError
            A ticket of the task has expired.
        """
        match task:
            case Parse():
                return self._parse(task)
            case Encode():
                return self._encode(task)
            case Measure():
                return self._measure(task)
            case Load():
                return self._load(task)
            case _:
                assert_never(task)

    def _parse(self, task: Parse) -> ParsedPiece:
        rows = _LeasedRows(self._private if self._is_encoded_here(task) else self._registry, task.context)
        lines = text_bytes = checksum = 0
        try:
            for data in self._texts(task):
                content = np.frombuffer(data, np.uint8)
                checksum = combine(checksum, crc32(content), len(content))
                text_bytes += len(content)
                lines += rows.parse(content, lines)
                del content, data  # both are views: of the buffer, or of a segment that is given back
            encoded = None
            if task.start_row is not None:
                encoded = self._encode_whole(task.context, rows.filled(task.context), task.start_row, is_last=task.is_last)
            needed = encoded is None or sum(chunk.data_bytes for _, _, chunk in encoded.chunks) < rows.size_bytes
            parts = rows.parts(needed=needed)
            return ParsedPiece(parts, encoded, lines, text_bytes, checksum, tuple(rows.bad), rows.bad_count, rows.notes)
        finally:
            rows.release()

    @staticmethod
    def _is_encoded_here(task: Parse) -> bool:
        """Whether this is a small file, or the end of one, whose rows nobody else needs: chunks are made of them all."""
        if task.start_row is None or not task.is_last or task.piece is None or task.piece.stop is None:
            return False
        if task.start_row % _required(task.context.codec).chunk_rows:
            return False
        return task.piece.stop - task.piece.offset <= TASK_BYTES

    def _texts(self, task: Parse) -> Iterator[Any]:
        context = task.context
        if task.text is not None:
            with self._registry.redeem(task.text) as lease:
                yield lease.array
        elif task.piece is not None:
            room = context.block_bytes + (128 << 10)  # what read_piece asks for
            if len(self._buffer) < room:
                self._buffer = bytearray(room)
            for block in read_piece(context.table, task.piece, context.block_bytes, self._buffer):
                yield block.data

    def _encode_whole(self, context: Context, parts: list[Rows], start_row: int, *, is_last: bool) -> Encoded | None:
        """The chunks that these rows fill by themselves."""
        codec = _required(context.codec)
        chunks: list[tuple[int, list[Rows]]] = []
        row = start_row
        for part in parts:
            place = 0
            while place < len(part):
                stop = min(len(part), place + codec.chunk_rows - row % codec.chunk_rows)
                if row % codec.chunk_rows == 0:
                    chunks.append((row // codec.chunk_rows, []))
                if chunks:
                    chunks[-1][1].append(part[place:stop])
                row += stop - place
                place = stop
        if chunks and row % codec.chunk_rows and not is_last:
            chunks.pop()
        return self._encode_chunks(context, chunks) if chunks else None

    def _encode(self, task: Encode) -> Encoded:
        leases: list[Lease] = []
        try:
            leases.extend(self._registry.redeem(ticket) for ticket in task.parts)
            chunks = [
                (index, [_stored_form(leases[part].array, task.context)[start:stop] for part, start, stop in pieces])
                for index, pieces in task.chunks
            ]
            encoded = self._encode_chunks(task.context, chunks)
            del chunks
            return encoded
        finally:
            for lease in leases:
                lease.release()

    def _encode_chunks(self, context: Context | LoadContext, chunks: list[tuple[int, list[Rows]]]) -> Encoded:
        """The chunks in a segment just as large as they are: encoded here first, where that makes them smaller.

        Small ones are in no segment.
        """
        codec = _required(context.codec)
        encoder = self._encoder(context.id, codec)
        size = codec.bound_bytes
        if codec.compression == "none" and len(chunks) * size > _SENT_BYTES:
            with self._leased_bytes(len(chunks) * size) as lease:
                stored = [encoder.encode(pieces, lease.array[n * size :][:size]) for n, (_, pieces) in enumerate(chunks)]
                return Encoded(lease.ticket(ttl=TICKET_TTL_S), _placed(chunks, stored))
        if len(self._encoded) < size:
            self._encoded = np.empty(size, np.uint8)
        stored, payloads = [], []
        for _, pieces in chunks:
            stored.append(encoder.encode(pieces, self._encoded))
            payloads.append(self._encoded[: stored[-1].size_bytes].tobytes())
        content = b"".join(payloads)
        if len(content) <= _SENT_BYTES:
            return Encoded(None, _placed(chunks, stored), content)
        with self._leased_bytes(len(content)) as lease:
            lease.array[: len(content)] = np.frombuffer(content, np.uint8)
            return Encoded(lease.ticket(ttl=TICKET_TTL_S), _placed(chunks, stored))

    def _leased_bytes(self, size: int) -> Lease:
        steps = -(-size // _ENCODED_STEP_BYTES)  # of few sizes, so that one is used again for another
        return self._registry.lease(shape=(steps * _ENCODED_STEP_BYTES,), dtype=np.uint8, timeout=_LEASE_TIMEOUT_S)

    def _encoder(self, context_id: int, codec: AnyCodec) -> AnyEncoder:
        encoder = self._encoders.get(context_id)
        if encoder is None:
            encoder = self._encoders[context_id] = encoder_of(codec)
            if len(self._encoders) > _ENCODERS_KEPT:
                del self._encoders[next(iter(self._encoders))]
        return encoder

    def _load(self, task: Load) -> Loaded:
        """A step of a reader; one that another reader's path takes the place of was given up."""
        if self._opened is None or self._opened.opening != task.opening:
            from shmlease.ingestion.opened_reader import OpenedReader  # noqa: PLC0415 - text needs nothing of it

            self._close_reader()
            self._opened = OpenedReader(task, self._registry, self._encode_chunks)
        loaded = self._opened.step(task)
        if loaded.is_end:
            self._close_reader()
        return loaded

    def _close_reader(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def _measure(self, task: Measure) -> Measured:
        table = task.context.table
        return Measured(measure_strings(table, [task.piece], task.context.block_bytes, self._buffer))


class _LeasedRows:
    """The rows of a piece, parsed into as many leases as they need."""

    def __init__(self, registry: Memory, context: Context) -> None:
        self._registry = registry
        self._schema: Schema = context.table.schema
        self._dtype = self._schema.dtype
        self._most = context.lease_rows
        self._leases: list[tuple[Lease, int]] = []
        self._room = 0
        self._on_error = context.on_error
        self._parser = PARSERS[context.parser]
        self.bad: list[BadRow] = []
        self.bad_count = 0
        self.notes: Counter[str] = Counter()

    def parse(self, content: Bytes, lines_before: int) -> int:
        """Parse text; returns the number of its lines."""
        lines = 0
        for text, rows in self._cut(content):
            out = self._take_room(rows)
            most_bad = 0 if self._on_error == "fail" else None
            parsed = self._parser.parse_block(
                text, self._schema, out=out, first_line=lines_before + lines + 1, most_bad=most_bad
            )
            lease, filled = self._leases[-1]
            self._leases[-1] = lease, filled + len(parsed.rows)
            self._room -= len(parsed.rows)
            self.bad_count += len(parsed.bad)
            self.bad += parsed.bad[: max(EXAMPLES - len(self.bad), 0)] if self._on_error == "skip" else parsed.bad
            self.notes += parsed.notes
            newline = self._schema.newline
            lines += rows if newline == ord("\n") else int(np.count_nonzero(text == newline)) + int(text[-1] != newline)
        return lines

    def filled(self, context: Context) -> list[Rows]:
        """The rows as they are stored, lease by lease."""
        return [_stored_form(lease.array, context)[:filled] for lease, filled in self._leases]

    @property
    def size_bytes(self) -> int:
        """Of all rows."""
        return sum(filled for _, filled in self._leases) * self._dtype.itemsize

    def parts(self, *, needed: bool) -> tuple[Part, ...]:
        """The leases as parts; tickets only if somebody needs the rows."""
        return tuple(
            Part(lease.ticket(ttl=TICKET_TTL_S) if needed else None, filled) for lease, filled in self._leases if filled
        )

    def release(self) -> None:
        """Let go of the leases."""
        for lease, _ in self._leases:
            lease.release()

    def _cut(self, content: Bytes) -> Iterator[tuple[Bytes, int]]:
        """The text in stretches that make no more rows than one lease holds, each with the most it makes."""
        while len(content):
            size = self._stretch(content)
            rows = self._parser.max_rows(content[:size], self._schema)
            while rows > self._most:
                aim = max(int(size * 0.9 * self._most / rows), 1)
                cut = last_row_end_native(content[:aim], self._schema)
                if cut == 0:  # one line, and blank ones
                    cut = _first_row_end(content[:size], self._schema)
                    if cut == size:
                        break
                size, rows = cut, self._parser.max_rows(content[:cut], self._schema)
            yield content[:size], rows
            content = content[size:]

    def _stretch(self, content: Bytes) -> int:
        """How much to parse at once: all, unless reports are to be dropped in between, which take 600 bytes each."""
        if self._on_error != "skip" or len(content) <= _SKIP_STRETCH_BYTES:
            return len(content)
        return last_row_end_native(content[:_SKIP_STRETCH_BYTES], self._schema) or len(content)

    def _take_room(self, rows: int) -> Rows:
        if not self._leases or self._room < rows:
            step = max(LEASE_STEP_BYTES // self._dtype.itemsize, 1)
            shape = max(min(-(-rows // step) * step, self._most), rows) if rows > step else rows
            lease = self._registry.lease(shape=shape, dtype=self._dtype, timeout=_LEASE_TIMEOUT_S)
            self._leases.append((lease, 0))
            self._room = shape
        lease, filled = self._leases[-1]
        return lease.array[filled : filled + rows]


def _placed(chunks: list[tuple[int, list[Rows]]], stored: list[EncodedChunk]) -> tuple[tuple[int, int, EncodedChunk], ...]:
    """The index of each chunk, the place of its payload behind those before it, and what is known of it."""
    places = itertools.accumulate((chunk.size_bytes for chunk in stored), initial=0)
    return tuple((index, place, chunk) for (index, _), place, chunk in zip(chunks, places, stored, strict=False))


def _stored_form(rows: Rows, context: Context | LoadContext) -> Rows:
    """Rows of one subarray as the matrix that they are in the file."""
    if isinstance(context, LoadContext):
        return rows
    schema = context.table.schema
    return rows[schema.fields[0].name] if schema.matrix else rows


def _first_row_end(content: Bytes, schema: Schema) -> int:
    size = 1
    while size < len(content):
        end = last_row_end_native(content[:size], schema)
        if end:
            return end
        size *= 2
    return len(content)


def _required(codec: AnyCodec | None) -> AnyCodec:
    assert codec is not None, "a context without a codec is for measuring only"
    return codec
