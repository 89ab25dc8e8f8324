"""Parts of one plain file, which several processes read apart: each has the lines that begin in a range of its bytes."""

from __future__ import annotations

from dataclasses import replace

from shmlease.errors import IngestError
from shmlease.text.blocks import cut_table
from shmlease.text.header import Table

__all__ = ["can_be_cut", "table_part"]

_STEP_BYTES = 64 << 10


def table_part(table: Table, start: int, stop: int) -> Table:
    """The table of those lines that begin in bytes [start, stop) of the file.

    Ranges that meet give parts that meet: together they have every line once. What comes before the rows belongs to the
    part that begins with byte 0.

    Raises
    ------
    IngestError
        There is no such range.
    """
    if not 0 <= start <= stop <= table.size_bytes:
        raise IngestError(
            f"{table.path}: bytes {start} to {stop} are no range of its {table.size_bytes} bytes", path=table.path
        )
    return replace(table, part=(_line_start(table, start), _line_start(table, stop)))


def can_be_cut(table: Table) -> bool:
    """Whether a file can be read in parts. With quoting on, it is searched for quoted cells."""
    return cut_table(table, table.size_bytes + 1)[0].stop is not None


def _line_start(table: Table, offset: int) -> int:
    """The first byte from `offset` on that begins a line of rows, or the size of the file; 0 stays 0."""
    if offset == 0 or offset >= table.size_bytes:
        return offset
    at = max(offset, table.data_offset) - 1  # a line that ends just before `offset` makes it begin one
    with open(table.path, "rb", buffering=0) as file:
        file.seek(at)
        while chunk := file.read(_STEP_BYTES):
            found = chunk.find(table.schema.newline)
            if found >= 0:
                return at + found + 1
            at += len(chunk)
    return table.size_bytes
