"""What a worker does with a task: text to rows, rows to chunks, each in a leased segment.

Memory of a worker beside the segments it maps: the interpreter with numpy, one block of text (another where it reads a
whole file), the rows of one and of a chunk, up to three chunks that the encoder works in, what they became, and with the
numpy parser 6 MiB that it works in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np

from shmlease.hdf5.checksum import combine, crc32
from shmlease.hdf5.columns import AnyCodec, AnyEncoder, encoder_of
from shmlease.ingestion.encoded_chunks import SENT_BYTES, EncodedChunks, lease_bytes
from shmlease.ingestion.opened_text import OpenedText
from shmlease.ingestion.parsed_rows import ChunkedRows, LeasedRows, RowStore, TextParsing, stored_form
from shmlease.ingestion.private_memory import Memory
from shmlease.ingestion.tasks import (
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
    Result,
    Task,
)
from shmlease.text.blocks import Piece, read_piece
from shmlease.text.string_lengths import measure_strings
from shmlease.text.text_buffer import Bytes

if TYPE_CHECKING:
    from shmlease.client.lease import Lease
    from shmlease.ingestion.opened_reader import OpenedReader

__all__ = ["Worker"]

_ENCODERS_KEPT = 64

Rows = np.ndarray[Any, Any]


class Worker:
    """Runs tasks, one at a time."""

    def __init__(self, registry: Memory) -> None:
        self._registry = registry
        self._buffer = bytearray()
        self._rows: Bytes = np.empty(0, np.uint8)
        self._encoded = np.empty(0, np.uint8)
        self._encoders: dict[int, AnyEncoder] = {}
        self._text: OpenedText | None = None
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
        store = self._store(task)
        parsing = TextParsing(task.context, store)
        text_bytes = checksum = 0
        opened: OpenedText | None = None
        try:
            if task.piece is not None and task.piece.stop is None:
                opened = self._open(task)
            for data in self._texts(task) if opened is None else opened.step():
                content = np.frombuffer(data, np.uint8)
                checksum = combine(checksum, crc32(content), len(content))
                text_bytes += len(content)
                parsing.parse(content)
                del content, data  # both are views: of the buffer, or of a segment that is given back
            is_end = opened is not None and opened.is_at_end
            parts, encoded = store.finish(is_last=task.is_last and (opened is None or is_end))
            return ParsedPiece(
                parts,
                encoded,
                parsing.lines,
                text_bytes,
                checksum,
                tuple(parsing.bad),
                parsing.bad_count,
                parsing.notes,
                is_end,
                opened.file_crc32() if opened is not None and is_end else None,
            )
        except BaseException:
            self._text = None
            raise
        finally:
            store.release()

    def _store(self, task: Parse) -> RowStore:
        context = task.context
        if task.start_row is None:
            return LeasedRows(self._registry, context)
        return ChunkedRows(self._registry, context, task.start_row, self._chunks(context), self._row_memory)

    def _row_memory(self, size: int) -> Bytes:
        if len(self._rows) < size:
            self._rows = np.empty(size, np.uint8)
        return self._rows

    def _open(self, task: Parse) -> OpenedText:
        """The text of a file, from the step on that is asked for; that of the file before is let go."""
        if self._text is None or not self._text.is_before(task):
            self._text = None  # before another takes memory
            self._text = OpenedText(task)
        return self._text

    def _texts(self, task: Parse) -> Iterator[Any]:
        context, piece = task.context, task.piece
        if task.text is not None:
            with self._registry.redeem(task.text) as lease:
                yield lease.array
        elif piece is not None and piece.stop is not None:
            room = context.block_bytes + (128 << 10)  # what read_piece asks for
            if len(self._buffer) < room:
                self._buffer = bytearray(room)
            for offset in range(piece.offset, max(piece.stop, piece.offset + 1), context.block_bytes):
                index = piece.index + (offset > piece.offset)
                part = Piece(index, offset, min(offset + context.block_bytes, piece.stop))
                for block in read_piece(context.table, part, context.block_bytes, self._buffer):
                    yield block.data

    def _encode(self, task: Encode) -> Encoded:
        leases: list[Lease] = []
        try:
            leases.extend(self._registry.redeem(ticket) for ticket in task.parts)
            chunks = [
                (index, [stored_form(leases[part].array, task.context)[start:stop] for part, start, stop in pieces])
                for index, pieces in task.chunks
            ]
            encoded = self._encode_chunks(task.context, chunks)
            del chunks
            return encoded
        finally:
            for lease in leases:
                lease.release()

    def _encode_chunks(self, context: Context | LoadContext, chunks: list[tuple[int, list[Rows]]]) -> Encoded:
        """The chunks in a segment just as large as they are: encoded here first, where that makes them smaller."""
        codec = _required(context.codec)
        size = codec.bound_bytes
        if codec.compression == "none" and len(chunks) * size > SENT_BYTES:
            encoder = self._encoder(context.id, codec)
            with lease_bytes(self._registry, len(chunks) * size) as lease:
                stored = [
                    (index, n * size, encoder.encode(pieces, lease.array[n * size :][:size]))
                    for n, (index, pieces) in enumerate(chunks)
                ]
                return Encoded(lease.ticket(ttl=TICKET_TTL_S), tuple(stored))
        together = self._chunks(context)
        for index, pieces in chunks:
            together.add(index, pieces)
        encoded = together.finish()
        assert encoded is not None, "tasks have chunks"
        return encoded

    def _chunks(self, context: Context | LoadContext) -> EncodedChunks:
        codec = _required(context.codec)
        if len(self._encoded) < codec.bound_bytes:
            self._encoded = np.empty(codec.bound_bytes, np.uint8)
        return EncodedChunks(self._registry, self._encoder(context.id, codec), self._encoded)

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


def _required(codec: AnyCodec | None) -> AnyCodec:
    assert codec is not None, "a context without a codec is for measuring only"
    return codec
