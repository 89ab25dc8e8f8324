"""Where the cells of a stretch of text are: delimiters to rows, without looking at what the cells hold.

A stretch in which every line has the expected number of cells is one matrix of delimiter positions. As soon as one line
differs (a comment, a blank line, a ragged row), the lines of the stretch are counted one by one, still as arrays.
"""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np

from shmlease.text.quoted_cells import QuotedCells, find_quoted_cells, has_quoted_cells
from shmlease.text.schema import Schema
from shmlease.text.text_buffer import Bools, Bytes, Ints, TextBuffer

__all__ = ["Cells", "LineError", "split"]

_TAB, _NEWLINE, _RETURN, _SPACE = b"\t\n\r "


class LineError(msgspec.Struct, frozen=True):
    """A malformed line: where it begins and ends in the text, and why."""

    start: int
    end: int
    reason: str


class Cells(msgspec.Struct):
    """The cells of all good rows, asked for column by column.

    Attributes
    ----------
    row_starts, row_ends : ndarray of int
        Where each row begins and ends in the text.
    faults : list of LineError
        Malformed lines.
    notes : Counter
        What was passed over, by kind.
    """

    row_starts: Ints
    row_ends: Ints
    _ends: Ints
    _starts: Ints | None = None
    faults: list[LineError] = msgspec.field(default_factory=list)
    notes: Counter[str] = msgspec.field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.row_starts)

    def column(self, index: int) -> tuple[Ints, Ints]:
        """Start and end of the cells in a column."""
        if self._starts is not None:
            return self._starts[index], self._ends[index]
        return (self._ends[index - 1] + 1 if index else self.row_starts), self._ends[index]


def split(text: TextBuffer, schema: Schema, width: int) -> Cells:
    """The rows of `text`, each of `width` cells; the text ends with a line end, and all line ends are LF or CR LF."""
    content = text.content
    if schema.widths:
        return _split_fixed(text, content, schema, width)
    if schema.delimiter is None:
        return _split_at_blanks(text, content, schema, width)
    if schema.quote and has_quoted_cells(content, schema):
        return _split_ragged(text, content, schema, width, find_quoted_cells(content, schema))
    ends = _regular_ends(text, content, ord(schema.delimiter), width)
    if ends is not None:
        row_ends = ends[-1].copy()
        row_starts = np.empty_like(row_ends)
        row_starts[0] = 0
        np.add(row_ends[:-1], 1, out=row_starts[1:])
        has_return = text.byte(row_ends, ahead=-1) == _RETURN
        if has_return.any():
            ends[-1] -= has_return
        blank = width == 1 and bool((ends[0] == row_starts).any())
        if not blank and not (schema.comments and _may_be_comment(text, row_starts, schema).any()):
            return Cells(row_starts, row_ends, ends)
    return _split_ragged(text, content, schema, width, None)


def _regular_ends(text: TextBuffer, content: Bytes, delimiter: int, width: int) -> Ints | None:
    """Where the cells end, a row of the result for each column; None unless every line has `width` cells."""
    is_newline, is_separator = text.masks
    ends = text.positions(width)
    at = rows = 0
    while at < len(content):
        window = content[at : at + len(is_newline)]
        newline = np.equal(window, _NEWLINE, out=is_newline[: len(window)])
        separator = np.equal(window, delimiter, out=is_separator[: len(window)])
        separator |= newline
        found = np.flatnonzero(separator)
        count = len(found) // width
        if count == 0 or (at + len(window) == len(content) and count * width < len(found)):
            return None
        line_ends = found[width - 1 : count * width : width]
        size = int(line_ends[-1]) + 1
        if np.count_nonzero(newline[:size]) != count or not newline.take(line_ends, mode="clip").all():
            return None
        np.add(found[: count * width].reshape(count, width).T, at, out=ends[:, rows : rows + count])
        rows += count
        at += size
    return ends[:, :rows]


