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
from shmlease.text.header import line_end_of, open_table
from shmlease.text.records import split_line
from shmlease.text.schema import Field, Schema
from shmlease.text.sources import PathLike, compression_of, open_source
from shmlease.text.string_lengths import fit_strings, measure_strings

__all__ = ["Inference", "infer"]

_HEAD_BYTES = 256 << 10
_PLACES, _PART_BYTES = 32, 32 << 10
_DELIMITERS = ("\t", ",", ";", "|")
_MARKS = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "-", "--", "---", "?", ".")
_NUMERIC_MARKS = {"-9999", "-9900"}
_INTEGER = re.compile(r"\s*[+-]?\d+\s*")
_NUMBER = re.compile(r"\s*[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan|inf|infinity)\s*", re.IGNORECASE)
_PADDED = re.compile(r"\s*[+-]?0\d+")
_COLUMN_TYPE = re.compile(r"\d+[sdn]")  # the line of types in a USGS RDB file
_SEQUENCE_NAMES = {"chr", "chrom", "chromosome", "chrbase", "contig", "seqname", "scaffold"}
_REGULAR = 0.9  # share of lines that must have the same number of cells
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
        fields = "\n".join(f"  {each}" for each in self.schema.fields)
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
    reasons: list[str] = []
    head, parts = _sample(path)
    newline = b"\r" if line_end_of(head) == "cr" else b"\n"
    if newline == b"\r":
        reasons.append("line ends: CR alone")
    beginning = head.removeprefix(b"\xef\xbb\xbf").split(newline)
    if parts:
        beginning.pop()
    later = [line for part in parts for line in part.split(newline)[1:-1]]  # a part begins and ends inside a line
    later += [line for part in parts[-1:] for line in part.split(newline)[-1:]]
    encoding = _encoding(b"\n".join((*beginning, *later)), reasons)
    first = [line.decode(encoding).removesuffix("\r") for line in beginning]
    lines = [*first, *(line.decode(encoding).removesuffix("\r") for line in later)]
    comments = ("#",) if any(line.startswith("#") for line in first) else ()
    if comments:
        reasons.append("comments: lines that begin with #")
    delimiter, quote, width = _delimiter(os.fspath(path), [line for line in lines if _is_data(line, comments)], reasons)
    schema = Schema(delimiter=delimiter, quote=quote, comments=comments, encoding=encoding)
    schema, names, first_row = _preamble(first, schema, width, reasons)
    rows = [split_line(line, schema) for line in lines[first_row:] if _is_data(line, comments)]
    rows = [cells for cells in rows if len(cells) == width]
    fields, missing = _fields(names, list(zip(*rows, strict=True)), reasons)
    schema = replace(schema, fields=fields, missing=missing)
    if fit and schema.needs_fitting:
        schema = fit_strings(schema, measure_strings(open_table(path, schema)))
        reasons.append("string lengths: measured over the whole file")
    return Inference(schema, tuple(reasons), len(rows))


