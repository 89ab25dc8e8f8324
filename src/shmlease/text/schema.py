"""What a text table looks like and what becomes of it: the schema that every step of an ingest is given.

A schema is a value: frozen, hashable, picklable, and made of plain strings and numbers, so that msgspec and JSON carry it
as it is. Nothing here reads a file; `shmlease.text.header` fits a schema to one.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from shmlease.errors import DTypeError, IngestError
from shmlease.text.notations import NUMBER_FORMATS
from shmlease.text.times import check_time_format, unit_of

__all__ = ["MASK_SUFFIX", "Field", "Schema", "parse_dtype"]

# One byte per character for everything that delimits: the encodings in which a byte below 0x80 always means ASCII.
_ASCII_COMPATIBLE = {"utf-8", "ascii", "latin-1", "cp1252", "iso8859-1", "iso8859-15"}
_KINDS = "biufcSUmM"
_FIELD = re.compile(r"\s*([^:=]+?)\s*:\s*([^=(]+?)\s*(?:\(\s*(.*?)\s*\)\s*(\??)\s*)?(?:=\s*(.*?)\s*)?")
_BETWEEN_FIELDS = re.compile(r",(?![^(]*\))")
_ENUM = "enum"
_MOST_LABELS, _MOST_LABELS_I1 = 1000, 128
_EPOCH = "1970-01-01T00:00:00"
MASK_SUFFIX = "_missing"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the rows, and the column of the file that fills it.

    Parameters
    ----------
    name : str
        Name of the field in the rows.
    type : str
        A numpy type (``"i4"``, ``"f8"``, ``"S10"``); ``"S"`` without a length is to be fitted; ``"64u1"`` takes 64
        neighbouring columns into a subarray. ``"M8[ms]"`` and ``"m8[s]"`` are stored as int64, with unit and epoch in
        attributes; ``"?"`` reads true and false, T and F, yes and no, 1 and 0. ``"enum"`` has its labels in `format`. With
        a question mark behind it (``"i8?"``) a value may be missing: a field ``NAME_missing`` says where. ``"*f4"`` is a
        subarray of all columns from `source` on.
    source : int or str, optional
        The column: its index from 0, or its name in the header. By default, with a header, the column of the field's name;
        without one, the column at the field's own place.
    fill : str, optional
        What stands for a missing value, in the spelling of the file. By default NaN in floats, nothing (``b""``) in
        strings, NaT in times, and 0 beside a ``NAME_missing``; a missing value in any other field is an error.
    format : str
        How the cells are written: ``%d.%m.%Y`` or ``epoch ms`` for times, ``percent`` for floats, ``hex`` for integers, and
        the labels of an enumeration, ``F|M``.
    step : int
        Of a subarray: how many columns lie from one of its columns to the next.
    """

    name: str
    type: str
    source: int | str | None = None
    fill: str | None = None
    format: str = ""
    step: int = 1

    def __post_init__(self) -> None:
        declared = self.declared
        kind = "e" if self.is_enum else declared.kind
        if kind in "mM" and (wrong := check_time_format(self.format, unit_of(declared.base), is_span=kind == "m")):
            raise DTypeError(f"field {self.name!r}: {wrong}", field=self.name)
        if self.format and kind not in "mMe" and self.format not in NUMBER_FORMATS.get(declared.base.kind, ()):
            known = ", ".join(NUMBER_FORMATS.get(declared.base.kind, ())) or "none"
            raise DTypeError(
                f"field {self.name!r}: {self.type} has no format {self.format!r}; it has {known}", field=self.name
            )
        if kind == "e" and not 0 < len(set(self.labels)) == len(self.labels) <= _MOST_LABELS:
            raise DTypeError(
                f"field {self.name!r}: write up to {_MOST_LABELS} different labels, such as enum(F|M)", field=self.name
            )
        if self.is_nullable and (declared.base.kind in "fcSUmM" or self.width > 1) and not self.is_enum:
            raise DTypeError(
                f"field {self.name!r}: {self.type}: missing values need no ? in floats, strings and times, and have "
                "none in subarrays",
                field=self.name,
            )

    @property
    def is_enum(self) -> bool:
        """Whether the values are places of labels."""
        return self.type.rstrip("?") == _ENUM

    @property
    def is_nullable(self) -> bool:
        """Whether another field says where values are missing."""
        return len(self.type) > 1 and self.type.endswith("?") and not self.type[:-1].isdigit()

    @property
    def labels(self) -> tuple[str, ...]:
        """Of an enumeration, in the order of their numbers from 0."""
        return tuple(label.strip() for label in self.format.split("|") if label.strip()) if self.is_enum else ()

    @property
    def mask_name(self) -> str:
        """The field that says where a value is missing."""
        return self.name + MASK_SUFFIX

    @property
    def is_plain(self) -> bool:
        """Whether `numpy.loadtxt` reads the cells so."""
        return not self.format and self.declared == self.dtype and self.declared.base.kind != "b"

    @property
    def declared(self) -> np.dtype[Any]:
        """The numpy type that was asked for, a subarray included."""
        if self.is_enum:
            return np.dtype("i1" if len(self.labels) < _MOST_LABELS_I1 else "i2")
        try:
            dtype = np.dtype((self.type[:-1] if self.is_nullable else self.type).removeprefix("*"))
        except (TypeError, ValueError, SyntaxError):
            raise DTypeError(
                f"field {self.name!r}: {self.type!r} is not a numpy type; write one such as i4, f8, S10", field=self.name
            ) from None
        if dtype.base.kind not in _KINDS or dtype.ndim > 1:
            raise DTypeError(
                f"field {self.name!r}: text cannot be read into {self.type!r}; use integers, floats, strings (S10), "
                "dates (M8[D]), or one repeat count (64u1)",
                field=self.name,
            )
        return dtype

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type in the rows, a subarray included: times are int64."""
        declared = self.declared
        return np.dtype((np.int64, declared.shape)) if declared.base.kind in "mM" else declared

    @property
    def width(self) -> int:
        """How many neighbouring columns the field takes."""
        return int(self.dtype.shape[0]) if self.dtype.shape else 1

    @property
    def reach(self) -> int:
        """How many columns lie from the first of them to the last."""
        return (self.width - 1) * self.step + 1

    @property
    def takes_all(self) -> bool:
        """Whether it is a subarray of all columns of a file, however many these are."""
        return self.type.startswith("*")

    @property
    def needs_fitting(self) -> bool:
        """True for a string type that has no length yet."""
        return self.dtype.base.itemsize == 0

    @property
    def attributes(self) -> dict[str, str]:
        """What a reader of the rows needs beside their type; attributes of the dataset, by name."""
        found = {}
        declared = self.declared.base
        if declared.kind in "mM":
            found["units"] = unit_of(declared)
        if declared.kind == "M":
            found["epoch"] = _EPOCH
        if self.format == "percent":
            found["units"] = "%"
        if self.is_nullable:
            found |= {"mask": self.mask_name, "fill": self.fill or "0"}
        elif self.fill is not None:
            found["fill"] = self.fill
        return {f"{self.name}.{key}": value for key, value in found.items()}

    def __str__(self) -> str:
        kind = self.type if not self.format else f"{self.type.rstrip('?')}({self.format}){'?' * self.is_nullable}"
        return f"{self.name}:{kind}" + ("" if self.fill is None else f"={self.fill}")


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
        try:
            re.compile(self.after_number)
        except re.error as error:
            raise IngestError(f"after_number {self.after_number!r} is not a regular expression: {error}") from None
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise DTypeError(f"two fields are named {name!r}; every field needs a name of its own", field=name)

    @property
    def names(self) -> list[str]:
        """Of the fields of the rows, those that say where a value is missing included."""
        return [name for each in self.fields for name in (each.name, each.mask_name)[: 1 + each.is_nullable]]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The packed structured type of the rows."""
        types: dict[str, Any] = {each.name: each.dtype for each in self.fields}
        return np.dtype([(name, types.get(name, np.dtype(np.bool_))) for name in self.names])

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
        return max((place + each.reach for each, place in self.places()), default=0)

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


