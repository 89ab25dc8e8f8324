"""One field of the rows: its type, how its cells are written, and the column of the file that fills it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from shmlease.errors import DTypeError
from shmlease.text.notations import NUMBER_FORMATS
from shmlease.text.time_counts import unit_of
from shmlease.text.times import check_time_format

__all__ = ["MASK_SUFFIX", "Field", "parse_dtype"]

_KINDS = "biufcSUmM"
_FIELD = re.compile(r"\s*([^:=]+?)\s*:\s*([^=(]+?)\s*(?:\(\s*(.*?)\s*\)\s*(\??)\s*)?(?:=\s*(.*?)\s*)?")
_BETWEEN_FIELDS = re.compile(r",(?![^(]*\))")
_ENUM = "enum"
_VARIABLE = "vlen"
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
        attributes; ``"?"`` reads true and false, T and F, yes and no, 1 and 0. ``"enum"`` has its labels in `format`.
        ``"vlen"`` is a string that has variable length in the file. With a question mark behind it (``"i8?"``) a value may
        be missing: a field ``NAME_missing`` says where. ``"*f4"`` is a subarray of all columns from `source` on.
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
    def is_variable(self) -> bool:
        """Whether the strings have variable length in the file; ``vlen12`` has 12 bytes at most, as S12."""
        return self.type.startswith(_VARIABLE)

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
        return _declared(self)

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


@lru_cache(maxsize=1024)
def _declared(field: Field) -> np.dtype[Any]:
    """As `Field.declared`, which is asked for many times."""
    if field.is_enum:
        return np.dtype("i1" if len(field.labels) < _MOST_LABELS_I1 else "i2")
    if field.is_variable:
        length = field.type.removeprefix(_VARIABLE)
        if length.strip("0123456789"):
            raise DTypeError(f"field {field.name!r}: {field.type!r} is not vlen, or vlen and a length", field=field.name)
        return _numpy_type(f"S{length}")
    try:
        dtype = _numpy_type((field.type[:-1] if field.is_nullable else field.type).removeprefix("*"))
    except (TypeError, ValueError, SyntaxError):
        raise DTypeError(
            f"field {field.name!r}: {field.type!r} is not a numpy type; write one such as i4, f8, S10", field=field.name
        ) from None
    if dtype.base.kind not in _KINDS or dtype.ndim > 1:
        raise DTypeError(
            f"field {field.name!r}: text cannot be read into {field.type!r}; use integers, floats, strings (S10), "
            "dates (M8[D]), or one repeat count (64u1)",
            field=field.name,
        )
    return dtype


@lru_cache(maxsize=256)
def _numpy_type(text: str) -> np.dtype[Any]:
    """Numpy compiles the text, which takes longer than reading some cells."""
    return np.dtype(text)


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
