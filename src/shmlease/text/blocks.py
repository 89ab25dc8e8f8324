"""A table in blocks of whole lines, each with its place in the file.

A plain file is cut into pieces that are read independently of one another, so that several workers share one file: a piece
owns the lines that begin in it. A compressed file, one whose quoted cells may hold line ends, or one in which something
else follows the table, is one piece, read from its start.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from typing import IO

import msgspec
import numpy as np

from shmlease.errors import IngestError
from shmlease.text.header import Table
from shmlease.text.native_parser import last_row_end_native
from shmlease.text.quoted_cells import has_quoted_cells
from shmlease.text.sources import open_source
from shmlease.units import format_bytes

__all__ = ["BLOCK_BYTES", "Block", "Piece", "count_lines", "cut_table", "read_piece", "require_same_text"]

# A block of 4 MiB is parsed in 5 to 15 ms, which hides the cost of handing it over. With half as much text all processes of
# an ingest would take 10 to 20 MB less together, and a sixth more time.
BLOCK_BYTES = 4 << 20
_LONGEST_LINE = 64 << 20
_STEP_BYTES = 1 << 20
_OVERREAD = 64 << 10  # read past a piece at once, to find the end of its last line


class Piece(msgspec.Struct, frozen=True):
    """A part of a table that one worker reads by itself.

    Attributes
    ----------
    index : int
        Its place among the pieces of the table.
    offset : int
        First byte of the text that may begin a line of the piece.
    stop : int or None
        The lines that begin before this byte belong to the piece; None: all to the end of the text.
    """

    index: int
    offset: int
    stop: int | None


class Block(msgspec.Struct, frozen=True):
    """Whole lines of a table.

    Attributes
    ----------
    piece, index : int
        The piece, and the place of the block in it: blocks in this order are the table.
    offset : int
        First byte of the block in the (decompressed) text.
    first_line : int or None
        Number of its first line in the file; None in a piece that does not begin the table, see `count_lines`.
    data : memoryview
        The lines. The memory is used again for the next block of the piece.
    """

    piece: int
    index: int
    offset: int
    first_line: int | None
    data: memoryview


def cut_table(table: Table, block_bytes: int = BLOCK_BYTES, passed_bytes: int = 0) -> list[Piece]:
    """The pieces of a table, without so many bytes at its beginning: of `block_bytes` each where they can be read apart,
    else one.

    With quoting on, a plain file is searched for the first quoted cell; one that has none is cut like any other.

    Raises
    ------
    IngestError
        A part of a file is to be read that can only be read from its start.
    """
    if table.compression != "plain" or table.schema.ends_at or (table.schema.quote and _has_quoted_cells(table)):
        if table.part is not None:
            raise IngestError(
                f"{table.path}: can only be read from its start, and a part of it is asked for: it is compressed, has "
                "quoted cells, or has something behind the table",
                path=table.path,
            )
        return [Piece(0, table.data_offset + passed_bytes, None)]
    start, stop = table.extent
    start += passed_bytes
    starts = range(start, max(stop, start + 1), block_bytes)
    return [Piece(index, start, min(start + block_bytes, stop)) for index, start in enumerate(starts)]


def _has_quoted_cells(table: Table) -> bool:
    before = table.schema.newline
    at, stop = table.extent
    with open(table.path, "rb", buffering=0) as file:
        file.seek(at)
        while chunk := file.read(min(BLOCK_BYTES, stop - at)):
            at += len(chunk)
            if has_quoted_cells(np.frombuffer(chunk, np.uint8), table.schema, before):
                return True
            before = chunk[-1]
    return False


def read_piece(
    table: Table,
    piece: Piece,
    block_bytes: int = BLOCK_BYTES,
    buffer: bytearray | None = None,
    crc32_before: int | None = None,
) -> Iterator[Block]:
    """The blocks of a piece, each of about `block_bytes`, and longer only where a line is.

    Parameters
    ----------
    table : Table
        The table.
    piece : Piece
        One of its pieces.
    block_bytes : int
        Size to aim at.
    buffer : bytearray, optional
        Memory to read into, grown when a line needs it; a worker that hands in the same one for every piece spares the
        system to clear new memory.
    crc32_before : int, optional
        CRC-32 of the text from the first byte of the data to the piece, where a piece that is read from the start of the
        file is to be read only after the same text.

    Raises
    ------
    IngestError
        The text before the piece is not what it was, or the file became shorter, is damaged or cut short, or has a line
        of more than 64 MiB.
    """
    buffer = bytearray() if buffer is None else buffer
    if piece.stop is None:
        return _read_stream(table, piece, block_bytes, buffer, crc32_before)
    return _read_range(table, piece, piece.stop, buffer)


def _read_range(table: Table, piece: Piece, stop: int, buffer: bytearray) -> Iterator[Block]:
    """The lines that begin from `piece.offset` to before `stop`: from behind the line end before, to behind one."""
    newline = table.schema.newline
    begin = piece.offset - (piece.index > 0)  # a line end just before the piece makes its first byte begin a line
    with open(table.path, "rb", buffering=0) as file:
        file.seek(begin)
        room = stop - begin + _OVERREAD
        buffer = _with_room(buffer, room)
        filled = _read_into(file, buffer, 0, room)
        if begin + filled < stop:
            raise IngestError(
                f"{table.path}: became shorter while it was read: {begin + filled} bytes where {table.size_bytes} were",
                path=table.path,
            )
        start = buffer.find(newline, 0, filled) + 1 if piece.index else 0
        if (piece.index and start == 0) or begin + start >= stop:
            return  # all of the piece is inside one line
        searched = stop - 1 - begin
        while (end := buffer.find(newline, searched, filled)) < 0 and filled == room:
            searched = filled
            if filled - start > _LONGEST_LINE:
                raise _too_long(table, count_lines(table, begin + start) + buffer.count(newline, start, filled))
            room *= 2
            buffer = _with_room(buffer, room, filled)
            filled = _read_into(file, buffer, filled, room)
    first_line = table.data_line if begin == table.data_offset else None
    data = memoryview(buffer)[start : filled if end < 0 else end + 1]
    if data:
        yield Block(piece.index, 0, begin + start, first_line, data)


def require_same_text(table: Table, offset: int, crc32: int) -> None:
    """Raise unless the text of a plain file from its first row to `offset` has this CRC-32.

    Raises
    ------
    IngestError
        The file was rewritten.
    """
    with open(table.path, "rb", buffering=0) as file:
        _pass_over(table, file, offset, crc32, at=file.seek(table.extent[0]))


def _pass_over(table: Table, stream: IO[bytes], offset: int, expected: int | None, *, at: int = 0) -> None:
    """Read to `offset`, and check that the rows before it are what they were; the stream is at byte `at`."""
    crc32 = 0
    for stop in table.extent[0], offset:
        crc32 = 0
        while at < stop and (chunk := stream.read(min(stop - at, _STEP_BYTES))):
            crc32 = zlib.crc32(chunk, crc32)
            at += len(chunk)
    if expected is not None and (at < offset or crc32 != expected):
        raise IngestError(
            f"{table.path}: was rewritten since the interrupted run read it; begin again (--restart)", path=table.path
        )


def _read_stream(
    table: Table, piece: Piece, block_bytes: int, buffer: bytearray, crc32_before: int | None
) -> Iterator[Block]:
    newline = table.schema.newline
    line, offset, filled, room = table.data_line, piece.offset, 0, block_bytes
    buffer = _with_room(buffer, room)
    with open_source(table.path) as stream:
        _pass_over(table, stream, piece.offset, crc32_before)
        for index in itertools.count():
            size = 0
            while size == 0:
                if filled == room:
                    if filled > _LONGEST_LINE:
                        raise _too_long(table, line)
                    room *= 2
                    buffer = _with_room(buffer, room, filled)
                try:
                    filled = _read_into(stream, buffer, filled, room)
                except IngestError as error:
                    line += buffer.count(newline, 0, filled)
                    raise IngestError(f"{error}, in line {line}", path=table.path, line=line) from error
                is_short = filled < room
                filled, at_end = _end_of_table(table, buffer, filled)
                at_end |= is_short
                content = np.frombuffer(buffer, np.uint8)[:filled]
                size = filled if at_end else last_row_end_native(content, table.schema)
                if filled == 0:
                    return
            yield Block(piece.index, index, offset, line, memoryview(buffer)[:size])
            line += int(np.count_nonzero(content[:size] == newline))
            offset += size
            content[: filled - size] = content[size:filled].copy()
            filled -= size
            room = max(block_bytes, filled)
            if at_end:
                return


def _end_of_table(table: Table, buffer: bytearray, filled: int) -> tuple[int, bool]:
    """How much of the buffer belongs to the table, and whether another text follows; the buffer begins with a line."""
    if not table.schema.ends_at:
        return filled, False
    mark = table.schema.ends_at.encode(table.schema.encoding)
    newline = bytes([table.schema.newline])
    if buffer.startswith(mark, 0, filled):
        return 0, True
    found = buffer.find(newline + mark, 0, filled)
    return (filled, False) if found < 0 else (found + 1, True)


def _read_into(stream: IO[bytes], buffer: bytearray, filled: int, room: int) -> int:
    """Fill the first `room` bytes from `filled` on; how far they are filled then, short of it only at the stream's end."""
    view = memoryview(buffer)[:room]
    while filled < room and (size := stream.readinto(view[filled:])):  # type: ignore[attr-defined]
        filled += size
    return filled


def _with_room(buffer: bytearray, size: int, filled: int = 0) -> bytearray:
    """A buffer of at least `size` with the first `filled` bytes of this one; blocks handed out keep the old one alive."""
    if len(buffer) >= size:
        return buffer
    larger = bytearray(size)
    larger[:filled] = buffer[:filled]
    return larger


def _too_long(table: Table, line: int) -> IngestError:
    return IngestError(
        f"{table.path}: line {line} is longer than {format_bytes(_LONGEST_LINE)}; check the line ends and the quote "
        "character",
        path=table.path,
        line=line,
    )


def count_lines(table: Table, offset: int) -> int:
    """Number of the line that begins at `offset` of a plain file: what a block without `first_line` needs in a message."""
    newline = table.schema.newline
    line, at = table.data_line, table.data_offset
    with open(table.path, "rb", buffering=0) as file:
        file.seek(at)
        while at < offset and (chunk := file.read(min(BLOCK_BYTES, offset - at))):
            line += int(np.count_nonzero(np.frombuffer(chunk, np.uint8) == newline))
            at += len(chunk)
    return line
