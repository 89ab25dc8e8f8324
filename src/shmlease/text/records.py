"""What a record is: the rule for quotes, followed from cell to cell.

A quote opens a quoted cell only where a cell begins; elsewhere it is a character, as for the csv module. In a quoted cell
delimiters and line ends are characters, and a doubled quote is one. Behind the quote that closes it is a delimiter or a
line end.

A record is malformed when a quoted cell of it is not closed within 1 MiB, when text follows a closing quote, or when it has
several lines and the wrong number of cells. It costs its first line only, and reading goes on with the next: a stray quote
takes no other line with it. What is decided of the beginning of a text does not depend on what follows, so that a text can
be cut behind any record.

Line ends are LF here, also after a CR.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from shmlease.text.schema import Schema

__all__ = ["LONGEST_QUOTED_BYTES", "Record", "ScannedText", "count_fault", "read_record", "scan_records", "split_line"]

# So much is read ahead for a stray quote at the start of a cell; texts and base64 images in cells are shorter.
LONGEST_QUOTED_BYTES: Final = 1 << 20
_NEWLINE, _RETURN = b"\n\r"


class Record(msgspec.Struct, frozen=True):
    """One record of a text.

    Attributes
    ----------
    end : int
        Its line end, or the end of the text; of a malformed one, the end of its first line.
    cells : list of (int, int, bool)
        Where each cell begins and ends, quotes included, and whether it is quoted.
    fault : str
        Why the record is malformed; empty when it is not.
    is_complete : bool
        False where the text ends too early to tell.
    """

    end: int
    cells: list[tuple[int, int, bool]]
    fault: str = ""
    is_complete: bool = True


class ScannedText(msgspec.Struct, frozen=True):
    """The quotes around the quoted cells of a text, its malformed lines, and the length of its whole records."""

    quoted: list[tuple[int, int]]
    malformed: dict[int, str]
    size_bytes: int


class _Patterns(NamedTuple):
    opening: re.Pattern[bytes]  # a quote where a cell begins
    body: re.Pattern[bytes]  # from it to the one that closes
    after: re.Pattern[bytes]  # what may follow that
    plain: re.Pattern[bytes]  # a cell without quotes


@lru_cache(maxsize=64)
def _patterns(delimiter: str, quote: str) -> _Patterns:
    mark, between = re.escape(quote.encode()), re.escape(delimiter.encode())
    return _Patterns(
        re.compile(rb"%b(?:(?<=[%b\n]%b)|(?<=\A%b))" % (mark, between, mark, mark)),
        re.compile(rb"%b[^%b]*+(?:%b%b[^%b]*+)*+" % ((mark,) * 5)),
        re.compile(rb"[%b\n]|\r\n|\r?\Z" % between),
        re.compile(rb"[^%b\n]*+" % between),
    )


def read_record(data: bytes, start: int, schema: Schema, *, is_whole: bool) -> Record:
    """The record that begins at `start`; its number of cells may be any.

    Parameters
    ----------
    data : bytes
        The text.
    start : int
        First byte of a line.
    schema : Schema
        Has a delimiter and a quote.
    is_whole : bool
        No more text follows.
    """
    quote = schema.quote.encode()
    patterns = _patterns(schema.delimiter or "", schema.quote)
    cells: list[tuple[int, int, bool]] = []
    at = start
    while True:
        begin, is_quoted = at, data.startswith(quote, at)
        if is_quoted:
            body = patterns.body.match(data, at, at + LONGEST_QUOTED_BYTES + 2)
            assert body is not None, "it begins with the quote"
            at = body.end() + 1
            if at - 1 - begin > LONGEST_QUOTED_BYTES or (is_whole and at > len(data)):
                return _malformed(data, start, f"a {schema.quote} is opened and not closed", is_whole)
            if not is_whole and (at >= len(data) or (at == len(data) - 1 and data[at] == _RETURN)):
                return Record(len(data), cells, is_complete=False)
            if not patterns.after.match(data, at):
                return _malformed(data, start, _TEXT_AFTER.format(schema.quote), is_whole)
        stop = at
        plain = patterns.plain.match(data, at)
        assert plain is not None, "it may be empty"
        at = plain.end()
        cells.append((begin, stop if is_quoted else at, is_quoted))
        if at == len(data):
            return Record(at, cells, is_complete=is_whole)
        if data[at] == _NEWLINE:
            return Record(at, cells)
        at += 1


_TEXT_AFTER = "text follows the {0} that closes a cell; double a {0} inside quotes, or switch quoting off"


def _malformed(data: bytes, start: int, fault: str, is_whole: bool) -> Record:
    end = data.find(b"\n", start)
    return Record(end if end >= 0 else len(data), [], fault, is_complete=is_whole or end >= 0)


def count_fault(count: int, schema: Schema) -> str:
    """What is wrong with a record of so many cells, if something is."""
    width = schema.row_width
    wrong = (count < width and schema.short == "error") or (count > width and schema.extra == "error")
    return f"{count} cells where {width} are expected" if wrong else ""


def scan_records(data: bytes, schema: Schema, *, is_whole: bool) -> ScannedText:
    """The quoted cells of a text that begins with a record, found record by record; lines without any are passed over."""
    opening = _patterns(schema.delimiter or "", schema.quote).opening
    prefixes = tuple(prefix.encode(schema.encoding) for prefix in schema.comments if prefix)
    quoted: list[tuple[int, int]] = []
    malformed: dict[int, str] = {}
    at = 0  # the records before are done
    while found := opening.search(data, at):
        start = max(data.rfind(b"\n", at, found.start()) + 1, at)
        if data.startswith(prefixes, start):
            end = data.find(b"\n", start)
            if end < 0:
                return ScannedText(quoted, malformed, len(data) if is_whole else start)
            at = end + 1
            continue
        record = read_record(data, start, schema, is_whole=is_whole)
        if not record.is_complete:
            return ScannedText(quoted, malformed, start)
        end, fault = record.end, record.fault
        first_end = data.find(b"\n", start, end)
        if not fault and first_end >= 0 and (fault := count_fault(len(record.cells), schema)):
            fault, end = f"{fault}, in lines joined by a {schema.quote}", first_end
        if fault:
            malformed[start] = fault
        else:
            quoted += [(begin, stop - 1) for begin, stop, is_quoted in record.cells if is_quoted]
        at = end + 1
    return ScannedText(quoted, malformed, len(data) if is_whole else max(data.rfind(b"\n", at) + 1, at))


def split_line(line: str, schema: Schema) -> list[str]:
    """The cells of one record without its line end, quotes removed; of a malformed line, what is between its delimiters."""
    if schema.widths:
        edges = [0, *itertools.accumulate(schema.widths)]
        return [line[start:stop].strip() for start, stop in itertools.pairwise(edges)]
    if schema.delimiter is None:
        return line.split()
    if not schema.quote or schema.quote not in line:
        return line.split(schema.delimiter)
    data = line.encode()
    record = read_record(data, 0, schema, is_whole=True)
    if record.fault or record.end < len(data):
        return line.split(schema.delimiter)
    texts = ((data[begin:stop].decode(), is_quoted) for begin, stop, is_quoted in record.cells)
    return [text[1:-1].replace(schema.quote * 2, schema.quote) if is_quoted else text for text, is_quoted in texts]