def parse_dtype(dtype: str | np.dtype[Any] | Iterable[Field]) -> tuple[Field, ...]:
    """Fields from ``"chr:S10,pos:i4,af:i2=-1"``, a structured dtype, or fields.

    A field is ``name:type``, ``name:type(format)`` or ``name:type?``, and ``name:type=fill`` when a missing value is to be
    filled.

    Raises
    ------
    DTypeError
        What was given describes no fields; the message says which part.
    """
    if isinstance(dtype, np.dtype):
        if not dtype.names or not dtype.fields:
            raise DTypeError(f"dtype {dtype} has no named fields; give one such as {_EXAMPLE}")
        return tuple(Field(name, _type_name(dtype.fields[name][0])) for name in dtype.names)
    if not isinstance(dtype, str):
        return tuple(dtype)
    fields = []
    for part in _BETWEEN_FIELDS.split(dtype):
        match = _FIELD.fullmatch(part)
        if match is None:
            raise DTypeError(f"{part.strip()!r} in {dtype!r} is not name:type; write fields such as {_EXAMPLE}")
        fields.append(Field(match[1], match[2] + (match[4] or ""), fill=match[5], format=match[3] or ""))
    return tuple(fields)


_EXAMPLE = '"chr:S10,pos:i4,pct:f4"'


def _type_name(dtype: np.dtype[Any]) -> str:
    base = dtype.base.str.lstrip("|<=") if dtype.base.isnative else dtype.base.str
    return f"{dtype.shape[0]}{base}" if len(dtype.shape) == 1 else base if not dtype.shape else str(dtype)
