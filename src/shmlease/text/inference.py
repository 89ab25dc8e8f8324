"""A look at a file, and the schema it seems to have, with the reason for every choice.

The look is at lines from places all over the file, its end among them, since the beginning of a table often differs from
the rest: the chromosomes ``1`` to ``19`` come before ``X``. An inference is a proposal to print and to confirm. What it
missed becomes bad rows with a reason when the table is read, never other values.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shmlease.errors import IngestError
from shmlease.exhaustion import explains_shortage
from shmlease.text.header import open_table
from shmlease.text.records import split_line
from shmlease.text.sampling import Sample, records_of, take_sample, take_sample_of_quoted
from shmlease.text.schema import Field, Schema
from shmlease.text.sources import PathLike
from shmlease.text.string_lengths import fit_strings, measure_strings

__all__ = ["Inference", "infer"]

_COMMENTS = ("#", "track ", "browser ")
_DELIMITERS = ("\t", ",", ";", "|")
_MARKS = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "-", "--", "---", "?", ".")
_NUMERIC_MARKS = {"-9999", "-9900"}
_INTEGER = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan|inf|infinity)\s*", re.ASCII | re.IGNORECASE)
_PADDED = re.compile(r"\s*[+-]?0\d+\s*", re.ASCII)
_COLUMN_TYPE = re.compile(r"\d+[sdn]")  # the line of types in a USGS RDB file
_SEQUENCE_NAMES = {"chr", "chrom", "chromosome", "chrbase", "contig", "seqname", "scaffold"}
_REGULAR = 0.9  # share of lines that must have the same number of cells
_MATRIX_MARKET = "%%MatrixMarket"
_SURE_F8 = 10**15  # integers up to 2**53 are float64 numbers, and the lines not seen may hold larger ones
_LONGEST_INTEGER = 40  # more digits than any type has, with blanks around them
_SURE_I4 = 10**9  # the lines not seen may hold larger numbers


@dataclass(frozen=True, slots=True)
class Inference:
    """What a file seems to be.

    Attributes
    ----------
    schema : Schema
        The proposal.
    reasons : tuple of str
        Why, a line for each choice.
    lines_seen : int
        How many lines it rests on.
    """

    schema: Schema
    reasons: tuple[str, ...]
    lines_seen: int

    def __str__(self) -> str:
        fields = "\n".join(
            f"  {each}" + ("" if each.source in (None, each.name) else f" (column {each.source!r})")
            for each in self.schema.fields
        )
        reasons = "\n".join(f"  {reason}" for reason in self.reasons)
        return f"fields\n{fields}\nfrom {self.lines_seen} lines\n{reasons}"


@explains_shortage("{path} cannot be read")
def infer(path: PathLike, *, fit: bool = True) -> Inference:
    """Look at a file and propose the schema to read it with.

    Parameters
    ----------
    path : path
        A text table, compressed or not. A compressed one is read to its end: its middle cannot be reached otherwise.
    fit : bool
        Read the whole file once for the lengths of its strings; without, their type is ``S`` and still to be fitted.

    Raises
    ------
    IngestError
        The file cannot be read, or no two of its lines have the same number of cells.
    CapacityError
        Memory or descriptors have run out; the message says which limit.
    """
    name = os.fspath(path)
    reasons: list[str] = []
    sample = take_sample(path)
    if sample.has_cr:
        reasons.append("line ends: CR alone")
    if sample.encoding != "utf-8":
        reasons.append(f"encoding: {sample.encoding}, since there are bytes that are not UTF-8")
    elif not sample.is_ascii:
        reasons.append("encoding: UTF-8")
    is_matrix = sample.head.startswith(_MATRIX_MARKET)
    comments = (
        ("%",)
        if is_matrix
        else tuple(mark for mark in _COMMENTS if any(line.startswith(mark) for line in sample.head.split("\n")))
    )
    reasons += [f"comments: lines that begin with {mark}" for mark in comments]
    schema = Schema(comments=comments, encoding=sample.encoding)
    schema, width = _delimiter(name, sample, schema, reasons)
    first = list(records_of(sample.head, schema))
    if schema.quote and not sample.is_all:
        first.pop()  # it may go on behind the sample
    if is_matrix:
        size_line = next((number for number, line in first if _is_data(line, comments)), 0)
        first = [(number, line) for number, line in first if number > size_line]
        reasons.append(f"Matrix Market: the size of the matrix, in line {size_line + 1}, is no row")
    schema, names, begin = _preamble(name, first, schema, width, reasons)
    schema = replace(schema, skip_lines=first[0][0]) if is_matrix else schema
    later = sample.later
    if schema.quote and not sample.is_all:
        later = take_sample_of_quoted(path, schema, width)
    lines = [*(line for number, line in first if number >= begin), *later]
    rows = [split_line(line, schema) for line in lines if _is_data(line, comments)]
    rows = [cells for cells in rows if len(cells) == width]
    fields, missing = _fields(names, list(zip(*rows, strict=True)), reasons)
    schema = replace(schema, fields=fields, missing=missing)
    if fit and schema.needs_fitting:
        schema = fit_strings(schema, measure_strings(open_table(path, schema)))
        reasons.append("string lengths: measured over the whole file")
    return Inference(schema, tuple(reasons), len(rows))


def _is_data(line: str, comments: tuple[str, ...]) -> bool:
    return bool(line.strip()) and not line.startswith(comments)


def _delimiter(name: str, sample: Sample, schema: Schema, reasons: list[str]) -> tuple[Schema, int]:
    """The schema with the delimiter and the quote that cut most records into the same number of cells, and that number.

    Of several such, the one whose first record has that number, then the one that gives the most cells.
    """
    best: tuple[tuple[bool, int, float], Schema] | None = None
    is_irregular = False
    for delimiter in (*_DELIMITERS, None):
        for quote in ('"', "") if delimiter and _has_quoted_cell(sample, delimiter) else ("",):
            tried = replace(schema, delimiter=delimiter, quote=quote)
            records = [line for _, line in records_of(sample.head, tried)] + ([] if quote else sample.later)
            counts = [len(split_line(line, tried)) for line in records if _is_data(line, schema.comments)]
            if not counts:
                raise IngestError(f"{name}: no line of data", path=name)
            width, found = max(Counter(counts).items(), key=lambda item: (item[1], item[0]))
            if width == 1 or found < _REGULAR * len(counts):
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
    return schema, 1


def _has_quoted_cell(sample: Sample, delimiter: str) -> bool:
    lines = itertools.chain(sample.head.split("\n"), sample.later)
    return any(line.startswith('"') or f'{delimiter}"' in line for line in lines)


def _preamble(
    name: str, first: list[tuple[int, str]], schema: Schema, width: int, reasons: list[str]
) -> tuple[Schema, list[str], int]:
    """What comes before the rows: the schema that skips it, the names of the columns, and the line where the rows begin."""
    data = [(number, split_line(line, schema)) for number, line in first if _is_data(line, schema.comments)]
    regular = [len(cells) == width for _, cells in data]
    if not any(regular):
        raise IngestError(
            f"{name}: its beginning has no line of {width} cells, as the rest has; give the fields", path=name
        )
    start = next((place for place in range(len(data)) if all(regular[place : place + 4])), regular.index(True))
    skipped = data[start][0] if start else 0
    if skipped:
        reasons.append(f"skipped: {skipped} lines before the table")
    schema = replace(schema, skip_lines=skipped)
    rows = [(number, cells) for (number, cells), is_row in zip(data[start:], regular[start:], strict=True) if is_row]
    begin, names = rows[0]
    below = list(zip(*(cells for _, cells in rows[1:]), strict=True))
    numeric = [column for column, cells in enumerate(below) if 2 * sum(map(_is_number, cells)) > len(cells)]
    if numeric:
        header = not any(_is_number(names[column]) for column in numeric)
        why = "numbers stand below words"
    else:
        header = (
            bool(below)
            and len(set(names)) == width
            and all(name and name not in cells for name, cells in zip(names, below, strict=True))
        )
        why = "its words do not come again in their columns; check this"
    if not header:
        return schema, [""] * width, begin
    after = len(rows) > 1 and all(_COLUMN_TYPE.fullmatch(cell) for cell in rows[1][1])
    reasons.append(f"header: {', '.join(names)} ({why})" + (", then a line of column types" if after else ""))
    schema = replace(schema, header=True, skip_after_header=int(after))
    below_header = [number for number, _ in rows[1 + after :]]
    return schema, names, below_header[0] if below_header else first[-1][0] + 1


def _fields(
    names: Sequence[str], columns: Sequence[Sequence[str]], reasons: list[str]
) -> tuple[tuple[Field, ...], tuple[str, ...]]:
    fields: list[Field] = []
    missing: set[str] = set()
    taken: set[str] = set()
    for index, name in enumerate(names):
        stem = re.sub(r"\W+", "_", name.strip()).strip("_") or f"column_{index}"
        plain = next(
            each for each in itertools.chain([stem], map(f"{stem}_{{}}".format, itertools.count(2))) if each not in taken
        )
        taken.add(plain)
        cells = columns[index] if columns else ()
        kind, why = _type(plain, index, cells)
        if kind != "S":
            missing.update(cell.strip() for cell in cells if cell.strip() in _MARKS)
        column = name.strip()
        is_unique = column and [each.strip() for each in names].count(column) == 1
        source = (column if is_unique else index) if any(names) else None
        fields.append(Field(plain, kind, source))
        if why:
            reasons.append(f"{plain}: {kind}, {why}")
    if missing:
        reasons.append("missing values: " + ", ".join(map(repr, sorted(missing))))
    return tuple(fields), tuple(sorted(missing))


def _type(name: str, index: int, cells: Sequence[str]) -> tuple[str, str]:
    """The type of a column, and the reason where it is not plain to see."""
    values = [cell for cell in cells if cell.strip() not in _MARKS]
    words = [cell for cell in values if not _is_number(cell)]
    if not values:
        return "S", "since no value was seen"
    if words:
        few = len(words) < len(values) / 2
        return "S", f"since {len(words)} of {len(values)} cells are not numbers, such as {words[0]!r}" if few else ""
    if any(_PADDED.fullmatch(cell) for cell in values):
        return "S", "since some numbers begin with 0, as codes do"
    for mark in _NUMERIC_MARKS.intersection(values):
        return "f8", f"where {mark} stands {values.count(mark)} times; if it means missing, say so (missing)"
    if not all(map(_INTEGER.fullmatch, values)):
        return "f8", ""
    if max(map(len, values)) > _LONGEST_INTEGER:
        return "S", "since some integers do not fit 64 bits"
    numbers = [int(cell) for cell in values]
    if name.lower() in _SEQUENCE_NAMES:
        return "S", "since chromosomes have names, also where they look like numbers"
    if index == 0 and _looks_like_chromosomes(numbers):
        return "S", "since it looks like chromosomes: few small numbers, each in one run; X may follow"
    if len(values) < len(cells) and max(map(abs, numbers)) >= _SURE_F8:
        return "S", "since integers of this size with missing values have no type; declare an integer with a fill"
    if len(values) < len(cells):
        return "f8", "integers with missing values, which no integer type has"
    if max(map(abs, numbers)) >= _SURE_I4:
        return ("i8", "") if max(map(abs, numbers)) < 2**63 else ("S", "since some integers do not fit 64 bits")
    return "i4", ""


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None


def _looks_like_chromosomes(numbers: list[int]) -> bool:
    runs = [number for number, _ in itertools.groupby(numbers)]
    return min(numbers) >= 1 and max(numbers) <= 50 and len(runs) == len(set(runs)) and len(numbers) >= 4 * len(runs)