def _split_ragged(text: TextBuffer, content: Bytes, schema: Schema, width: int, quoted: QuotedCells | None) -> Cells:
    newline = content == _NEWLINE
    ends = np.flatnonzero((content == ord(schema.delimiter or "")) | newline)
    if quoted is not None:
        ends = ends[~quoted.enclose(ends)]
    starts = np.concatenate(([0], ends[:-1] + 1))
    last_of_line = np.flatnonzero(newline.take(ends))
    line_ends = ends[last_of_line]
    ends[last_of_line] -= (text.byte(line_ends, ahead=-1) == _RETURN) & (line_ends > starts[last_of_line])
    first = np.concatenate(([0], last_of_line[:-1] + 1))
    line_starts = starts[first]
    counts = last_of_line - first + 1
    counts[(counts == 1) & (ends[first] == line_starts)] = 0
    malformed: dict[int, str] = {}
    if quoted is not None:
        _unquote(content, starts, ends, quoted, schema.quote)
        lines = np.searchsorted(line_starts, np.fromiter(quoted.malformed, np.int64))
        malformed = dict(zip(lines.tolist(), quoted.malformed.values(), strict=True))
    return _take_rows(text, schema, width, (starts, ends), (first, counts), (line_starts, line_ends), malformed)


def _split_at_blanks(text: TextBuffer, content: Bytes, schema: Schema, width: int) -> Cells:
    newline = content == _NEWLINE
    blank = newline | (content == _SPACE) | (content == _TAB) | (content == _RETURN)
    edges = np.flatnonzero(np.concatenate(([not blank[0]], blank[1:] != blank[:-1])))
    starts, ends = edges[::2], edges[1::2]
    line_ends = np.flatnonzero(newline)
    cells_before = np.searchsorted(starts, line_ends)
    first = np.concatenate(([0], cells_before[:-1]))
    counts = cells_before - first
    line_starts = np.concatenate(([0], line_ends[:-1] + 1))
    return _take_rows(text, schema, width, (starts, ends), (first, counts), (line_starts, line_ends), {})


def _split_fixed(text: TextBuffer, content: Bytes, schema: Schema, width: int) -> Cells:
    """Cells of so many bytes each, the blanks around them aside; a cell that a line does not reach is empty."""
    line_ends = np.flatnonzero(content == _NEWLINE)
    line_starts = np.concatenate(([0], line_ends[:-1] + 1))
    line_ends = line_ends - ((text.byte(line_ends, ahead=-1) == _RETURN) & (line_ends > line_starts))
    edges = np.concatenate(([0], np.cumsum(schema.widths)))
    starts = np.minimum(line_starts[:, None] + edges[:-1], line_ends[:, None]).ravel()
    ends = np.minimum(line_starts[:, None] + edges[1:], line_ends[:, None]).ravel()
    last = np.minimum(line_starts + edges[-1], line_ends)
    wide = np.flatnonzero(line_ends > last).tolist()
    malformed = {}
    if schema.extra == "error":
        long = [line for line in wide if text.cell(last[line], line_ends[line]).strip()]
        malformed = dict.fromkeys(long, f"text behind the {edges[-1]} bytes of its cells")
    if not text.is_ascii and schema.encoding.lower().replace("-", "") == "utf8":
        beyond_ascii = np.searchsorted(line_starts, np.flatnonzero(content >= 0x80), side="right") - 1
        why = "letters beyond ASCII, which take several bytes, so that its cells are not where the widths say"
        malformed |= dict.fromkeys(np.unique(beyond_ascii).tolist(), why)
    for _ in range(max(schema.widths)):
        blank = (text.byte(starts) <= _SPACE) & (starts < ends)
        if not blank.any():
            break
        starts = starts + blank
    for _ in range(max(schema.widths)):
        blank = (text.byte(ends, ahead=-1) <= _SPACE) & (starts < ends)
        if not blank.any():
            break
        ends = ends - blank
    is_blank = np.logical_and.reduceat(starts == ends, np.arange(0, len(starts), width))
    counts = np.where(is_blank, 0, width)
    first = np.arange(0, len(starts), width)
    return _take_rows(text, schema, width, (starts, ends), (first, counts), (line_starts, line_ends), malformed)


