"""Cells of one column to values of one field, each as numpy.loadtxt reads it, and the reason where it cannot be.

Plain numbers, strings and missing values are read as arrays. What is left of a column (marks after a number, exponents,
nan, errors) is settled cell by cell: integers by Python, everything else by numpy.loadtxt itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shmlease.errors import DTypeError
from shmlease.text.digits import read_numbers
from shmlease.text.schema import Field, Schema
from shmlease.text.text_buffer import Bools, Ints, TextBuffer

__all__ = ["CellError", "Converter", "is_number"]

_INTEGER = re.compile(rb"\s*[+-]?\d+\s*")
_NUMBER = rb"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_MASKS = np.array([(1 << 8 * length) - 1 for length in range(9)], np.uint64)
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class CellError:
    """A cell that has no value of its field's type: the row of the stretch, the cell, and why."""

    row: int
    cell: bytes
    reason: str


def is_number(mark: str) -> bool:
    """Whether a mark for missing values could be a value as well."""
    return re.fullmatch(_NUMBER, mark.encode()) is not None


class Converter:
    """How the cells of one field become values.

    Raises
    ------
    DTypeError
        The field is a string without a length, or its value for missing cells does not fit its type.
    """

    def __init__(self, field: Field, schema: Schema) -> None:
        self.field = field
        self.dtype: np.dtype[Any] = field.dtype.base
        if self.dtype.itemsize == 0:
            raise DTypeError(
                f"field {field.name!r} is a string without a length; fit the schema first (fit_strings), or write S10",
                field=field.name,
            )
        self._encoding = schema.encoding
        marks = {mark.encode(schema.encoding) for mark in schema.missing} if self.dtype.kind not in "SU" else set()
        if schema.short == "missing":
            marks.add(b"")
        self._missing_words = [mark for mark in marks if not re.fullmatch(_NUMBER, mark)]
        self._missing_numbers = sorted(marks.difference(self._missing_words))
        after = f"({_NUMBER.decode()})({schema.after_number})" if schema.after_number else ""
        self._marked_number = re.compile(after.encode(schema.encoding)) if after else None
        self._fill: Any = {"f": np.nan, "c": np.nan, "S": b"", "U": ""}.get(self.dtype.kind)
        if field.fill is not None:
            self._fill = self._value(field.fill.encode(schema.encoding))
            if isinstance(self._fill, _Reason):
                raise DTypeError(f"field {field.name!r}: its value for missing cells: {self._fill}", field=field.name)

    def read(
        self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any], notes: Counter[str]
    ) -> list[CellError]:
        """Write the values of the cells into `target`, which may be strided; give the cells that have no value."""
        match self.dtype.kind:
            case "S":
                odd = self._read_bytes(text, starts, ends, target)
            case "U":
                odd = self._read_letters(text, starts, ends, target)
            case "b" | "i" | "u":
                odd = self._read_integers(text, starts, ends, target)
            case "f":
                odd = self._read_floats(text, starts, ends, target)
            case _:
                odd = np.arange(len(target))
        faults: list[CellError] = []
        if self._missing_numbers or (self._missing_words and len(odd)):
            missing = self._find(self._missing_numbers, text, starts, ends) if self._missing_numbers else _NONE
            missing = np.union1d(missing, odd[self._find(self._missing_words, text, starts[odd], ends[odd])])
            odd = np.setdiff1d(odd, missing)
            if self._fill is not None:
                target[missing] = self._fill
                notes["missing values"] += len(missing) if self.dtype.kind not in "SU" else 0
            else:
                faults += [CellError(int(row), text.cell(starts[row], ends[row]), self._no_fill()) for row in missing]
        if len(odd):
            faults += self._settle(text, starts, ends, target, odd, notes)
        return faults

    def _read_bytes(self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any]) -> Ints:
        lengths = ends - starts
        longest = int(lengths.max(initial=0))
        size = target.dtype.itemsize
        if longest <= size and (only := _only_value(text, starts, lengths, longest)) is not None:
            target[...] = only
            return _NONE
        for offset in range(0, size, 8):
            word = np.zeros(1, np.uint64)
            if offset < longest:
                word = text.load8(starts + offset if offset else starts)
                left = lengths - offset if offset else lengths
                word &= _MASKS.take(left, mode="clip")
            for width in (8, 4, 2, 1):
                if min(size - offset, 8) & width:
                    np.copyto(target.getfield(f"<u{width}", offset), word, casting="unsafe")
                    if width < 8:
                        word >>= np.uint64(8 * width)
                        offset += width  # noqa: PLW2901 - the rest of this word follows
        return np.flatnonzero(lengths > size) if longest > size else _NONE

    def _read_letters(self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any]) -> Ints:
        narrow = np.zeros(len(target), f"S{self.dtype.itemsize // 4}")
        odd = self._read_bytes(text, starts, ends, narrow)
        if not text.is_ascii:
            beyond_ascii = (narrow.view(np.uint8).reshape(len(narrow), -1) >= 0x80).any(axis=1)
            narrow[beyond_ascii] = b""
            odd = np.union1d(odd, np.flatnonzero(beyond_ascii))
        target[...] = narrow
        return odd

    def _read_integers(self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any]) -> Ints:
        numbers = read_numbers(text, starts, ends, decimal=False)
        values, odd = numbers.values, numbers.odd
        if self.dtype.kind != "b":
            info = np.iinfo(self.dtype)
            beyond: Bools | None = None
            if len(numbers.minus):
                values = values.astype(np.int64)
                values[numbers.minus] *= -1
                beyond = values < info.min
                beyond[numbers.minus] |= self.dtype.kind == "u"
            highest = np.iinfo(values.dtype).max
            if info.max < highest and int(values.max(initial=0)) > info.max:
                above = values > info.max
                beyond = above if beyond is None else beyond | above
            if beyond is not None:
                odd = np.union1d(odd, np.flatnonzero(beyond))
        target[...] = values
        return odd

    def _read_floats(self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any]) -> Ints:
        numbers = read_numbers(text, starts, ends, decimal=True)
        if len(numbers.minus):
            numbers.values[numbers.minus] *= -1
        with np.errstate(over="ignore"):  # what is too large for the type is inf, as loadtxt has it
            target[...] = numbers.values
        return numbers.odd

    def _find(self, marks: list[bytes], text: TextBuffer, starts: Ints, ends: Ints) -> Ints:
        """Which of the cells are one of the marks."""
        found = np.zeros(len(starts), np.bool_)
        lengths = ends - starts
        for mark in marks:
            same = lengths == len(mark)
            for offset in range(0, len(mark), 8):
                part = mark[offset : offset + 8]
                word = text.load8(starts + offset) & _MASKS[len(part)]
                same &= word == np.uint64(int.from_bytes(part, "little"))
            found |= same
        return np.flatnonzero(found)

    def _settle(
        self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any], odd: Ints, notes: Counter[str]
    ) -> Iterator[CellError]:
        cells = [text.cell(start, end) for start, end in zip(starts[odd].tolist(), ends[odd].tolist(), strict=True)]
        if self._marked_number is not None:
            for index, cell in enumerate(cells):
                if match := self._marked_number.fullmatch(cell):
                    cells[index] = match[1]
                    notes[f"{match[2].decode(self._encoding)!r} after a number"] += 1
        if self.dtype.kind in "fcmM" and b"" not in cells:
            try:
                target[odd] = _loadtxt(cells, self.dtype)
            except ValueError:
                pass  # one by one, to find out which
            else:
                return
        for row, cell in zip(odd.tolist(), cells, strict=True):
            value = self._value(cell)
            if isinstance(value, _Reason):
                yield CellError(row, cell, str(value))
            else:
                target[row] = value

    def _value(self, cell: bytes) -> Any:
        """The value of one cell, or the reason why it has none."""
        kind = self.dtype.kind
        if kind == "S":
            needed = f"{len(cell)} bytes do not fit {self.dtype.str[1:]}; S{len(cell)} would hold them"
            return cell if len(cell) <= self.dtype.itemsize else _Reason(needed)
        if kind == "U":
            letters, room = cell.decode(self._encoding), self.dtype.itemsize // 4
            return (
                letters
                if len(letters) <= room
                else _Reason(f"{len(letters)} characters do not fit U{room}; U{len(letters)} would hold them")
            )
        shown = cell.decode(self._encoding, "replace").strip()
        if not shown:
            return _Reason("an empty cell; if that means a missing value, say so (missing)")
        if kind in "biu":
            if not _INTEGER.fullmatch(cell):
                more = ", a decimal number; read it as f8" if re.fullmatch(_NUMBER, cell.strip()) else ""
                return _Reason(f"{shown!r} is not an integer{more}")
            info = np.iinfo(self.dtype if kind != "b" else np.int64)
            value = int(cell)
            if kind == "u" and b"-" in cell:
                return _Reason(f"{shown} has a sign; {self.dtype} has none")
            if not info.min <= value <= info.max:
                return _Reason(f"{shown} is outside {self.dtype}, which goes from {info.min} to {info.max}")
            return value
        try:
            return _loadtxt([cell], self.dtype)[0]
        except ValueError:
            return _Reason(f"{shown!r} is not {_KINDS[kind]}")

    def _no_fill(self) -> str:
        return f"a missing value, and {self.dtype} has none; give one ({self.field}=-1), or read the field as a float"


def _only_value(text: TextBuffer, starts: Ints, lengths: Ints, longest: int) -> bytes | None:
    """The value that all cells have, as chromosomes and dates do in sorted tables, or None; it costs half of
    reading them.
    """
    if not 0 < longest <= _WORTH_COMPARING or lengths.min() < longest:
        return None
    value = text.cell(int(starts[0]), int(starts[0]) + longest)
    return value if all((text.byte(starts, ahead=place) == byte).all() for place, byte in enumerate(value)) else None


_WORTH_COMPARING = 8  # bytes; longer cells are quicker read by words
_KINDS = {"f": "a number", "c": "a complex number", "m": "a time span", "M": "a date"}


class _Reason(str):
    """Why a cell has no value."""

    __slots__ = ()


def _loadtxt(cells: list[bytes], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        return np.loadtxt([cell.decode("latin-1") for cell in cells], dtype=dtype, delimiter="\x1f", comments=None, ndmin=1)
