"""The quoted cells of a text, as arrays: all at once where no record is malformed, else record by record.

The rule is that of `shmlease.text.records`. Where each quote opens, closes or is doubled in turn, every second quote opens;
that is checked for all quotes of the text at once, which is many times as fast as following it from cell to cell.
"""

from __future__ import annotations

import msgspec
import numpy as np

from shmlease.text.records import LONGEST_QUOTED_BYTES, count_fault, scan_records
from shmlease.text.schema import Schema
from shmlease.text.text_buffer import Bools, Bytes, Ints

__all__ = ["QuotedCells", "find_quoted_cells", "has_quoted_cells", "last_line_end", "last_row_end"]

_NEWLINE, _RETURN = b"\n\r"


class QuotedCells(msgspec.Struct, frozen=True):
    """The quoted cells of a text.

    Attributes
    ----------
    opens, closes : ndarray of int
        The quotes around each.
    size_bytes : int
        Length of the part of the text that whole records make up.
    malformed : dict of int to str
        Lines that are malformed for their quotes, by their first byte, and why. Quotes in them are characters.
    """

    opens: Ints
    closes: Ints
    size_bytes: int
    malformed: dict[int, str] = msgspec.field(default_factory=dict)

    def enclose(self, positions: Ints) -> Bools:
        """Whether each position is inside a quoted cell."""
        if not len(self.opens):
            return np.zeros(len(positions), np.bool_)
        cell = np.searchsorted(self.opens, positions) - 1
        inside: Bools = (cell >= 0) & (positions < self.closes[cell])
        return inside


def last_row_end(data: Bytes, schema: Schema) -> int:
    """Length of the part of `data`, which begins with a record, that whole records make up; 0 when there is none."""
    newline = schema.newline
    if schema.quote and schema.delimiter and has_quoted_cells(data, schema):
        content = data if newline == _NEWLINE else np.where(data == newline, np.uint8(_NEWLINE), data)
        return find_quoted_cells(content, schema, is_whole=False).size_bytes
    return last_line_end(data, newline)


def last_line_end(data: Bytes, newline: int) -> int:
    """Length of the part of `data` that whole lines make up, whatever is in them."""
    step = 4096
    for stop in range(len(data), 0, -step):
        found = data[max(stop - step, 0) : stop].tobytes().rfind(newline)
        if found >= 0:
            return max(stop - step, 0) + found + 1
    return 0


def has_quoted_cells(content: Bytes, schema: Schema, before: int = _NEWLINE) -> bool:
    """Whether there is a quote where a cell begins, so that quoting matters; `before` is the byte before the text."""
    quotes = np.flatnonzero(content == ord(schema.quote))
    return len(quotes) > 0 and bool(_begin_cells(content, quotes, schema, before).any())


def find_quoted_cells(content: Bytes, schema: Schema, *, is_whole: bool = True) -> QuotedCells:
    """The quoted cells of a text that begins with a record and whose lines end with LF.

    Parameters
    ----------
    content : ndarray of uint8
        The text.
    schema : Schema
        How it is written: with a delimiter and a quote.
    is_whole : bool
        It ends with the last line end of its table, or behind a record. If not, more of it may follow.
    """
    quotes = np.flatnonzero(content == ord(schema.quote))
    regular = _find_regular(content, quotes, schema, is_whole=is_whole)
    if regular is not None:
        return regular
    scanned = scan_records(content.tobytes(), schema, is_whole=is_whole)
    opens, closes = np.array(scanned.quoted, np.int64).reshape(-1, 2).T
    return QuotedCells(opens, closes, scanned.size_bytes, scanned.malformed)


def _begin_cells(content: Bytes, quotes: Ints, schema: Schema, before: int = _NEWLINE) -> Bools:
    """Which of some quotes are the first byte of a cell."""
    previous = content[quotes - 1]
    previous[quotes == 0] = before
    found: Bools = (previous == ord(schema.delimiter or "")) | (previous == _NEWLINE) | (previous == schema.newline)
    return found


def _find_regular(content: Bytes, quotes: Ints, schema: Schema, *, is_whole: bool) -> QuotedCells | None:
    """The quoted cells of a text without a malformed record; None where that is not plain to see."""
    if len(quotes) and quotes[-1] == len(content) - 1:  # whether it closes shows by the next byte
        quotes = quotes[:-1]
    inner = _inner_quotes(content, quotes, schema)
    opens, closes = quotes[~inner][::2], quotes[~inner][1::2]
    if not len(opens) or (is_whole and len(opens) > len(closes)):
        return None
    doubled = opens[1:] == closes[: len(opens) - 1] + 1
    begin = _begin_cells(content, opens, schema)
    begin[1:] |= doubled
    after = content[closes + 1]
    end = (after == ord(schema.delimiter or "")) | (after == _NEWLINE)
    end |= (after == _RETURN) & (content[np.minimum(closes + 2, len(content) - 1)] == _NEWLINE)
    end[: len(doubled)] |= doubled
    if not begin.all() or not end.all():
        return None
    opens = opens[np.append(True, ~doubled)]
    closes = closes[np.append(~doubled, True)[: len(closes)]]
    if len(opens) > len(closes):  # the last is still open where the text ends
        closes = np.append(closes, len(content))
    cells = QuotedCells(opens, closes, len(content))
    if cells.enclose(quotes[inner]).any():  # text follows a closing quote
        return None
    line_ends = np.flatnonzero(content == _NEWLINE)
    inside = cells.enclose(line_ends)
    row_ends = line_ends[~inside]
    joined = np.unique(np.searchsorted(row_ends, line_ends[inside]))
    if int((closes - opens).max()) > LONGEST_QUOTED_BYTES or not _are_rows(content, schema, cells, row_ends, joined):
        return None
    return cells if is_whole else QuotedCells(opens, closes, int(row_ends[-1]) + 1 if len(row_ends) else 0)


def _inner_quotes(content: Bytes, quotes: Ints, schema: Schema) -> Bools:
    """Which quotes stand between two characters that are neither quotes nor around cells: characters, or errors."""
    inner = ~_begin_cells(content, quotes, schema)
    around = [ord(schema.delimiter or ""), ord(schema.quote), _NEWLINE, _RETURN]
    inner[inner] = ~np.isin(content[quotes[inner] + 1], around) & (content[quotes[inner] - 1] != ord(schema.quote))
    return inner


def _are_rows(content: Bytes, schema: Schema, cells: QuotedCells, row_ends: Ints, records: Ints) -> bool:
    """Whether these records of several lines have the right number of cells, and none may be a comment."""
    records = records[records < len(row_ends)]
    if not len(records):
        return True
    starts = np.append(0, row_ends + 1)[records]
    delimiters = np.flatnonzero(content == ord(schema.delimiter or ""))
    delimiters = delimiters[~cells.enclose(delimiters)]
    counts = np.searchsorted(delimiters, row_ends[records]) - np.searchsorted(delimiters, starts) + 1
    letters = [prefix.encode(schema.encoding)[0] for prefix in schema.comments if prefix]
    return not np.isin(content[starts], letters).any() and not any(
        count_fault(count, schema) for count in set(counts.tolist())
    )