def _take_rows(
    text: TextBuffer,
    schema: Schema,
    width: int,
    cells: tuple[Ints, Ints],
    groups: tuple[Ints, Ints],
    lines: tuple[Ints, Ints],
    malformed: dict[int, str],
) -> Cells:
    """Keep the lines that are rows; `groups` has the first cell and the number of cells of each line."""
    (starts, ends), (first, counts), (line_starts, line_ends) = cells, groups, lines
    notes: Counter[str] = Counter()
    is_row = counts > 0
    notes["blank lines"] = len(is_row) - int(np.count_nonzero(is_row))
    text_starts = line_starts.copy()
    if schema.delimiter is None:
        blank = (starts < ends).reshape(-1, width).argmax(axis=1) if schema.widths else 0  # cells before the text
        text_starts[is_row] = starts[(first + blank)[is_row]]
    for line in np.flatnonzero(is_row & _may_be_comment(text, text_starts, schema)):
        content = text.cell(text_starts[line], line_ends[line])
        for prefix in schema.comments:
            if content.startswith(prefix.encode(schema.encoding)):
                notes[f"lines that begin with {prefix!r}"] += 1
                is_row[line] = False
                break
    wrong = ((counts < width) & (schema.short == "error")) | ((counts > width) & (schema.extra == "error"))
    reasons = {int(line): f"{counts[line]} cells where {width} are expected" for line in np.flatnonzero(wrong & is_row)}
    reasons |= {line: why for line, why in malformed.items() if is_row[line]}
    faults = [LineError(int(line_starts[line]), int(line_ends[line]), why) for line, why in sorted(reasons.items())]
    is_row[list(reasons)] = False
    first, counts, line_starts, line_ends = first[is_row], counts[is_row], line_starts[is_row], line_ends[is_row]
    passed = "ignored" if schema.extra == "ignore" else "joined to the last"
    notes[f"rows with more than {width} cells, the rest {passed}"] = int(np.count_nonzero(counts > width))
    place = np.arange(width)[:, None]
    index = first + np.minimum(place, counts - 1)
    cell_starts, cell_ends = starts[index], ends[index]
    if schema.short == "missing":
        absent = place >= counts
        cell_starts[absent] = cell_ends[absent] = np.broadcast_to(line_ends, absent.shape)[absent]
    if schema.extra == "join":
        cell_ends[-1, counts > width] = ends[(first + counts - 1)[counts > width]]
    return Cells(line_starts, line_ends, cell_ends, cell_starts, faults=faults, notes=+notes)


def _may_be_comment(text: TextBuffer, line_starts: Ints, schema: Schema) -> Bools:
    first = text.byte(line_starts)
    found = np.zeros(len(line_starts), np.bool_)
    for letter in {prefix.encode(schema.encoding)[0] for prefix in schema.comments if prefix}:
        found |= first == letter
    return found


def _unquote(content: Bytes, starts: Ints, ends: Ints, quoted: QuotedCells, quote: str) -> None:
    """Narrow quoted cells to what is inside, with doubled quotes made one in place."""
    cells = np.searchsorted(starts, quoted.opens)
    starts[cells] += 1
    ends[cells] = quoted.closes
    quotes = np.flatnonzero(content == ord(quote))
    inside = np.searchsorted(quotes, quoted.closes) - np.searchsorted(quotes, quoted.opens) - 1
    mark = quote.encode()
    for cell in cells[inside > 0]:
        start, end = starts[cell], ends[cell]
        plain = content[start:end].tobytes().replace(mark * 2, mark)
        ends[cell] = start + len(plain)
        content[start : ends[cell]] = np.frombuffer(plain, np.uint8)
        content[ends[cell] : end] = ord(quote)  # what is left over may be half of a letter
