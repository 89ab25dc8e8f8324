"""What a text table looks like and what becomes of it: the schema that every step of an ingest is given.

A schema is a value: frozen, hashable, picklable, and made of plain strings and numbers, so that msgspec and JSON carry it
as it is. Nothing here reads a file; `shmlease.text.header` fits a schema to one.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from shmlease.errors import DTypeError, IngestError
from shmlease.text.field import Field, parse_dtype

__all__ = ["Field", "Schema", "parse_dtype"]

# One byte per character for everything that delimits: the encodings in which a byte below 0x80 always means ASCII.
_ASCII_COMPATIBLE = {"utf-8", "ascii", "latin-1", "cp1252", "iso8859-1", "iso8859-15"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """How a text table is written, and the fields of the rows made from it.

    Parameters
    ----------
    fields : tuple of Field
        The fields of a row, in their order.
    delimiter : str or None
        One ASCII character between cells, or None for runs of blanks and tabs.
    skip_lines : int
        Lines before anything else that are not data, whatever they hold.
    skip_to : str
        Skip lines until one that begins with this text (blanks before it aside), which is the header line.
    header : bool
        The next line names the columns.
    skip_after_header : int
        Lines between the header and the data (units, column types).
    units : bool
        The first of these lines has the units of the columns; they become attributes ``FIELD.units`` of the dataset.
    attribute_lines : bool
        Lines of a word and a value before the data, such as ``cellsize 30``, become attributes of the dataset; cells with
        the value of ``NODATA_value`` are missing.
    widths : tuple of int
        How many bytes each cell takes, in a table of fixed width; blanks around a value are not part of it.
    matrix : bool
        The fields, one subarray, are a plain two-dimensional dataset.
    transpose : bool
        In that dataset the lines of the table are columns, and its columns are rows.
    ends_at : str
        The table ends before the first line that begins with this, whatever follows.
    comments : tuple of str
        A line that begins with one of these (blanks before it aside) is not data. Text after data is never a comment.
    quote : str
        The character around cells that hold delimiters or line ends, doubled in them to stand for itself; none by default.
        Only at the start of a cell it opens one, which ends at most 1 MiB further on; elsewhere it is a character.
    missing : tuple of str
        Cells that mean a missing value. They are compared with the whole cell, and numbers by their value: ``-9999`` is
        also ``-9999.0``. Strings keep them as they are. ``NAME=TEXT`` means it in that field only, strings included.
    decimal : str
        What stands between the whole and the fraction of a number: a point or a comma.
    thousands : str
        What may stand between groups of three digits of a number; by default nothing does.
    exact : bool
        Numbers that a field would change are malformed: ``01234`` in an integer or float, integers beyond 2**53 in a float.
    after_number : str
        Regular expression of what may follow a number in its cell (``[*#]``); it is cut off and counted.
    extra : {"error", "ignore", "join"}
        What becomes of cells past the expected number: a bad row, nothing but a count, or part of the last cell.
    short : {"error", "missing"}
        What becomes of a row with too few cells: a bad row, or one whose last cells are missing.
    encoding : str
        ``utf-8`` (with or without a byte order mark), ``latin-1``, or another that agrees with ASCII below 0x80. Fields
        of kind ``S`` keep the bytes of the file; fields of kind ``U`` are decoded.
    line_end : {"auto", "lf", "cr"}
        LF, also before it a CR; or CR alone. By default the first line of the file decides.
    width : int, optional
        How many cells a row has. By default the header, or else the first row, decides.
    """

    fields: tuple[Field, ...] = ()
    delimiter: str | None = "\t"
    skip_lines: int = 0
    skip_to: str = ""
    header: bool = False
    skip_after_header: int = 0
    units: bool = False
    attribute_lines: bool = False
    widths: tuple[int, ...] = ()
    matrix: bool = False
    transpose: bool = False
    ends_at: str = ""
    comments: tuple[str, ...] = ()
    quote: str = ""
    missing: tuple[str, ...] = ()
    decimal: str = "."
    thousands: str = ""
    exact: bool = False
    after_number: str = ""
    extra: Literal["error", "ignore", "join"] = "error"
    short: Literal["error", "missing"] = "error"
    encoding: str = "utf-8"
    line_end: Literal["auto", "lf", "cr"] = "auto"
    width: int | None = None

    def __post_init__(self) -> None:
        for name, text in (("delimiter", self.delimiter), ("quote", self.quote)):
            if text and (len(text) != 1 or not text.isascii() or text in "\r\n"):
                raise IngestError(f"{name} {text!r} is not one ASCII character; line ends are not allowed either")
        if self.delimiter == "":
            raise IngestError("an empty delimiter separates nothing; use None for runs of blanks")
        if min(self.widths, default=1) < 1:
            raise IngestError("widths are numbers of bytes, each at least 1")
        if self.widths and self.quote:
            raise IngestError("a table of fixed width has no quotes")
        if self.units and not (self.header and self.skip_after_header):
            raise IngestError("units stand in a line after the header: give header and skip_after_header as well")
        if self.matrix and not (len(self.fields) == 1 and (self.fields[0].dtype.shape or self.fields[0].takes_all)):
            raise DTypeError("a matrix has one field that takes several columns, such as values:64f4")
        if self.transpose and not self.matrix:
            raise IngestError("only a matrix is transposed; give its type as well (--matrix f4, matrix=)")
        if self.decimal not in (".", ","):
            raise IngestError(f"decimal {self.decimal!r} is neither a point nor a comma")
        is_taken = self.thousands == self.decimal or (self.thousands == self.delimiter and not self.quote)
        if len(self.thousands) > 1 or is_taken or not self.thousands.isascii():
            raise IngestError(
                f"thousands {self.thousands!r} is not one ASCII character, or it is also the decimal sign or the delimiter"
            )
        if self.decimal == self.delimiter == "," and not self.quote:
            raise IngestError(
                f"{self.decimal!r} cannot be the delimiter and the decimal sign, unless numbers are quoted (quote)"
            )
        if self.quote and self.delimiter is None:
            raise IngestError("quotes need a delimiter of one character; between runs of blanks they are characters")
        if self.quote and self.quote == self.delimiter:
            raise IngestError(f"{self.quote!r} cannot be both the delimiter and the quote")
        try:
            known = codecs.lookup(self.encoding).name in _ASCII_COMPATIBLE | {"iso8859-1"}
        except LookupError:
            known = False
        if not known:
            raise IngestError(
                f"encoding {self.encoding!r} cannot be read; convert the file, or use one of "
                + ", ".join(sorted(_ASCII_COMPATIBLE))
            )
        if self.variable and codecs.lookup(self.encoding).name not in ("utf-8", "ascii"):
            raise IngestError(
                f"strings of variable length are UTF-8, and the encoding is {self.encoding}; convert the file, or use S",
                field=self.variable[0],
            )
        try:
            re.compile(self.after_number)
        except re.error as error:
            raise IngestError(f"after_number {self.after_number!r} is not a regular expression: {error}") from None
        self._require_encodable()
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise DTypeError(f"two fields are named {name!r}; every field needs a name of its own", field=name)

    def _require_encodable(self) -> None:
        """Raise unless what is looked for in a file can be written in its encoding."""
        labels = (label for each in self.fields for label in each.labels)
        fills = (each.fill for each in self.fields if each.fill is not None)
        for text in (*self.missing, *self.comments, self.skip_to, self.ends_at, self.after_number, *labels, *fills):
            try:
                text.encode(self.encoding)
            except UnicodeEncodeError:
                raise IngestError(
                    f"{text!r} cannot be written in {self.encoding}, so no file of that encoding has it; "
                    "leave it out, or name another encoding"
                ) from None

    @property
    def names(self) -> list[str]:
        """Of the fields of the rows, those that say where a value is missing included."""
        return _names(self.fields)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The packed structured type of the rows."""
        return _row_type(self.fields)

    @property
    def attributes(self) -> dict[str, str]:
        """What a reader of the rows needs beside their type."""
        return {key: value for each in self.fields for key, value in each.attributes.items()}

    def missing_of(self, field: Field) -> set[str]:
        """The cells that mean a missing value in a field."""
        marks = set()
        names = [each.name for each in self.fields]
        for mark in self.missing:
            name, equals, text = mark.partition("=")
            if equals and name in names:
                marks |= {text} if name == field.name else set()
            elif field.declared.base.kind not in "SU" or field.is_enum:
                marks.add(mark)
        return marks

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The labels of enumerations, by field."""
        return {each.name: each.labels for each in self.fields if each.is_enum}

    @property
    def variable(self) -> tuple[str, ...]:
        """Fields whose strings have variable length in the file."""
        return tuple(each.name for each in self.fields if each.is_variable)

    @property
    def needs_fitting(self) -> bool:
        """True while a string field has no length; `shmlease.text.fit_strings` finds it."""
        return any(each.needs_fitting for each in self.fields)

    @property
    def newline(self) -> int:
        """The byte that ends a line."""
        return 13 if self.line_end == "cr" else 10

    def places(self) -> Iterator[tuple[Field, int]]:
        """Each field with the number of its (first) column.

        Raises
        ------
        IngestError
            A field names its column; only the header of a file can tell which one that is.
        """
        place = 0
        for each in self.fields:
            if isinstance(each.source, str):
                raise IngestError(
                    f"field {each.name!r} is column {each.source!r} of a header; fit the schema to a file first "
                    "(fit_schema)"
                )
            place = place if each.source is None else each.source
            yield each, place
            place += each.reach

    @property
    def row_width(self) -> int:
        """How many cells a row has: `width`, or as many as the fields reach."""
        return self.width or len(self.widths) or self.fields_reach

    @property
    def fields_reach(self) -> int:
        """How many cells a row must have for its fields."""
        return _reach(self)

    def columns(self) -> Iterator[tuple[Field, int, int]]:
        """Each field with the place of a value in it and the number of its column; a subarray has several."""
        for each, place in self.places():
            for index in range(each.width):
                yield each, index, place + index * each.step

    def with_dtype(
        self,
        dtype: str | np.dtype[Any] | Iterable[Field],
        columns: Sequence[int | str] | None = None,
    ) -> Schema:
        """This schema with other fields: from ``"chr:S10,pos:i4"``, a structured numpy dtype, or fields.

        Parameters
        ----------
        dtype : str or numpy.dtype or iterable of Field
            The fields.
        columns : sequence of int or str, optional
            The column of each field: indices from 0 or names in the header.

        Raises
        ------
        DTypeError
            The text or the dtype describes no fields that text can be read into.
        """
        fields = parse_dtype(dtype)
        if columns is not None:
            if len(columns) != len(fields):
                raise DTypeError(
                    f"{len(columns)} columns are named for {len(fields)} fields ({', '.join(map(str, fields))}); "
                    "name one column for each field"
                )
            fields = tuple(replace(each, source=column) for each, column in zip(fields, columns, strict=True))
        return replace(self, fields=fields)


def _names(fields: tuple[Field, ...]) -> list[str]:
    return [name for each in fields for name in (each.name, each.mask_name)[: 1 + each.is_nullable]]


@lru_cache(maxsize=256)
def _reach(schema: Schema) -> int:
    return max((place + each.reach for each, place in schema.places()), default=0)


@lru_cache(maxsize=256)
def _row_type(fields: tuple[Field, ...]) -> np.dtype[Any]:
    types: dict[str, Any] = {each.name: each.dtype for each in fields}
    return np.dtype([(name, types.get(name, np.dtype(np.bool_))) for name in _names(fields)])
