"""A block of text to rows: the pure function that every worker runs.

The block is taken a stretch at a time, small enough that the text, the positions of its cells and the arrays made on the
way stay in the processor's cache; that bounds the memory a block needs beside its rows as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from shmlease.text.converters import Converter
from shmlease.text.quoted_cells import last_row_end
from shmlease.text.schema import Schema
from shmlease.text.text_buffer import Bytes, Ints, TextBuffer
from shmlease.text.tokenizer import Cells, LineError, split

__all__ = ["BadRow", "BytesLike", "ParsedBlock", "max_rows", "parse_block", "string_lengths"]

BytesLike: TypeAlias = bytes | bytearray | memoryview | Bytes

# Measured over 32 KiB to 1 MiB with the rows of a methylation table: below, the cost of calling numpy shows; above, the
# positions of the cells (8 bytes for each) leave a second-level cache of 1 to 2 MiB.
_STRETCH = 512 * 1024
_SHOWN = 80  # bytes of a cell or line in a report


_Faults: TypeAlias = dict[int, tuple[LineError, str | None, bytes | None]]


class BadRow(msgspec.Struct, frozen=True):
    """A line of the input that did not become a row.

    Attributes
    ----------
    line : int
        Its number, counted from the `first_line` of the block.
    offset : int
        Its first byte in the block.
    column : str or None
        The field that could not be read; None when the line as a whole is wrong.
    text : str
        The offending cell, or the beginning of the line.
    reason : str
        What was seen and what was expected.
    row : bytes
        The line as it stands in the file, without its line end.
    """

    line: int
    offset: int
    column: str | None
    text: str
    reason: str
    row: bytes

    def below(self, lines: int, offset: int = 0) -> BadRow:
        """The same, `lines` lines and `offset` bytes further down: for blocks whose first line was not known."""
        return msgspec.structs.replace(self, line=self.line + lines, offset=self.offset + offset)

    def __str__(self) -> str:
        return f"line {self.line}, " + (f"{self.column}: " if self.column else "") + self.reason


class ParsedBlock(msgspec.Struct, frozen=True):
    """What a block holds.

    Attributes
    ----------
    rows : ndarray
        The good rows; a view of the caller's array when one was given.
    bad : list of BadRow
        The lines that did not become rows, in their order.
    notes : Counter
        What was passed over or changed, by kind: comments, blank lines, missing values, marks after numbers.
    starts : ndarray of int, or None
        First byte of each good row in the block, where that was asked for.
    """

    rows: npt.NDArray[Any]
    bad: list[BadRow]
    notes: Counter[str]
    starts: Ints | None = None


def parse_block(
    data: BytesLike,
    schema: Schema,
    *,
    out: npt.NDArray[Any] | None = None,
    first_line: int = 1,
    most_bad: int | None = None,
    with_starts: bool = False,
) -> ParsedBlock:
    """Parse whole lines of a table into rows, each value as `numpy.loadtxt` gives it for the same dtype, bit for bit.

    Beside the rows and the reports a call needs 6 MiB, up to 18 MiB for quoted, ragged or very short cells, and more only
    when single lines are longer than 512 KiB.

    Parameters
    ----------
    data : bytes-like
        Whole lines; the last one may lack its line end. It is not changed.
    schema : Schema
        The fields, with columns given by number: a schema fitted to the file by `open_table`, or one without `source`.
    out : ndarray, optional
        One-dimensional array of ``schema.dtype`` to write to, with room for every line (`max_rows`). What lies behind the
        rows returned is undefined afterwards.
    first_line : int
        Number of the first line of the block in its file.
    most_bad : int, optional
        Stop soon after more bad rows than this were found, as a caller does that gives up on them: a table read by the
        wrong schema makes a report of every line, at 20 us and 600 bytes each. Both lists are then incomplete.
    with_starts : bool
        Also say where each row begins in the block.

    Returns
    -------
    ParsedBlock
        The good rows and the bad ones.

    Raises
    ------
    IngestError
        The schema names columns instead of numbers, or has fields that cannot be read.
    ValueError
        `out` is too small or of another type.
    """
    content = _as_array(data)
    rows = np.empty(max_rows(content, schema), schema.dtype) if out is None else out
    if rows.dtype != schema.dtype or rows.ndim != 1:
        raise ValueError(f"out is {rows.ndim}-dimensional {rows.dtype}; the schema makes one dimension of {schema.dtype}")
    columns = [
        (
            converter,
            place,
            rows[converter.field.name] if index is None else rows[converter.field.name][:, index],
            None if mask is None else rows[mask],
        )
        for converter, index, place, mask in _columns(schema)
    ]
    bad: list[BadRow] = []
    notes: Counter[str] = Counter()
    starts = [np.empty(0, np.int64)]
    filled = 0
    line, counted = first_line, 0
    for at, text, cells in _stretches(content, schema):
        stop = filled + len(cells)
        if stop > len(rows):
            raise ValueError(f"out has room for {len(rows)} rows and the block holds more; size it with max_rows()")
        notes.update(cells.notes)
        faults: _Faults = {fault.start: (fault, None, None) for fault in cells.faults}
        wrong = _undecodable(text, cells, schema.encoding)
        for column, place, target, mask in columns:
            masked = None if mask is None else mask[filled:stop]
            for cell_fault in column.read(text, *cells.column(place), target[filled:stop], notes, masked):
                wrong.setdefault(cell_fault.row, (cell_fault.reason, column.field.name, cell_fault.cell))
        for row, (reason, name, cell) in wrong.items():
            where = LineError(int(cells.row_starts[row]), int(cells.row_ends[row]), reason)
            faults[where.start] = (where, name, cell)
        good = np.delete(np.arange(len(cells)), list(wrong)) if wrong else slice(None)
        if wrong:
            rows[filled : stop - len(wrong)] = rows[filled:stop][good]
        if with_starts:
            starts.append(cells.row_starts[good] + at)
        filled = stop - len(wrong)
        for start, (fault, name, cell) in sorted(faults.items()):
            line += int(np.count_nonzero(content[counted : at + start] == schema.newline))
            counted = at + start
            row_text = content[counted : at + fault.end].tobytes().rstrip(b"\r\n")
            shown = _shown(row_text if cell is None else cell, schema.encoding)
            bad.append(BadRow(line, counted, name, shown, fault.reason, row_text))
        if most_bad is not None and len(bad) > most_bad:
            break
    return ParsedBlock(rows[:filled], bad, +notes, np.concatenate(starts) if with_starts else None)


@lru_cache(maxsize=64)
def _columns(schema: Schema) -> list[tuple[Converter, int | None, int, str | None]]:
    """For each column that is read: what reads it, its place in a subarray, its number, and the field of its mask."""
    converters = {each.name: Converter(each, schema) for each in schema.fields}
    return [
        (converters[each.name], index if each.dtype.shape else None, place, each.mask_name if each.is_nullable else None)
        for each, index, place in schema.columns()
    ]


def max_rows(data: BytesLike, schema: Schema) -> int:
    """How many rows `data` can make at most: its number of lines."""
    content = _as_array(data)
    ends = bytes({schema.newline, ord("\n")})  # where CR ends a line, LF does so as well
    counted = [
        int(np.count_nonzero(content[at : at + _STRETCH] == end)) for at in range(0, len(content), _STRETCH) for end in ends
    ]
    return sum(counted) + int(len(content) > 0 and content[-1] not in ends)


def string_lengths(data: BytesLike, schema: Schema) -> dict[str, int]:
    """The length in bytes of the longest cell of each ``S`` and ``U`` field, over the lines of `data` that are rows."""
    strings = [(each.name, place) for each, place in schema.places() if each.dtype.base.kind in "SU"]
    longest = dict.fromkeys((name for name, _ in strings), 0)
    for _, _, cells in _stretches(_as_array(data), schema):
        for name, place in strings:
            starts, ends = cells.column(place)
            longest[name] = max(longest[name], int((ends - starts).max(initial=0)))
    return longest


def _stretches(content: Bytes, schema: Schema) -> Iterator[tuple[int, TextBuffer, Cells]]:
    """The block in stretches of whole lines: where each begins, its text (good until the next), and its cells."""
    width = schema.row_width
    text = TextBuffer(min(_STRETCH, len(content)) + 1)
    at, room = 0, _STRETCH
    while at < len(content):
        window = content[at : at + room]
        size = len(window)
        if at + size < len(content):
            size = last_row_end(window, schema)
            if size == 0:  # a line longer than a stretch
                room *= 2
                continue
        if size + 1 > text.capacity:
            text = TextBuffer(2 * size)
        text.fill(window[:size], schema.newline)
        yield at, text, split(text, schema, width)
        at, room = at + size, _STRETCH


def _undecodable(text: TextBuffer, cells: Cells, encoding: str) -> dict[int, tuple[str, str | None, bytes | None]]:
    """The rows that hold bytes which are none of the encoding, by number, and why."""
    if text.is_ascii:
        return {}
    try:
        text.content.tobytes().decode(encoding)
    except UnicodeDecodeError:
        pass
    else:
        return {}
    wrong: dict[int, tuple[str, str | None, bytes | None]] = {}
    for row, (start, end) in enumerate(zip(cells.row_starts.tolist(), cells.row_ends.tolist(), strict=True)):
        try:
            text.cell(start, end).decode(encoding)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            reason = f"byte {byte:#04x} at place {error.start + 1} is not {encoding}; name the file's encoding (latin-1)"
            wrong[row] = (reason, None, None)
    return wrong


def _shown(text: bytes, encoding: str) -> str:
    shown = text[:_SHOWN].decode(encoding, "backslashreplace")
    return shown + "..." if len(text) > _SHOWN else shown


def _as_array(data: BytesLike) -> Bytes:
    return data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
