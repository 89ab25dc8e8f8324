"""Where the cells of a stretch of text are: delimiters to rows, without looking at what the cells hold.

A stretch in which every line has the expected number of cells is one matrix of delimiter positions. As soon as one line
differs (a comment, a blank line, a ragged row), the lines of the stretch are counted one by one, still as arrays.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from shmlease.text.schema import Schema
from shmlease.text.text_buffer import Bools, Bytes, Ints, TextBuffer

__all__ = ["Cells", "LineError", "last_line_end", "split"]

_TAB, _NEWLINE, _RETURN, _SPACE = b"\t\n\r "


@dataclass(frozen=True, slots=True)
class LineError:
    """A malformed line: where it begins and ends in the text, and why."""

    start: int
    end: int
    reason: str


@dataclass(slots=True)
class Cells:
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
    faults: list[LineError] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.row_starts)

    def column(self, index: int) -> tuple[Ints, Ints]:
        """Start and end of the cells in a column."""
        if self._starts is not None:
            return self._starts[index], self._ends[index]
        return (self._ends[index - 1] + 1 if index else self.row_starts), self._ends[index]


def last_line_end(data: Bytes, newline: int, quote: str) -> int:
    """Length of the part of `data` that ends with its last line end outside quotes; 0 when there is none."""
    if not quote:
        found = -1
        step = 4096
        for stop in range(len(data), 0, -step):
            found = data[max(stop - step, 0) : stop].tobytes().rfind(newline)
            if found >= 0:
                return max(stop - step, 0) + found + 1
        return 0
    ends = np.flatnonzero(data == newline)
    ends = ends[~_inside_quotes(data, ends, quote)]
    return int(ends[-1]) + 1 if len(ends) else 0


def split(text: TextBuffer, schema: Schema, width: int) -> Cells:
    """The rows of `text`, each of `width` cells; the text ends with a line end, and all line ends are LF or CR LF."""
    content = text.content
    if schema.delimiter is None:
        return _split_at_blanks(text, content, schema, width)
    ends = _regular_ends(text, content, ord(schema.delimiter), width)
    if ends is not None and not (schema.quote and (content == ord(schema.quote)).any()):
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
    return _split_ragged(text, content, schema, width)


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


def _split_ragged(text: TextBuffer, content: Bytes, schema: Schema, width: int) -> Cells:
    newline = content == _NEWLINE
    ends = np.flatnonzero((content == ord(schema.delimiter or "")) | newline)
    if schema.quote:
        ends = ends[~_inside_quotes(content, ends, schema.quote)]
    starts = np.concatenate(([0], ends[:-1] + 1))
    last_of_line = np.flatnonzero(newline.take(ends))
    line_ends = ends[last_of_line]
    ends[last_of_line] -= (text.byte(line_ends, ahead=-1) == _RETURN) & (line_ends > starts[last_of_line])
    first = np.concatenate(([0], last_of_line[:-1] + 1))
    line_starts = starts[first]
    counts = last_of_line - first + 1
    counts[(counts == 1) & (ends[first] == line_starts)] = 0
    broken = np.empty(0, np.int64)
    if schema.quote:
        unclear = _unquote(content, starts, ends, schema.quote)
        broken = np.unique(np.searchsorted(first, unclear, side="right") - 1)
    cells = _take_rows(text, schema, width, (starts, ends), (first, counts), (line_starts, line_ends), broken)
    covered = int(line_ends[-1]) + 1 if len(line_ends) else 0
    if covered < len(content):
        cells.faults.append(LineError(covered, len(content), f"a {schema.quote} is opened and not closed"))
    return cells


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
    broken = np.empty(0, np.int64)
    return _take_rows(text, schema, width, (starts, ends), (first, counts), (line_starts, line_ends), broken)


def _take_rows(
    text: TextBuffer,
    schema: Schema,
    width: int,
    cells: tuple[Ints, Ints],
    groups: tuple[Ints, Ints],
    lines: tuple[Ints, Ints],
    broken: Ints,
) -> Cells:
    """Keep the lines that are rows; `groups` has the first cell and the number of cells of each line."""
    (starts, ends), (first, counts), (line_starts, line_ends) = cells, groups, lines
    notes: Counter[str] = Counter()
    is_row = counts > 0
    notes["blank lines"] = len(is_row) - int(np.count_nonzero(is_row))
    text_starts = line_starts.copy()
    if schema.delimiter is None:
        text_starts[is_row] = starts[first[is_row]]
    for line in np.flatnonzero(is_row & _may_be_comment(text, text_starts, schema)):
        content = text.cell(text_starts[line], line_ends[line])
        for prefix in schema.comments:
            if content.startswith(prefix.encode(schema.encoding)):
                notes[f"lines that begin with {prefix!r}"] += 1
                is_row[line] = False
                break
    wrong = ((counts < width) & (schema.short == "error")) | ((counts > width) & (schema.extra == "error"))
    reasons = {int(line): f"{counts[line]} cells where {width} are expected" for line in np.flatnonzero(wrong & is_row)}
    reasons |= {int(line): _UNCLEAR.format(schema.quote) for line in broken if is_row[line]}
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


_UNCLEAR = "a {} inside a cell that is not quoted as a whole; double it, or switch quoting off"


def _may_be_comment(text: TextBuffer, line_starts: Ints, schema: Schema) -> Bools:
    first = text.byte(line_starts)
    found = np.zeros(len(line_starts), np.bool_)
    for letter in {prefix.encode(schema.encoding)[0] for prefix in schema.comments if prefix}:
        found |= first == letter
    return found


def _inside_quotes(data: Bytes, positions: Ints, quote: str) -> Bools:
    """Where an odd number of quotes comes before; a doubled quote counts twice, and so changes nothing."""
    return (np.searchsorted(np.flatnonzero(data == ord(quote)), positions) & 1).astype(np.bool_)


def _unquote(content: Bytes, starts: Ints, ends: Ints, quote: str) -> Ints:
    """Narrow quoted cells to what is inside, with doubled quotes made one in place; return the cells that are unclear."""
    quotes = np.flatnonzero(content == ord(quote))
    inside = np.searchsorted(quotes, ends) - np.searchsorted(quotes, starts)
    cells = np.flatnonzero(inside)
    whole = (content[starts[cells]] == ord(quote)) & (content[ends[cells] - 1] == ord(quote))
    whole &= (ends[cells] - starts[cells] >= 2) & (inside[cells] % 2 == 0)
    unclear = [cells[~whole]]
    quoted = cells[whole]
    starts[quoted] += 1
    ends[quoted] -= 1
    mark = quote.encode()
    for cell in quoted[inside[quoted] > 2]:
        start, end = starts[cell], ends[cell]
        escaped = content[start:end].tobytes()
        if mark in escaped.replace(mark * 2, b""):
            unclear.append(np.array([cell]))
            continue
        plain = escaped.replace(mark * 2, mark)
        ends[cell] = start + len(plain)
        content[start : ends[cell]] = np.frombuffer(plain, np.uint8)
    return np.concatenate(unclear)
