"""Where the text of one file comes from: pieces that workers read themselves, or blocks decompressed here into leases.

A plain file is cut into pieces, and a worker is sent only which of them to read. Where the records of one begin that has
quoted cells, which may hold line ends, shows only to who has read all before: a thread of the coordinator looks for their
ends, four times as fast as they are parsed, and workers read the pieces between. A compressed file can only be read from
its start: a thread decompresses it, one block ahead (the libraries release the interpreter's lock), so that all workers
parse it side by side. Where there are files enough for all workers, each takes whole files instead, and reads and
decompresses them itself, step by step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from shmlease.errors import IngestError
from shmlease.hdf5.checksum import combine
from shmlease.hdf5.provenance import checksum_of_file
from shmlease.ingestion.pool_protocol import Session
from shmlease.ingestion.private_memory import Memory
from shmlease.ingestion.tasks import LEASE_TIMEOUT_S, Context, ParsedPiece
from shmlease.text.blocks import Block, Piece, cut_table, read_piece, require_same_text
from shmlease.text.pipes import pipe_of
from shmlease.text.sources import FileState, is_read_once, state_of

if TYPE_CHECKING:
    from shmlease.client.lease import Lease

__all__ = ["FilePieces", "FileSteps", "HeldText", "Input", "StreamReader", "checksum_of_source", "open_reader"]


class Input(msgspec.Struct, frozen=True, eq=False):
    """One file of a run: its place among all, what its tasks share, and its state when it was first looked at."""

    index: int
    context: Context
    state: FileState

    @property
    def path(self) -> str:
        """As it was given."""
        return self.context.table.path

    def require_unchanged(self) -> None:
        """Raise if the file is not what it was.

        Raises
        ------
        IngestError
            It was changed or taken away since.
        """
        try:
            same = state_of(self.path) == self.state
        except OSError:
            same = False
        if not same:
            raise IngestError(
                f"{self.path}: was changed while it was read; run again when it no longer changes", path=self.path
            )


class HeldText(msgspec.Struct, frozen=True, eq=False):
    """A block of text in a segment that this process holds."""

    lease: Lease
    size_bytes: int


class FilePieces:
    """The pieces of a plain file."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._next = 0

    @property
    def is_at_end(self) -> bool:
        """Whether all pieces were given."""
        return self._next >= len(self._pieces)

    def next(self) -> Piece:
        """The next piece."""
        piece = self._pieces[self._next]
        self._next += 1
        return piece


class FileSteps:
    """The steps of a file that one worker reads from its start; the next is asked for when the one before has come.

    Attributes
    ----------
    session : Session
    crc32 : int or None
        Of the text before the next step; None at the beginning of the file.
    is_at_end : bool
        Whether its end has come.
    """

    def __init__(self, offset: int, crc32: int | None) -> None:
        self.session = Session()
        self.crc32 = crc32
        self.is_at_end = False
        self._offset = offset

    def next(self) -> Piece:
        """The next step."""
        return Piece(0, self._offset, None)

    def take(self, parsed: ParsedPiece) -> None:
        """Take note of what a step has read."""
        self._offset += parsed.text_bytes
        self.crc32 = combine(self.crc32 or 0, parsed.crc32, parsed.text_bytes)
        self.is_at_end = self.session.is_over = parsed.is_end


class StreamReader:
    """The blocks of a file that is read from its start, those before `start_byte` of its text passed over.

    Those of a plain file are only looked at: workers read them again.

    Attributes
    ----------
    is_reading, is_at_end : bool
        Whether a block is being read, and whether there are none left; kept by the flow.
    unclaimed : HeldText or None
        A block that was read, until the flow has taken it over.
    file_crc32 : int or None
        Of the file as it lies on the disk, or of what came through the pipe; known at its end.
    """

    def __init__(self, source: Input, start_byte: int, crc32_before: int | None, registry: Memory) -> None:
        table = source.context.table
        self._registry = registry
        piece = Piece(0, start_byte, None)
        self._blocks: Iterator[Block] = read_piece(table, piece, source.context.block_bytes, crc32_before=crc32_before)
        self._path = table.path
        self._is_plain = table.compression == "plain"
        self._is_counted = self._is_plain and not table.schema.ends_at  # the checksum of the text is that of the file
        self.is_reading = False
        self.is_at_end = False
        self.unclaimed: HeldText | None = None
        self.file_crc32: int | None = None

    def read(self) -> HeldText | Piece | None:
        """Read and decompress the next block, or find where it ends; None at the end of the file. Blocks."""
        block = next(self._blocks, None)
        if block is None:
            if not self._is_counted:
                self.file_crc32 = checksum_of_source(self._path)  # it is in the system's cache now
            return None
        size = len(block.data)
        if self._is_plain:
            return Piece(0, block.offset, block.offset + size)
        lease = self._registry.lease(shape=(size,), dtype=np.uint8, timeout=LEASE_TIMEOUT_S)
        try:
            lease.array[:] = np.frombuffer(block.data, np.uint8)
        except BaseException:
            lease.release()
            raise
        self.unclaimed = HeldText(lease, size)
        return self.unclaimed


def open_reader(
    source: Input, text_bytes_done: int, crc32_done: int, registry: Memory, *, in_turn: bool
) -> FilePieces | FileSteps | StreamReader:
    """The reader of a file, of which an interrupted run had settled the first bytes of text: whole lines, of this CRC-32.

    With `in_turn`, its pieces are parsed one after another, and are larger.

    Raises
    ------
    IngestError
        The file was rewritten since. Of a file that is read as a stream, that shows when it is read.
    """
    table = source.context.table
    context = source.context
    pieces = cut_table(table, context.step_bytes if in_turn else context.block_bytes, text_bytes_done)
    if pieces[0].stop is None:
        start_byte, crc32_before = pieces[0].offset, crc32_done if text_bytes_done else None
        return FileSteps(start_byte, crc32_before) if in_turn else StreamReader(source, start_byte, crc32_before, registry)
    if text_bytes_done:
        require_same_text(table, pieces[0].offset, crc32_done)
    return FilePieces(pieces)


def checksum_of_source(path: str) -> int | None:
    """CRC-32 of a file, or of what came through a pipe; None for a member of an archive, which has no file of its own."""
    if is_read_once(path):
        return pipe_of(path).crc32
    return checksum_of_file(path) if os.path.exists(path) else None
