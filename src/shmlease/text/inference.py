"""A look at a file, and the schema it seems to have, with the reason for every choice.

The look is at lines from places all over the file, its end among them, since the beginning of a table often differs from
the rest: the chromosomes ``1`` to ``19`` come before ``X``. An inference is a proposal to print and to confirm. What it
missed becomes bad rows with a reason when the table is read, never other values.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from shmlease.exhaustion import explains_shortage
from shmlease.text.archives import expand_archives
from shmlease.text.column_types import MARKS, NumberStyle, propose, style_of
from shmlease.text.field import MASK_SUFFIX
from shmlease.text.formats import format_named, format_of
from shmlease.text.header import open_table
from shmlease.text.preamble import find_delimiter, find_rows, is_data
from shmlease.text.records import split_line
from shmlease.text.sampling import Sample, records_of, take_sample, take_sample_of_quoted
from shmlease.text.schema import Field, Schema
from shmlease.text.sources import PathLike, is_read_once
from shmlease.text.string_lengths import fit_strings, measure_strings

__all__ = ["Inference", "infer"]

_COMMENTS = ("#", "track ", "browser ")
_MOST_FILES = 20  # whose beginnings are looked at for the types
_MATRIX_MARKET = "%%MatrixMarket"
_ROOM = 4  # times the longest string in the beginning of a pipe
_PREFACE = {"skip_lines", "skip_to", "skip_after_header", "attribute_lines", "units", "widths"}


@dataclass(frozen=True, slots=True)
class Inference:
    """What a file seems to be.

    Attributes
    ----------
    schema : Schema
        The proposal. Unless it is a named layout it is `exact`: a number that was not seen and that it would change is
        malformed.
    layout : str or None
        The name of the layout that it is, if the file has one of those.
    reasons : tuple of str
        Why, a line for each choice.
    lines_seen : int
        How many lines it rests on.
    longest : mapping of str to int
        The longest cell that was seen, by field.
    """

    schema: Schema
    reasons: tuple[str, ...]
    lines_seen: int
    layout: str | None = None
    longest: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        fields = "\n".join(
            f"  {each}" + ("" if each.source in (None, each.name) else f" (column {each.source!r})")
            for each in self.schema.fields
        )
        reasons = "\n".join(f"  {reason}" for reason in self.reasons)
        return f"fields\n{fields}\nfrom {self.lines_seen} lines\n{reasons}"


@explains_shortage("the files cannot be read")
def infer(
    paths: PathLike | Sequence[PathLike],
    *,
    given: Mapping[str, Any] | None = None,
    layout: str | None = None,
    fit: bool = True,
) -> Inference:
    """Look at a file and propose the schema to read it with.

    Parameters
    ----------
    paths : path or sequence of paths
        Text tables of one kind, compressed or not. The first says how they are written; the types are those of all, as far
        as they are looked at. A compressed one is read to its end: its middle cannot be reached otherwise. Of a pipe, the
        beginning is looked at.
    given : mapping, optional
        Options of `Schema` that are known, such as ``delimiter=","``.
    layout : str, optional
        A layout whose options are known, such as ``"csv"``.
    fit : bool
        Read the files once for the lengths of their strings; without, their type is ``S`` and still to be fitted.

    Raises
    ------
    IngestError
        A file cannot be read, or no two of its lines have the same number of cells.
    CapacityError
        Memory or descriptors have run out; the message says which limit.
    """
    names = expand_archives([os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)])
    reasons: list[str] = []
    sample = take_sample(names[0])
    if layout is None and not given and (found := format_of(sample.head)) is not None:
        reasons.append(f"layout {found}, which its first lines show; columns that it does not name are left out")
        inference = Inference(format_named(found), (*reasons,), sample.head.count("\n"), found)
    else:
        inference = _inferred(names, sample, dict(given or {}), layout, reasons)
    if not inference.schema.needs_fitting or not fit:
        return inference
    if any(map(is_read_once, names)):
        longest = {each.name: _ROOM * max(inference.longest.get(each.name, 0), 1) for each in inference.schema.fields}
        why = f"string lengths: {_ROOM} times the longest that was seen, since a pipe cannot be read twice"
    else:
        longest = {}
        for name in names:
            for field, length in measure_strings(open_table(name, inference.schema)).items():
                longest[field] = max(length, longest.get(field, 0))
        why = (
            "string lengths: measured over all files" if len(names) > 1 else "string lengths: measured over the whole file"
        )
    unfitted = {each.name: longest[each.name] for each in inference.schema.fields if each.needs_fitting}
    return replace(inference, schema=fit_strings(inference.schema, unfitted), reasons=(*inference.reasons, why))


def _inferred(names: list[str], sample: Sample, given: dict[str, Any], layout: str | None, reasons: list[str]) -> Inference:
    """A proposal by what the lines have in common; strings have no length yet."""
    name = names[0]
    known = Schema() if layout is None else replace(format_named(layout), fields=())
    fixed = set(given) | (set() if layout is None else {each.name for each in fields(Schema)})
    if sample.has_cr:
        reasons.append("line ends: CR alone")
    if sample.encoding != "utf-8":
        reasons.append(f"encoding: {sample.encoding}, since there are bytes that are not UTF-8")
    elif not sample.is_ascii:
        reasons.append("encoding: UTF-8")
    is_matrix = sample.head.startswith(_MATRIX_MARKET)
    comments = known.comments if layout is not None else given.get("comments", ())
    if "comments" not in fixed:
        begins = {mark for mark in _COMMENTS if any(line.startswith(mark) for line in sample.head.split("\n"))}
        comments = ("%",) if is_matrix else tuple(mark for mark in _COMMENTS if mark in begins)
        reasons += [f"comments: lines that begin with {mark}" for mark in comments]
    schema = replace(known, **{"encoding": sample.encoding, **given, "comments": comments, "exact": True})
    schema, width = find_delimiter(name, sample, schema, reasons, fixed)
    first = list(records_of(sample.head, schema))
    if schema.quote and not sample.is_all:
        first.pop()  # it may go on behind the sample
    if is_matrix and layout is None:
        size_line = next((number for number, line in first if is_data(line, comments)), 0)
        first = [(number, line) for number, line in first if number > size_line]
        reasons.append(f"Matrix Market: the size of the matrix, in line {size_line + 1}, is no row")
    if fixed & _PREFACE:
        table = open_table(name, replace(schema, width=width))
        titles, begin = list(table.names) or [""] * width, table.data_line - 1
    else:
        schema, titles, begin = find_rows(name, first, schema, width, reasons, fixed)
    schema = replace(schema, skip_lines=first[0][0]) if is_matrix and layout is None else schema
    later = sample.later
    if schema.quote and not sample.is_all and not is_read_once(name):
        later = take_sample_of_quoted(name, schema, width)
    lines = [*(line for number, line in first if number >= begin), *later]
    rows = [split_line(line, schema) for line in lines if is_data(line, comments)]
    rows = [cells for cells in rows if len(cells) == width]
    columns = [list(cells) for cells in zip(*rows, strict=True)] or [[] for _ in titles]
    for other in names[1:_MOST_FILES]:
        _add_cells(columns, other, replace(schema, width=None if any(titles) else width), titles)
    style = NumberStyle(schema.decimal, schema.thousands)
    if not fixed & {"decimal", "thousands"} and (schema.delimiter != "," or schema.quote):
        style = style_of(columns)
        if style != NumberStyle():
            reasons.append(f"numbers: decimal {style.decimal!r}, thousands {style.thousands!r}, by their digits")
            schema = replace(schema, decimal=style.decimal, thousands=style.thousands)
    proposed, missing = _fields(titles, columns, style, schema, reasons)
    schema = replace(schema, fields=proposed, missing=(*schema.missing, *sorted(missing - {*schema.missing})))
    longest = {
        each.name: max((len(cell.encode()) for cell in cells), default=0)
        for each, cells in zip(proposed, columns, strict=True)
    }
    return Inference(schema, tuple(reasons), len(rows), layout, longest)


def _add_cells(columns: list[list[str]], path: str, schema: Schema, titles: Sequence[str]) -> None:
    """Add the cells at the beginning of another file, found by the names of their columns."""
    sample = take_sample(path)
    table = open_table(path, replace(schema, fields=(), encoding=sample.encoding))
    places = (
        [table.names.index(title) if title in table.names else None for title in titles]
        if table.names
        else range(len(columns))
    )
    for number, line in records_of(sample.head, table.schema):
        cells = split_line(line, table.schema)
        if number >= table.data_line - 1 and is_data(line, schema.comments) and len(cells) == table.schema.row_width:
            for column, place in zip(columns, places, strict=True):
                if place is not None and place < len(cells):
                    column.append(cells[place])


def _fields(
    names: Sequence[str], columns: Sequence[Sequence[str]], style: NumberStyle, schema: Schema, reasons: list[str]
) -> tuple[tuple[Field, ...], set[str]]:
    proposed: list[Field] = []
    missing: set[str] = set()
    taken: set[str] = set()
    for index, name in enumerate(names):
        stem = re.sub(r"\W+", "_", name.strip()).strip("_") or f"column_{index}"
        plain = next(
            each for each in itertools.chain([stem], map(f"{stem}_{{}}".format, itertools.count(2))) if each not in taken
        )
        taken |= {plain, plain + MASK_SUFFIX}
        cells = [cell for cell in columns[index] if cell not in schema.missing] if columns else []
        has_marked = bool(columns) and len(cells) < len(columns[index])
        found = propose(plain, index, [*cells, ""] if has_marked else cells, style)
        if found.type != "S":
            missing.update(cell for cell in cells if cell.strip() in MARKS)
        column = name.strip()
        is_unique = column and [each.strip() for each in names].count(column) == 1
        source = (column if is_unique else index) if schema.header else None
        proposed.append(Field(plain, found.type, source, format=found.format))
        if found.why:
            reasons.append(f"{plain}: {found.type}, {found.why}")
    if missing:
        reasons.append("missing values: " + ", ".join(map(repr, sorted(missing))))
    return tuple(proposed), missing
