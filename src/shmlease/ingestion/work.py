"""Units of work: what a dataset's job gives out, and the coordinator hands to a reader thread or to a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import msgspec

from shmlease.hdf5.chunking import PlannedChunk
from shmlease.ingestion.pool_protocol import Session
from shmlease.ingestion.readers import FileSteps, HeldText, Input, StreamReader
from shmlease.ingestion.tasks import LEAST_TASK_BYTES, TASK_BYTES, TICKET_TTL_S, Encode, Load, Parse
from shmlease.text.blocks import Piece

if TYPE_CHECKING:
    from shmlease.client.lease import Lease
    from shmlease.client.ticket import Ticket
    from shmlease.ingestion.dataset_job import DatasetJob
    from shmlease.ingestion.growing_dataset import GrowingDataset
    from shmlease.ingestion.load_job import LoadJob
    from shmlease.ingestion.loading_file import LoadingFile

__all__ = ["EncodeWork", "HeldPart", "LoadWork", "ParseWork", "ReadWork"]


class HeldPart(msgspec.Struct, eq=False):
    """Rows of a piece in a segment that this process holds; None when no chunk needs them."""

    lease: Lease | None


class ReadWork(msgspec.Struct, eq=False):
    """The next block of a file that is read here; done by a thread."""

    job: DatasetJob
    reader: StreamReader
    source: Input
    reserved_bytes: int = 0


class ParseWork(msgspec.Struct, eq=False):
    """A piece to parse, in place `number` of its dataset."""

    job: DatasetJob
    source: Input
    number: int
    piece: Piece | None
    text: HeldText | None
    start_row: int | None
    is_last: bool
    steps: FileSteps | None = None
    reserved_bytes: int = 0
    attempts: int = 0
    _ticket: Ticket | None = None

    @property
    def text_bytes(self) -> int:
        """Of the text, where that is known before it is read; else what no block exceeds, unless a line does."""
        if self.piece is None:
            return self.source.context.block_bytes
        if self.piece.stop is None:
            return self.source.context.step_bytes
        return self.piece.stop - self.piece.offset

    @property
    def session(self) -> Session | None:
        """All steps of one file go to one worker."""
        return None if self.steps is None else self.steps.session

    @property
    def weight(self) -> int:
        """Small files go together."""
        return min(max(self.text_bytes, LEAST_TASK_BYTES), TASK_BYTES)

    def task(self) -> Parse:
        """The task, with a ticket of its own for the text."""
        self._ticket = None if self.text is None else self.text.lease.ticket(ttl=TICKET_TTL_S)
        crc32_before = None if self.steps is None else self.steps.crc32
        return Parse(self.source.context, self.piece, self._ticket, self.start_row, self.is_last, crc32_before)

    def lost(self) -> None:
        """Use up the ticket, if the worker has not."""
        if self._ticket is not None:
            self.job.reclaim_tickets([self._ticket])

    def __str__(self) -> str:
        place = "a block" if self.piece is None else f"the block at byte {self.piece.offset}"
        return f"{self.source.path}: {place}"


class EncodeWork(msgspec.Struct, eq=False):
    """Chunks to encode; `source` has the context of their dataset."""

    job: DatasetJob | LoadJob
    source: Input | GrowingDataset
    chunks: Sequence[PlannedChunk[HeldPart]]
    reserved_bytes: int = 0
    attempts: int = 0
    session: ClassVar[None] = None
    weight: ClassVar[int] = TASK_BYTES
    _tickets: list[Ticket] = msgspec.field(default_factory=list)

    def task(self) -> Encode:
        """The task, with tickets of its own for the rows."""
        numbers: dict[HeldPart, int] = {}
        chunks = tuple(
            (chunk.index, tuple((numbers.setdefault(p.part, len(numbers)), p.start, p.stop) for p in chunk.pieces))
            for chunk in self.chunks
        )
        self._tickets = [part.lease.ticket(ttl=TICKET_TTL_S) for part in numbers if part.lease is not None]
        assert len(self._tickets) == len(numbers), "a chunk needs rows that were let go"
        return Encode(self.source.context, chunks, tuple(self._tickets))

    def lost(self) -> None:
        """Use up the tickets that the worker has not."""
        self.job.reclaim_tickets(self._tickets)

    def __str__(self) -> str:
        return f"{self.job.name}: chunks {self.chunks[0].index} to {self.chunks[-1].index}"


class LoadWork(msgspec.Struct, eq=False):
    """The next step of a reader of the user's."""

    job: LoadJob
    file: LoadingFile
    reserved_bytes: int = 0
    attempts: int = 0
    weight: ClassVar[int] = TASK_BYTES

    @property
    def session(self) -> Session:
        """All steps of one file go to one worker."""
        return self.file.session

    def task(self) -> Load:
        """The task, as things stand now."""
        return self.job.load_task(self.file)

    def lost(self) -> None:
        """Have the file read from its beginning: what the step gave is lost."""
        self.file.reopen()

    def __str__(self) -> str:
        return f"{self.file.path}: the reader"
