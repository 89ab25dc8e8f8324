"""How the lines of a file are cut, and where its rows begin, told by what its lines have in common."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from shmlease.errors import IngestError
from shmlease.text.column_types import MARKS, NumberStyle, is_number, propose, style_of
from shmlease.text.records import split_line
from shmlease.text.sampling import Sample, records_of
from shmlease.text.schema import Schema
from shmlease.units import format_count

__all__ = ["find_delimiter", "find_rows", "is_data"]

_DELIMITERS = ("\t", ",", ";", "|")
_COLUMN_TYPE = re.compile(r"\d+[sdn]")  # the line of types in a USGS RDB file
_REGULAR = 0.9  # share of lines that must have the same number of cells


def is_data(line: str, comments: tuple[str, ...]) -> bool:
    """Whether a line is neither blank nor a comment."""
    return bool(line.strip()) and not line.startswith(comments)


def find_delimiter(name: str, sample: Sample, schema: Schema, reasons: list[str], fixed: set[str]) -> tuple[Schema, int]:
    """The schema with the delimiter and the quote that cut most records into the same number of cells, and that number.

    Of several such, the one whose first record has that number, then the one that gives the most cells.
    """
    best: tuple[tuple[bool, int, float], Schema] | None = None
    is_irregular = False
    if schema.widths:
        return schema, len(schema.widths)
    for delimiter in (schema.delimiter,) if "delimiter" in fixed else (*_DELIMITERS, None):
        quotes = ('"', "") if delimiter and _has_quoted_cell(sample, delimiter) else ("",)
        for quote in (schema.quote if delimiter else "",) if "quote" in fixed else quotes:
            tried = replace(schema, delimiter=delimiter, quote=quote)
            records = [line for _, line in records_of(sample.head, tried)] + ([] if quote else sample.later)
            counts = [len(split_line(line, tried)) for line in records if is_data(line, schema.comments)]
            if not counts:
                raise IngestError(f"{name}: no line of data", path=name)
            width, found = max(Counter(counts).items(), key=lambda item: (item[1], item[0]))
            if width == 1 or found < _REGULAR * len(counts):
                if "delimiter" in fixed and width > 1:
                    return tried, width
                single = counts.count(1) / len(counts)  # one column is read as if with tabs; other delimiters may be text
                is_irregular |= single < (_REGULAR if delimiter == "\t" else _REGULAR / 2)
            elif delimiter is not None or best is None:
                fitness = (counts[0] == width, width, found / len(counts))
                best = max(best or (fitness, tried), (fitness, tried), key=lambda item: item[0])
    if best is not None:
        (_, width, _), chosen = best
        shown = "runs of blanks" if chosen.delimiter is None else repr(chosen.delimiter)
        quoted = f"; quoted with {chosen.quote}" if chosen.quote else ""
        reasons.append(f"delimiter: {shown}, {width} cells in a line{quoted}")
        return chosen, width
    if is_irregular:
        raise IngestError(
            f"{name}: no delimiter gives {_REGULAR:.0%} of the lines the same number of cells, so no schema is proposed; "
            "say what separates the cells, and the fields (--delimiter, --dtype)",
            path=name,
        )
    reasons.append("one column: most lines have no delimiter")
    return replace(schema, quote=""), 1


def _has_quoted_cell(sample: Sample, delimiter: str) -> bool:
    lines = itertools.chain(sample.head.split("\n"), sample.later)
    return any(line.startswith('"') or f'{delimiter}"' in line for line in lines)


def find_rows(
    name: str, first: list[tuple[int, str]], schema: Schema, width: int, reasons: list[str], fixed: set[str]
) -> tuple[Schema, list[str], int]:
    """What comes before the rows: the schema that skips it, the names of the columns, and the line where the rows begin."""
    before = [(number, line) for number, line in first if is_data(line, schema.comments)]
    data = [(number, split_line(line, schema)) for number, line in before]
    regular = [len(cells) == width for _, cells in data]
    if not any(regular):
        raise IngestError(
            f"{name}: its beginning has no line of {width} cells, as the rest has; give the fields", path=name
        )
    start = next((place for place in range(len(data)) if all(regular[place : place + 4])), regular.index(True))
    skipped = data[start][0] if start else 0
    if skipped:
        reasons.append(f"skipped: {format_count(skipped, 'line')} before the table")
    schema = replace(schema, skip_lines=skipped)
    rows = [(number, cells) for (number, cells), is_row in zip(data[start:], regular[start:], strict=True) if is_row]
    begin, names = rows[0]
    below = list(zip(*(cells for _, cells in rows[1:]), strict=True))
    style = style_of(below)
    numeric = [column for column, cells in enumerate(below) if _are_mostly_values(cells, style)]
    if "header" in fixed:
        header, why = schema.header, "as given"
    elif numeric:
        header = not any(_is_value(names[column], style) for column in numeric)
        why = "numbers or times stand below words"
    else:
        header = (
            bool(below)
            and len(set(names)) == width
            and all(name and name not in cells for name, cells in zip(names, below, strict=True))
        )
        why = "its words do not come again in their columns; check this"
    if not header:
        reasons.append(
            f"no header: line {begin + 1} looks like those below it" if "header" not in fixed else "no header, as given"
        )
        schema = replace(schema, header=False)
        return schema, _titles_between_blanks(before[:start], schema, width, reasons), begin
    after = len(rows) > 1 and all(_COLUMN_TYPE.fullmatch(cell) for cell in rows[1][1])
    has_units = not after and len(rows) > 3 and _are_units(rows[1][1], [cells[1:] for cells in below], style)
    more = ", then a line of column types" if after else ", then a line of units" if has_units else ""
    reasons.append(f"header: {', '.join(names)} ({why}){more}")
    schema = replace(schema, header=True, skip_after_header=int(after or has_units), units=has_units)
    below_header = [number for number, _ in rows[1 + schema.skip_after_header :]]
    return schema, names, below_header[0] if below_header else first[-1][0] + 1


def _are_mostly_values(cells: Sequence[str], style: NumberStyle) -> bool:
    present = sum(each.strip() not in MARKS for each in cells)
    if 2 * present > len(cells) and propose("", 1, cells, style).type.startswith("M8"):
        return True  # told for all at once; cell by cell, times are slow
    return 2 * sum(_is_value(each, style) for each in cells) > len(cells)


@functools.lru_cache(100_000)  # a column seldom has as many different cells as rows
def _is_value(cell: str, style: NumberStyle) -> bool:
    """Whether a cell is a number or a time, as a name seldom is."""
    return is_number(style.plain(cell)) or propose("", 1, [cell], style).type.startswith("M8")


def _are_units(line: Sequence[str], below: list[Sequence[str]], style: NumberStyle) -> bool:
    """Whether a line has words where numbers follow, and nothing that is a value."""
    numeric = [
        place
        for place, cells in enumerate(below)
        if all(is_number(style.plain(each)) or each.strip() in MARKS for each in cells)
    ]
    return (
        bool(numeric)
        and all(line[place].strip() not in MARKS[1:] and not is_number(style.plain(line[place])) for place in numeric)
        and any(line[place].strip() for place in numeric)
    )


def _titles_between_blanks(before: list[tuple[int, str]], schema: Schema, width: int, reasons: list[str]) -> list[str]:
    """Names of the columns in the line above a table of blanks, where several blanks stand between them."""
    if before and schema.delimiter is None:
        titles = re.split(r"\s{2,}", before[-1][1].strip())
        if len(titles) == width and not any(map(is_number, titles)):
            reasons.append(f"names: {', '.join(titles)}, from line {before[-1][0] + 1}")
            return titles
    return [""] * width
