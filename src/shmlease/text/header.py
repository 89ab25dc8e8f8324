"""What comes before the data of a file: byte order mark, prose, header, units; and the schema fitted to the file by it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import IO, Literal

from shmlease.errors import IngestError
from shmlease.text.records import Record, read_record, split_line
from shmlease.text.schema import Field, Schema
from shmlease.text.sources import PathLike, compression_of, open_source, state_of

__all__ = ["Table", "line_end_of", "open_table"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LOOK = 1 << 16  # bytes looked at to find out which line ends a file has
_LONGEST_LINE = 1 << 26
_ATTRIBUTE_LINE = re.compile(r"\s*([A-Za-z_]\w*)\s+(\S+)\s*")
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
    """

    path: str
    schema: Schema
    compression: str
    names: tuple[str, ...]
    data_offset: int
    data_line: int
    size_bytes: int
    attributes: tuple[tuple[str, str], ...] = ()


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
        schema = schema if stream.encoding is None else replace(schema, encoding=stream.encoding)
        lines = _Lines(name, stream, schema)
        schema = replace(schema, line_end=lines.line_end)
        if lines.are_blank(comments=not (schema.skip_lines or schema.skip_to)):
            return Table(name, _without_columns(schema), compression, (), lines.offset, 1, size_bytes)
        for _ in range(schema.skip_lines):
            lines.take("the lines to skip")
        if schema.skip_to:
            lines.skip_until(schema.skip_to)
        attributes = lines.take_attributes() if schema.attribute_lines else ()
        marks = tuple(value for key, value in attributes if key.lower() == _NODATA)
        schema = replace(schema, missing=(*schema.missing, *(each for each in marks if each not in schema.missing)))
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


def line_end_of(beginning: bytes) -> Literal["lf", "cr"]:
    """What ends the first line: LF (perhaps after a CR), or CR alone."""
    first = re.search(rb"\r\n?|\n", beginning)
    return "cr" if first and first[0] == b"\r" else "lf"


def _fit(name: str, schema: Schema, names: tuple[str, ...], first_row: _FirstRow | None, line: int) -> Schema:
    fields = tuple(replace(each, source=_column(name, each, names)) for each in schema.fields)
    fitted = replace(schema, fields=fields)
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
    return replace(fitted, width=width)


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


@dataclass(frozen=True, slots=True)
class _FirstRow:
    """How many lines and cells the first record has."""

    lines: int
    cells: int


class _Lines:
    """The first lines of a stream, with their place."""

    def __init__(self, name: str, stream: IO[bytes], schema: Schema) -> None:
        self._name, self._stream, self._schema = name, stream, schema
        self._buffer = stream.read(_LOOK)
        self.offset = len(_BYTE_ORDER_MARK) if self._buffer.startswith(_BYTE_ORDER_MARK) else 0
        self.number = 1
        self.line_end = line_end_of(self._buffer) if schema.line_end == "auto" else schema.line_end
        self._newline = b"\r" if self.line_end == "cr" else b"\n"

    def take(self, what: str) -> str:
        """The next line, without its end; `what` says what it is for, should there be none."""
        line = self.peek()
        if line is None:
            raise IngestError(
                f"{self._name}: the file ends at line {self.number}, before {what}; check the lines to skip and the header",
                path=self._name,
                line=self.number,
            )
        self._pass(self._next_line_end(self.offset))
        return line

    def peek(self) -> str | None:
        """The next line without taking it, or None at the end of the file."""
        return self._text(self._next_line_end(self.offset))

    def take_attributes(self) -> tuple[tuple[str, str], ...]:
        """The lines of a word and a number that come next."""
        found = []
        while (line := self.peek()) is not None and (match := _ATTRIBUTE_LINE.fullmatch(line)):
            found.append((match[1], match[2]))
            self.take("the data")
        return tuple(found)

    def is_at_end_of_table(self) -> bool:
        """Whether something else than the table comes next."""
        mark = self._schema.ends_at
        return bool(mark) and (self.peek() or "").startswith(mark)

    def take_header(self) -> list[str]:
        """The cells of the next record."""
        if self._is_quoted and self.peek() is not None:
            record = self._record()
            if record.fault:
                raise IngestError(f"{self._name}: line {self.number}, the header: {record.fault}", path=self._name)
            line = self._text(record.end)
            self._pass(record.end)
        else:
            line = self.take("the header")
        return split_line(line or "", self._schema)

    def peek_row(self) -> _FirstRow | None:
        """How many lines and cells the next record has; None at the end of the file, and where it is malformed."""
        line = self.peek()
        if line is None:
            return None
        if not self._is_quoted:
            return _FirstRow(1, len(split_line(line, self._schema)))
        record = self._record()
        lines = 1 + self._buffer.count(self._newline, self.offset, record.end)
        return None if record.fault else _FirstRow(lines, len(record.cells))

    def _pass(self, end: int) -> None:
        self.number += self._buffer.count(self._newline, self.offset, end) + 1
        self.offset = end + 1

    def _text(self, end: int) -> str | None:
        if self.offset >= len(self._buffer):
            return None
        raw = self._buffer[self.offset : end].removesuffix(b"\r")
        try:
            return raw.decode(self._schema.encoding)
        except UnicodeDecodeError as error:
            raise IngestError(
                f"{self._name}: line {self.number} is not {self._schema.encoding} (byte {raw[error.start]:#04x} at place "
                f"{error.start + 1}); name the file's encoding, for example latin-1",
                path=self._name,
                line=self.number,
            ) from error

    def are_blank(self, *, comments: bool) -> bool:
        """Whether there is nothing but line ends, and comments if those count, to the end of the file."""
        while not self._buffer[self.offset :].strip(b"\r\n"):
            if not self._read_on():
                return True
        if not comments or not self._buffer.startswith(tuple(each.encode() for each in self._schema.comments), self.offset):
            return False
        begin = self.offset, self.number
        self.skip_comments()
        at_end = self.peek() is None
        self.offset, self.number = begin
        return at_end

    def skip_until(self, beginning: str) -> None:
        """Take lines until the next one begins with `beginning`."""
        while (line := self.peek()) is not None and not line.lstrip().startswith(beginning):
            self.take("the header")
        if line is None:
            raise IngestError(f"{self._name}: no line begins with {beginning!r}", path=self._name)

    def skip_comments(self) -> None:
        """Take blank lines and comments."""
        while (line := self.peek()) is not None and (not line.strip() or line.startswith(self._schema.comments)):
            if self.is_at_end_of_table():
                return
            self.take("the data")

    @property
    def _is_quoted(self) -> bool:
        return bool(self._schema.quote)

    def _record(self) -> Record:
        """The next record, reading on as far as that needs."""
        is_whole = False
        while True:
            data = self._buffer.replace(b"\r", b"\n") if self.line_end == "cr" else self._buffer
            record = read_record(data, self.offset, self._schema, is_whole=is_whole)
            if record.is_complete:
                return record
            is_whole = not self._read_on()

    def _next_line_end(self, searched: int) -> int:
        while (end := self._buffer.find(self._newline, searched)) < 0:
            searched = len(self._buffer)
            if not self._read_on():
                return len(self._buffer)
        return end

    def _read_on(self) -> bool:
        """Read more of the file, twice as much each time; whether there was more."""
        more = self._stream.read(max(_LOOK, len(self._buffer)))
        self._buffer += more
        if len(self._buffer) - self.offset > _LONGEST_LINE:
            raise IngestError(
                f"{self._name}: line {self.number} is longer than {_LONGEST_LINE} bytes; is this a text table?",
                path=self._name,
                line=self.number,
            )
        return bool(more)
