"""Random small tables, read as an ingest reads them, are what a slow and obvious reader makes of them, or are refused.

The reader here goes over the text one character at a time, follows the rules of docs/ingest.md, and knows nothing of
blocks, arrays or C. It reads a record after another, and gives for each the cells, or None where the line is malformed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmlease.errors import IngestError
from shmlease.text.blocks import count_lines, cut_table, read_piece
from shmlease.text.header import open_table
from shmlease.text.parser_choice import PARSERS
from shmlease.text.schema import Schema

DTYPES = {"i": "i4", "f": "f8", "s": "S6", "n": "i8?", "b": "?", "t": "M8[s]"}
MARKS = ("", "NA", "-99")
_EPOCH = datetime(1970, 1, 1)
CELLS = {
    "i": st.integers(-(2**33), 2**33).map(str) | st.sampled_from(["7", "-7", "+7", "007", " 5 ", "1.5", "x", "1e2"]),
    "f": st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.sampled_from(["1", ".5", "5.", "1D2", "-0", "nan", "1,5"]),
    "s": st.text("ab é日 \"'#", max_size=7),
    "n": st.integers(-(2**63), 2**63).map(str),
    "b": st.sampled_from(["true", "F", "yes", "0", "1", "2", "No", "x"]),
    "t": st.datetimes().map(lambda time: time.isoformat()[:19]) | st.sampled_from(["2020-02-30", "2020-01-01", "NaT"]),
}


@dataclass(frozen=True)
class Table:
    text: str
    schema: Schema
    block_bytes: int


@st.composite
def tables(draw: st.DrawFn) -> Table:
    kinds = draw(st.lists(st.sampled_from(sorted(DTYPES)), min_size=1, max_size=4))
    delimiter = draw(st.sampled_from(["\t", ",", ";"]))
    quote = draw(st.sampled_from(["", '"']))
    line_end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    lines = []
    for _ in range(draw(st.integers(1, 8))):
        cells = [draw(st.sampled_from(MARKS) if draw(st.integers(0, 4)) == 0 else CELLS[kind]) for kind in kinds]
        if quote and draw(st.booleans()):
            place = draw(st.integers(0, len(cells) - 1))
            inner = cells[place] + draw(st.sampled_from(["", delimiter, line_end, quote * 2]))
            cells[place] = quote + inner + quote
        lines.append(delimiter.join(cells))
        if draw(st.integers(0, 9)) == 0:
            lines.append(draw(st.sampled_from(["", "# note", "#", quote + "x", "a" + delimiter * 9])))
    schema = Schema(
        delimiter=delimiter,
        quote=quote,
        missing=MARKS,
        comments=draw(st.sampled_from([(), ("#",)])),
        encoding=draw(st.sampled_from(["utf-8", "latin-1"])),
        width=len(kinds),
        exact=draw(st.booleans()),
    )
    names = ",".join(f"{kind}{place}:{DTYPES[kind]}" for place, kind in enumerate(kinds))
    text = line_end.join(lines) + line_end * draw(st.booleans())
    return Table(text, schema.with_dtype(names), draw(st.integers(1, 60)))


def reference(data: bytes, schema: Schema) -> Iterator[tuple[Any, ...] | None]:
    """The rows of a text; None for each malformed line."""
    newline = "\r" if b"\n" not in data[: data.find(b"\r") + 2] and b"\r" in data else "\n"
    text = data.decode("latin-1").replace(newline, "\n") if newline == "\r" else data.decode("latin-1")
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        line_end = len(text) if end < 0 else end
        line = text[at:line_end].removesuffix("\r")
        if not line or line.startswith(tuple(schema.comments)):
            at = line_end + 1
            continue
        cells, stop = record(text, at, schema)
        if cells is None or (stop > line_end and len(cells) != schema.width):
            yield None
            at = line_end + 1
            continue
        at = stop + 1
        raw = [cell.encode("latin-1") for cell in cells]
        try:
            b"".join(raw).decode(schema.encoding)
            yield None if len(cells) != schema.width else values(raw, schema)
        except (ValueError, KeyError):
            yield None


def record(text: str, at: int, schema: Schema) -> tuple[list[str] | None, int]:
    """The cells of the record at a place, and its line end; no cells where a quoted one is malformed."""
    cells: list[str] = []
    while True:
        cell = ""
        is_quoted = bool(schema.quote) and text.startswith(schema.quote, at)
        if is_quoted:
            at += 1
            while True:
                if at >= len(text):
                    return None, at
                if text.startswith(schema.quote * 2, at):
                    cell, at = cell + schema.quote, at + 2
                elif text[at] == schema.quote:
                    at += 1
                    break
                else:
                    cell, at = cell + text[at], at + 1
            at += text.startswith("\r\n", at) or text[at:] == "\r"
            if at < len(text) and text[at] not in (schema.delimiter, "\n"):
                return None, at
        else:
            while at < len(text) and text[at] not in (schema.delimiter, "\n"):
                cell, at = cell + text[at], at + 1
            if at >= len(text) or text[at] == "\n":
                cell = cell.removesuffix("\r")
        cells.append(cell)
        if at >= len(text) or text[at] == "\n":
            return cells, at
        at += 1


def values(cells: list[bytes], schema: Schema) -> tuple[Any, ...]:
    """The values of a row; ValueError where one cannot be."""
    row: list[Any] = []
    for field, cell in zip(schema.fields, cells, strict=True):
        word = cell.decode(schema.encoding)
        kind = field.name[0]
        is_missing = kind != "s" and (word in MARKS or (kind in "ifn" and number(word) == -99))
        if kind == "s":
            row.append(fitting(cell))
        elif kind == "n":
            row += [0 if is_missing else integer(word, 64, schema), is_missing]
        elif kind == "t":
            is_none = is_missing or word.strip().lower() == "nat"
            row.append(-(2**63) if is_none else round((datetime.fromisoformat(word.strip()) - _EPOCH).total_seconds()))
        elif kind == "f":
            row.append(math.nan if is_missing else decimal(word, schema))
        elif is_missing:
            raise ValueError(word)
        elif kind == "b":
            row.append({"true": True, "yes": True, "1": True, "f": False, "no": False, "0": False}[word.strip().lower()])
        else:
            row.append(integer(word, 32, schema))
    return tuple(row)


def number(word: str) -> Fraction | None:
    try:
        return Fraction(word.strip())
    except ValueError:
        return None


def fitting(cell: bytes) -> bytes:
    if len(cell) > 6:
        raise ValueError(cell)
    return cell.rstrip(b"\0")


def integer(word: str, bits: int, schema: Schema) -> int:
    value = int(word)
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1) or "_" in word:
        raise ValueError(word)
    require_unpadded(word, schema)
    return value


def decimal(word: str, schema: Schema) -> float:
    word = word.replace("D", "e")
    value = float(word)
    require_unpadded(word, schema)
    if schema.exact and word.strip().lstrip("+-").isdigit() and int(value) != int(word):
        raise ValueError(word)
    return value


def require_unpadded(word: str, schema: Schema) -> None:
    digits = word.strip().lstrip("+-")
    if schema.exact and digits[:1] == "0" and digits[1:2].isdigit():
        raise ValueError(word)


def check(path: Any, table: Table, parser: str) -> None:
    data = table.text.encode(table.schema.encoding, "replace")
    path.write_bytes(data)
    try:
        fitted = open_table(path, table.schema)
    except IngestError:
        return
    rows = list(reference(data, table.schema))
    found: list[Any] = []
    found_bad = 0
    for piece in cut_table(fitted, table.block_bytes):
        for block in read_piece(fitted, piece, table.block_bytes):
            first_line = block.first_line or count_lines(fitted, block.offset)
            parsed = PARSERS[parser].parse_block(block.data, fitted.schema, first_line=first_line)  # type: ignore[index]
            found += parsed.rows.tolist()
            found_bad += len(parsed.bad)
    assert found_bad == rows.count(None)
    assert repr(found) == repr([row for row in rows if row is not None])  # in which nan equals nan, and -0.0 not 0.0


@pytest.mark.parametrize("parser", PARSERS)
@given(tables())
def test_random_tables_are_what_the_obvious_reader_makes_of_them(tmp_path_factory, parser: str, table: Table) -> None:
    check(tmp_path_factory.getbasetemp() / "random", table, parser)


@pytest.mark.stress
@settings(max_examples=1_000_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(table=tables(), parser=st.sampled_from(sorted(PARSERS)))
def test_a_million_random_tables_are_what_the_obvious_reader_makes_of_them(
    tmp_path_factory, table: Table, parser: str
) -> None:
    check(tmp_path_factory.getbasetemp() / "random", table, parser)
