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

__all__ = ["Field", "Schema", "parse_dtype"]

# One byte per character for everything that delimits: the encodings in which a byte below 0x80 always means ASCII.
_ASCII_COMPATIBLE = {"utf-8", "ascii", "latin-1", "cp1252", "iso8859-1", "iso8859-15"}
_KINDS = "biufcSUmM"
_FIELD = re.compile(r"\s*([^:=]+?)\s*:\s*([^=]+?)\s*(?:=\s*(.*?)\s*)?")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the rows, and the column of the file that fills it.

    Parameters
    ----------
    name : str
        Name of the field in the rows.
    type : str
        A numpy type (``"i4"``, ``"f8"``, ``"S10"``); ``"S"`` without a length is to be fitted; ``"64u1"`` takes 64
        neighbouring columns into a subarray.
    source : int or str, optional
        The column: its index from 0, or its name in the header. By default, with a header, the column of the field's name;
        without one, the column at the field's own place.
    fill : str, optional
        What stands for a missing value, in the spelling of the file. By default NaN in floats and nothing (``b""``) in
        strings; a missing value in any other field is an error.
    """

    name: str
    type: str
    source: int | str | None = None
    fill: str | None = None

    def __post_init__(self) -> None:
        _ = self.dtype

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type, a subarray included."""
        try:
            dtype = np.dtype(self.type)
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
    def width(self) -> int:
        """How many neighbouring columns the field takes."""
        return int(self.dtype.shape[0]) if self.dtype.shape else 1

    @property
    def needs_fitting(self) -> bool:
        """True for a string type that has no length yet."""
        return self.dtype.base.itemsize == 0

    def __str__(self) -> str:
        return f"{self.name}:{self.type}" + ("" if self.fill is None else f"={self.fill}")


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
    comments : tuple of str
        A line that begins with one of these (blanks before it aside) is not data. Text after data is never a comment.
    quote : str
        The character around cells that hold delimiters or line ends, doubled in them to stand for itself; none by default.
        Only at the start of a cell it opens one, which ends at most 1 MiB further on; elsewhere it is a character.
    missing : tuple of str
        Cells that mean a missing value. They are compared with the whole cell; strings keep them as they are.
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
    comments: tuple[str, ...] = ()
    quote: str = ""
    missing: tuple[str, ...] = ()
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
        names = [each.name for each in self.fields]
        for name in names:
            if names.count(name) > 1:
                raise DTypeError(f"two fields are named {name!r}; every field needs a name of its own", field=name)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The packed structured type of the rows."""
        return np.dtype([(each.name, each.dtype) for each in self.fields])

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
            place += each.width

    @property
    def row_width(self) -> int:
        """How many cells a row has: `width`, or as many as the fields reach."""
        return self.width or max((place + each.width for each, place in self.places()), default=0)

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

    A field is ``name:type``, and ``name:type=fill`` when a missing value is to be filled.

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
    for part in dtype.split(","):
        match = _FIELD.fullmatch(part)
        if match is None:
            raise DTypeError(f"{part.strip()!r} in {dtype!r} is not name:type; write fields such as {_EXAMPLE}")
        fields.append(Field(match[1], match[2], fill=match[3]))
    return tuple(fields)


_EXAMPLE = '"chr:S10,pos:i4,pct:f4"'


def _type_name(dtype: np.dtype[Any]) -> str:
    base = dtype.base.str.lstrip("|<=") if dtype.base.isnative else dtype.base.str
    return f"{dtype.shape[0]}{base}" if len(dtype.shape) == 1 else base if not dtype.shape else str(dtype)
