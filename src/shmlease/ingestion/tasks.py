"""What the coordinator asks of a worker, and what it answers: plain values, small, and picklable.

Rows and payloads do not travel: they lie in leased segments, and a ticket says where. Only payloads so small that a lease
would cost more than sending them are part of the answer.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec
import numpy as np

from shmlease.hdf5.chunk_encoding import Codec, EncodedChunk
from shmlease.hdf5.columns import AnyCodec
from shmlease.text.blocks import Piece
from shmlease.text.header import Table
from shmlease.text.parser import BadRow
from shmlease.text.parser_choice import Parser

if TYPE_CHECKING:
    from shmlease.client.lease import Lease
    from shmlease.client.ticket import Ticket
    from shmlease.ingestion.reader import Failure, Reader, StepLimit

__all__ = [
    "EXAMPLES",
    "LEASE_TIMEOUT_S",
    "TASKS_A_WORKER",
    "TASK_BYTES",
    "TICKET_TTL_S",
    "Context",
    "Encode",
    "Encoded",
    "Load",
    "LoadContext",
    "Loaded",
    "LoadedBlock",
    "Measure",
    "Measured",
    "OnError",
    "Parse",
    "ParsedPiece",
    "Part",
    "Result",
    "Task",
]

OnError: TypeAlias = Literal["fail", "skip", "quarantine"]

# Of lines that are skipped, as many are shown at most; the others are only counted.
EXAMPLES: Final = 100
# From the making of a ticket to its use some 50 ms pass. One that has run out costs that its work is done again; one whose
# redeemer was killed holds its segment for so long.
TICKET_TTL_S: Final = 20.0
# The coordinator admits no task whose leases do not fit, so waiting is for others who use the same registry.
LEASE_TIMEOUT_S: Final = 60.0
# One task runs and one waits in the worker's socket, so that no worker idles while the coordinator writes a chunk.
TASKS_A_WORKER: Final = 2
# Small files go to a worker together, up to so much text: a message for each, of which one costs as much as parsing 50 KB,
# would take longer than the work. A worker that is killed loses no more than that.
TASK_BYTES: Final = 512 << 10
LEAST_TASK_BYTES: Final = TASK_BYTES // 64


class Context(msgspec.Struct, frozen=True):
    """What all tasks of one file share; a worker is sent it once.

    Attributes
    ----------
    id : int
        Its number in this run.
    table : Table
        The file, and the schema fitted to it.
    codec : Codec or ColumnarCodec or None
        How the chunks of its dataset are encoded, or of its table.
    block_bytes : int
        The text that is parsed at once.
    step_bytes : int
        The text that one task parses where the file's pieces are parsed in turn.
    lease_rows : int
        Rows that one lease holds at most.
    on_error : {"fail", "skip", "quarantine"}
        What becomes of malformed lines, and so how much is to be reported of them.
    parser : {"native", "numpy"}
        Which reads the lines.
    """

    id: int
    table: Table
    codec: AnyCodec | None
    block_bytes: int
    step_bytes: int
    lease_rows: int
    on_error: OnError
    parser: Parser = "numpy"


class LoadContext(msgspec.Struct, frozen=True):
    """What the chunks of one dataset have in common that a reader of the user's gives."""

    id: int
    codec: Codec


class Load(msgspec.Struct, frozen=True):
    """Go on with what a reader of the user's gives for one path, from its beginning if this worker has not begun it.

    Attributes
    ----------
    reader : Reader
    path : str
    opening : int
        Differs each time the path is to be read from its beginning.
    compression : str
        Of the datasets.
    limit : StepLimit
        How much to give at once.
    taken : dict of str to (int, int)
        Rows of each array that an earlier opening gave, and their CRC-32: they are compared, and not given again.
    start_rows : dict of str to int, or None
        The rows that the datasets have by now; None while rows of earlier paths are to come before these. Whole chunks
        are then not made here.
    is_alone : bool
        No other path adds to these datasets.
    """

    reader: Reader
    path: str
    opening: int
    compression: str
    limit: StepLimit
    taken: dict[str, tuple[int, int]]
    start_rows: dict[str, int] | None
    is_alone: bool


class Parse(msgspec.Struct, frozen=True):
    """Parse a piece of a file, or text that lies in a segment.

    Attributes
    ----------
    piece : Piece or None
        Lines to read from the file. Without an end it is the next step of a file that is read from its start.
    text : Ticket or None
        Lines that were read and decompressed already.
    start_row : int or None
        The row of the dataset that the first row of the piece will be, where that is known: whole chunks are then encoded
        at once.
    is_last : bool
        No rows follow in the dataset once the piece, or the file, ends, so its last chunk is encoded as well. Counts where
        `start_row` is known.
    crc32_before : int or None
        Of the text before the piece, for a worker that has to read it again, where there is any.
    """

    context: Context
    piece: Piece | None
    text: Ticket | None
    start_row: int | None
    is_last: bool
    crc32_before: int | None = None


