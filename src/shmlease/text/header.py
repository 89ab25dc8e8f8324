"""What comes before the data of a file: byte order mark, prose, header, units; and the schema fitted to the file by it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from shmlease.errors import IngestError
from shmlease.text.first_lines import FirstLines, FirstRow
from shmlease.text.records import split_line
from shmlease.text.schema import Field, Schema
from shmlease.text.sources import PathLike, compression_of, open_source, state_of

__all__ = ["Table", "open_table"]

_NODATA = "nodata_value"


@dataclass(frozen=True, slots=True)
class Table:
    """A file and the schema fitted to it: every field has the number of its column, and a row its number of cells.

    Attributes
    ----------
    path : str
        The file.
    schema : Schema
        The fitted schema, good for `parse_block`.
    compression : str
        ``plain``, or what it is read as a stream for, see `compression_of`.
    names : tuple of str
        The names in the header; empty without one.
    data_offset, data_line : int
        First byte of the data in the (decompressed) text, and the number of that line, from 1.
    size_bytes : int
        Size of the file as it lies on disk.
    attributes : tuple of (str, str)
        What the lines before the data say of it: units of fields, a grid's corner and cell size.
    part : tuple of int, or None
        Bytes [start, stop) of a plain file, whole lines, if no more of it is to be read; see `shmlease.text.parts`.
    """

    path: str
    schema: Schema
    compression: str
    names: tuple[str, ...]
    data_offset: int
    data_line: int
    size_bytes: int
    attributes: tuple[tuple[str, str], ...] = ()
    part: tuple[int, int] | None = None

    @property
    def extent(self) -> tuple[int, int]:
        """Of a plain file: the first byte of the rows that are to be read, and the byte after the last."""
        start, stop = self.part or (0, self.size_bytes)
        return max(start, self.data_offset), max(stop, self.data_offset)


def open_table(path: PathLike, schema: Schema) -> Table:
    """Read the beginning of a file and fit the schema to it.

    With a header, a field without a column is the column of its name. A file that is empty, or has blank lines and comments
    only, is a table without rows, whatever the schema expects before them.

    Raises
    ------
    IngestError
        The file cannot be read, has no header where one is expected, or has not the columns that the fields name.
    """
    name = os.fspath(path)
    compression = compression_of(name)
    size_bytes = state_of(name).size_bytes
    with open_source(name) as stream:
        schema = schema if stream.encoding is None else _changed(schema, encoding=stream.encoding)
        lines = FirstLines(name, stream, schema)
        schema = _changed(schema, line_end=lines.line_end)
        if lines.are_blank(comments=not (schema.skip_lines or schema.skip_to)):
            return Table(name, _without_columns(schema), compression, (), lines.offset, 1, size_bytes)
        for _ in range(schema.skip_lines):
            lines.take("the lines to skip")
        if schema.skip_to:
            lines.skip_until(schema.skip_to)
        attributes = lines.take_attributes() if schema.attribute_lines else ()
        marks = tuple(value for key, value in attributes if key.lower() == _NODATA)
        schema = _changed(schema, missing=(*schema.missing, *(each for each in marks if each not in schema.missing)))
        names: tuple[str, ...] = ()
        units: list[str] = []
        if schema.header:
            lines.skip_comments()
            names = tuple(cell.strip() for cell in lines.take_header())
        for number in range(schema.skip_after_header):
            line = lines.take("the lines after the header")
            units = split_line(line, schema) if schema.units and not number else units
        data_offset, data_line = lines.offset, lines.number
        lines.skip_comments()
        first_line = lines.number
        first_row = None if lines.is_at_end_of_table() else lines.peek_row()
    fitted = _fit(name, schema, names, first_row, first_line)
    if schema.units:
        places = ((each, units[place].strip() if place < len(units) else "") for each, place in fitted.places())
        attributes += tuple((f"{each.name}.units", unit) for each, unit in places if unit)
    return Table(name, fitted, compression, names, data_offset, data_line, size_bytes, attributes)


def _without_columns(schema: Schema) -> Schema:
    """Fitted to a file that has neither columns nor rows."""
    return replace(schema, fields=tuple(replace(each, source=None) for each in schema.fields))


def _fit(name: str, schema: Schema, names: tuple[str, ...], first_row: FirstRow | None, line: int) -> Schema:
    columns = [_column(name, each, names) for each in schema.fields]
    fields = tuple(
        each if each.source == column else replace(each, source=column)
        for each, column in zip(schema.fields, columns, strict=True)
    )
    fitted = _changed(schema, fields=fields)
    cells = None if first_row is None else first_row.cells
    if cells is not None and first_row is not None and first_row.lines > 1:
        is_wrong = cells != len(names) if names else cells < fitted.row_width
        cells = None if is_wrong else cells  # a stray quote has joined lines to it
    if any(each.takes_all for each in fitted.fields):
        count = cells or len(names)
        fitted = replace(fitted, fields=tuple(_taking(each, count) for each in fitted.fields))
    if fitted.width is not None or fitted.widths or not fitted.fields:
        width = fitted.width or len(fitted.widths) or len(names) or cells or 0
    elif fitted.short == "missing" or fitted.extra != "error":
        width = fitted.row_width
    elif names and cells is not None and len(names) != cells:
        raise IngestError(
            f"{name}: the header names {len(names)} columns and the first row (line {line}) has {cells} cells; "
            "skip the header as a plain line, or give the width",
            path=name,
            line=line,
        )
    else:
        width = len(names) or cells or fitted.row_width
    reach = fitted.fields_reach
    if reach > width:
        raise IngestError(
            f"{name}: the fields reach to column {reach - 1} (from 0) and the rows have {width} cells; "
            "check the delimiter and the columns",
            path=name,
            line=line,
        )
    if reach < width and all(each.source is None for each in fields) and schema.extra == "error" and fields:
        raise IngestError(
            f"{name}: {reach} fields for {width} columns; say which columns the fields are (numbers from 0)",
            path=name,
            line=line,
        )
    return _changed(fitted, width=width)


@lru_cache(maxsize=64)
def _changed(schema: Schema, **changes: Any) -> Schema:
    """The same schema for many files of one kind: to make one takes longer than to read the beginning of a file."""
    return replace(schema, **changes)


def _taking(field: Field, count: int) -> Field:
    """A field that takes all columns, for a file that has so many."""
    return replace(field, type=f"({max(count - (field.source or 0), 1)},){field.type[1:]}") if field.takes_all else field  # type: ignore[operator]


def _column(name: str, field: Field, names: tuple[str, ...]) -> int | None:
    if isinstance(field.source, int) or (field.source is None and not names):
        return field.source
    column = field.name if field.source is None else field.source
    if names.count(column) == 1:
        return names.index(column)
    if not names:
        found = "the schema says there is no header"
    elif column in names:
        found = "the header has several of that name; use their numbers"
    else:
        found = "the header has " + ", ".join(map(repr, names))
        found += "" if field.source else "; say which columns the fields are, by name or number (columns)"
    raise IngestError(f"{name}: field {field.name!r} is column {column!r}; {found}", path=name, field=field.name)
