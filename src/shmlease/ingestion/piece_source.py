"""The pieces of the files of one dataset, in order: cut from plain files, read block by block, or in steps, from compressed
ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from shmlease.ingestion.file_progress import FileCounts
from shmlease.ingestion.private_memory import Memory
from shmlease.ingestion.readers import FilePieces, FileSteps, HeldText, Input, StreamReader, open_reader
from shmlease.text.blocks import Piece

__all__ = ["PieceSource"]


class PieceSource:
    """Hands out what is to be parsed, or read, next.

    Parameters
    ----------
    inputs : sequence of Input
        The files.
    registry : Memory
        Of the run.
    resumed : FileCounts
        Where an interrupted run had come to.
    in_turn : bool
        Pieces are asked for one after another, each when the one before has been parsed.
    """

    def __init__(self, inputs: Sequence[Input], registry: Memory, resumed: FileCounts, *, in_turn: bool) -> None:
        self._inputs = inputs
        self._registry = registry
        self._in_turn = in_turn
        self._resumed_file = resumed.file
        self._resumed_text = resumed.text_bytes, resumed.crc32
        self._opened = resumed.file
        self._reader: FilePieces | FileSteps | StreamReader | None = None

    @property
    def has_input(self) -> bool:
        """Whether there may be pieces left, now or once a block has been read."""
        return self._opened < len(self._inputs)

    @property
    def current(self) -> Input:
        """The file that the next piece is of."""
        return self._inputs[self._opened]

    @property
    def is_last(self) -> bool:
        """Whether no rows follow those of the piece that was handed out last, or once the file ends whose step it was."""
        is_at_end = isinstance(self._reader, FileSteps) or (self._reader is not None and self._reader.is_at_end)
        return self._opened == len(self._inputs) - 1 and is_at_end

    @property
    def steps(self) -> FileSteps | None:
        """The steps of which the piece was one that was handed out last."""
        return self._reader if isinstance(self._reader, FileSteps) else None

    def next(self) -> Piece | StreamReader | None:
        """The next piece, or a reader whose next block is to be read; None while one is being read, and at the end."""
        if not self.has_more():
            return None
        reader = self._open()
        if isinstance(reader, FilePieces | FileSteps):
            return reader.next()
        if reader.is_reading:
            return None
        reader.is_reading = True
        return reader

    def has_more(self) -> bool:
        """Whether there is more to come; files that have ended are closed."""
        while self.has_input and self._open().is_at_end:
            self._reader = None
            self._opened += 1
        return self.has_input

    def unclaimed(self) -> HeldText | None:
        """The block that was read and not taken."""
        return self._reader.unclaimed if isinstance(self._reader, StreamReader) else None

    def _open(self) -> FilePieces | FileSteps | StreamReader:
        if self._reader is None:
            text_bytes, crc32 = self._resumed_text if self._opened == self._resumed_file else (0, 0)
            self._reader = open_reader(self.current, text_bytes, crc32, self._registry, in_turn=self._in_turn)
        return self._reader