class Encode(msgspec.Struct, frozen=True):
    """Encode chunks whose rows lie in segments.

    Attributes
    ----------
    chunks : tuple of (int, tuple of (int, int, int))
        For each chunk its index in the dataset and its pieces: number of the part, first row, row after the last.
    parts : tuple of Ticket
        The parts, by number.
    """

    context: Context | LoadContext
    chunks: tuple[tuple[int, tuple[tuple[int, int, int], ...]], ...]
    parts: tuple[Ticket, ...]


class Measure(msgspec.Struct, frozen=True):
    """Find the longest cell of each string field in a piece."""

    context: Context
    piece: Piece


class Part(msgspec.Struct, frozen=True):
    """Rows in a segment: its first `rows` rows.

    `ticket` is None where every row was encoded already, so that nobody needs them.
    """

    ticket: Ticket | None
    rows: int


class Encoded(msgspec.Struct, frozen=True):
    """Chunks encoded, their payloads one behind the other.

    Attributes
    ----------
    ticket : Ticket or None
        The segment that they lie in; None where they are so small that they are sent.
    chunks : tuple of (int, int, EncodedChunk)
        Index in the dataset, where the payload begins, and what is known of it.
    payloads : bytes
        The payloads, where there is no ticket.
    """

    ticket: Ticket | None
    chunks: tuple[tuple[int, int, EncodedChunk], ...]
    payloads: bytes = b""

    def payload(self, lease: Lease | None, place: int, chunk: EncodedChunk) -> memoryview | np.ndarray[Any, Any]:
        """The payload of a chunk; `lease` is what the ticket was redeemed for."""
        within = slice(place, place + chunk.size_bytes)
        return memoryview(self.payloads)[within] if lease is None else lease.array[within]


class ParsedPiece(msgspec.Struct, frozen=True):
    """What a piece held.

    Attributes
    ----------
    parts : tuple of Part
        Its rows, in order.
    encoded : Encoded or None
        The chunks made of them already.
    lines, text_bytes, crc32 : int
        Of the text.
    bad : tuple of BadRow
        Lines that did not become rows, counted from line 1 of the piece: the first of them when the run is to fail, some
        when they are to be skipped, else all.
    bad_count : int
        How many there are, as far as the piece was read.
    notes : Counter
        What was passed over or changed, by kind.
    is_end : bool
        A file that is read in steps has come to its end.
    file_crc32 : int or None
        Of such a file as it lies on the disk, where that is not the checksum of its text; known at its end.
    """

    parts: tuple[Part, ...]
    encoded: Encoded | None
    lines: int
    text_bytes: int
    crc32: int
    bad: tuple[BadRow, ...] = ()
    bad_count: int = 0
    notes: Counter[str] = msgspec.field(default_factory=Counter)
    is_end: bool = False
    file_crc32: int | None = None


class LoadedBlock(msgspec.Struct, frozen=True):
    """Rows of one array.

    Attributes
    ----------
    name : str
        What the reader calls the array.
    dtype : numpy.dtype
    shape : tuple of int
    ticket : Ticket or None
        Where the rows lie; None if there are none, or they are encoded.
    encoded : Encoded or None
        The chunks made of them already.
    crc32 : int
    is_whole : bool
        These are all rows of the dataset.
    attributes : dict
        That the reader gave with them.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    ticket: Ticket | None
    encoded: Encoded | None
    crc32: int
    is_whole: bool = False
    attributes: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def any_ticket(self) -> Ticket | None:
        """Of the rows, or of the chunks made of them."""
        return self.ticket if self.encoded is None else self.encoded.ticket

    @property
    def size_bytes(self) -> int:
        """Of the rows."""
        return math.prod(self.shape) * self.dtype.itemsize


class Loaded(msgspec.Struct, frozen=True):
    """What a step of `Load` gave.

    Attributes
    ----------
    blocks : tuple of LoadedBlock
        In the order in which they came.
    is_end : bool
        There is no more.
    failure : Failure or None
        What the reader raised; then this is the end.
    file_crc32 : int or None
        Of the file as it lies on the disk, at the end.
    """

    blocks: tuple[LoadedBlock, ...]
    is_end: bool
    failure: Failure | None = None
    file_crc32: int | None = None


class Measured(msgspec.Struct, frozen=True):
    """Longest cells in bytes, by field."""

    lengths: dict[str, int]


Task = Parse | Encode | Measure | Load
Result = ParsedPiece | Encoded | Measured | Loaded
