"""A file that a worker reads from its start, step by step: decompressed, or looked through for the ends of its records."""

from __future__ import annotations

from collections.abc import Iterator

from shmlease.ingestion.readers import checksum_of_source
from shmlease.ingestion.tasks import Parse
from shmlease.text.blocks import Block, read_piece

__all__ = ["OpenedText"]


class OpenedText:
    """The text of one file, from the place on where it was asked for.

    Parameters
    ----------
    task : Parse
        Whose piece is the first step.
    """

    def __init__(self, task: Parse) -> None:
        assert task.piece is not None, "steps are pieces"
        self._context = task.context
        self._offset = task.piece.offset
        self._blocks: Iterator[Block] = read_piece(
            task.context.table, task.piece, task.context.block_bytes, crc32_before=task.crc32_before
        )
        self.is_at_end = False

    def is_before(self, task: Parse) -> bool:
        """Whether the step of `task` is the next one."""
        assert task.piece is not None, "steps are pieces"
        return task.context.id == self._context.id and task.piece.offset == self._offset

    def step(self) -> Iterator[memoryview]:
        """The blocks of the next step; each is gone with the next."""
        left_bytes = self._context.step_bytes
        while left_bytes > 0:
            block = next(self._blocks, None)
            if block is None:
                self.is_at_end = True
                return
            left_bytes -= len(block.data)
            self._offset += len(block.data)
            yield block.data

    def file_crc32(self) -> int | None:
        """Of the file as it lies on the disk, which the system has in memory now, unless that of its text is the same."""
        table = self._context.table
        is_same = table.compression == "plain" and not table.schema.ends_at
        return None if is_same else checksum_of_source(table.path)