def _sample(path: PathLike) -> tuple[bytes, list[bytes]]:
    """The beginning of the text, and parts of the rest, the last of which ends it."""
    with open_source(path) as stream:
        head = stream.read(_HEAD_BYTES)
        if compression_of(path) == "plain":
            size = os.stat(path).st_size
            apart = max((size - len(head)) // _PLACES, _PART_BYTES)
            places = list(range(size - _PART_BYTES, len(head) - _PART_BYTES, -apart))[::-1]
            return head, [_read_at(path, max(place, len(head))) for place in places]
        parts: list[bytes] = []
        step, tail = 1, b""
        for index in itertools.count():
            chunk = stream.read(_HEAD_BYTES)
            if not chunk:
                return head, [*parts, tail] if tail else []
            tail = (tail + chunk)[-_PART_BYTES:]
            if index % step == 0:
                parts.append(chunk[:_PART_BYTES])
            if len(parts) > 2 * _PLACES:  # every second place, and from now on half as often
                parts, step = parts[::2], 2 * step
    raise AssertionError


def _read_at(path: PathLike, offset: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(_PART_BYTES)


def _encoding(text: bytes, reasons: list[str]) -> str:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        reasons.append("encoding: latin-1, since there are bytes that are not UTF-8")
        return "latin-1"
    if not text.isascii():
        reasons.append("encoding: UTF-8")
    return "utf-8"


def _is_data(line: str, comments: tuple[str, ...]) -> bool:
    return bool(line.strip()) and not line.startswith(comments)


def _delimiter(name: str, lines: list[str], reasons: list[str]) -> tuple[str | None, str, int]:
    """The delimiter that cuts most lines into the same number of cells, the quote, and that number."""
    best: tuple[float, int, str | None, str] = (0.0, 1, "\t", "")
    for delimiter in (*_DELIMITERS, None):
        quote = '"' if delimiter and any(line.startswith('"') or f'{delimiter}"' in line for line in lines) else ""
        schema = Schema(delimiter=delimiter, quote=quote)
        counts = Counter(len(split_line(line, schema)) for line in lines)
        width, found = max(counts.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        share = found / max(len(lines), 1)
        if width > 1 and share >= _REGULAR and (delimiter is not None or best[1] == 1):
            best = max(best, (1.0, width, delimiter, quote), key=lambda item: item[:2])
    _, width, delimiter, quote = best
    if not lines:
        raise IngestError(f"{name}: no line of data", path=name)
    if width == 1:
        reasons.append(f"one column: no delimiter gives {_REGULAR:.0%} of the lines the same number of cells")
    else:
        shown = "runs of blanks" if delimiter is None else repr(delimiter)
        reasons.append(f"delimiter: {shown}, {width} cells in a line" + (f"; quoted with {quote}" if quote else ""))
    return delimiter, quote, width


def _preamble(first: list[str], schema: Schema, width: int, reasons: list[str]) -> tuple[Schema, list[str], int]:
    """What comes before the rows: the schema that skips it, the names of the columns, and where the rows begin."""
    data = [index for index, line in enumerate(first) if _is_data(line, schema.comments)]
    regular = [len(split_line(first[index], schema)) == width for index in data]
    start = next((place for place in range(len(data)) if all(regular[place : place + 4])), len(data) - 1)
    skipped = data[start] if start else 0
    if skipped:
        reasons.append(f"skipped: {skipped} lines before the table")
    schema = replace(schema, skip_lines=skipped)
    rows = [split_line(first[index], schema) for place, index in enumerate(data) if place >= start and regular[place]]
    names, below = rows[0], list(zip(*rows[1:], strict=True)) if len(rows) > 1 else []
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
        return schema, [f"column_{index}" for index in range(width)], data[start]
    after = len(rows) > 1 and all(_COLUMN_TYPE.fullmatch(cell) for cell in rows[1])
    reasons.append(f"header: {', '.join(names)} ({why})" + (", then a line of column types" if after else ""))
    schema = replace(schema, header=True, skip_after_header=int(after))
    return schema, names, data[min(start + 1 + after, len(data) - 1)]


def _fields(
    names: Sequence[str], columns: Sequence[Sequence[str]], reasons: list[str]
) -> tuple[tuple[Field, ...], tuple[str, ...]]:
    fields: list[Field] = []
    missing: set[str] = set()
    taken: Counter[str] = Counter()
    for index, name in enumerate(names):
        plain = re.sub(r"\W+", "_", name.strip()).strip("_") or f"column_{index}"
        taken[plain] += 1
        if taken[plain] > 1:
            plain += f"_{taken[plain]}"
        cells = columns[index] if columns else ()
        kind, why = _type(plain, index, cells)
        if kind != "S":
            missing.update(cell.strip() for cell in cells if cell.strip() in _MARKS)
        fields.append(Field(plain, kind))
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
    numbers = [int(cell) for cell in values]
    if name.lower() in _SEQUENCE_NAMES:
        return "S", "since chromosomes have names, also where they look like numbers"
    if index == 0 and _looks_like_chromosomes(numbers):
        return "S", "since it looks like chromosomes: few small numbers, each in one run; X may follow"
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
