"""Cells to numbers, each as numpy.loadtxt reads it, and the reason where there is none.

Plain numbers are read as arrays. What is left of a column (marks after a number, exponents, nan, errors) is settled cell by
cell: integers by Python, everything else by numpy.loadtxt itself. Numbers with a decimal comma, thousands separators or
percent signs are rewritten before they are read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from shmlease.text.cell_errors import EMPTY, CellError
from shmlease.text.digits import read_numbers
from shmlease.text.field import Field
from shmlease.text.notations import rewrite_numbers
from shmlease.text.schema import Schema
from shmlease.text.text_buffer import Bools, Ints, TextBuffer

__all__ = ["NumberReader", "is_number"]

_INTEGER = re.compile(rb"\s*[+-]?\d+\s*")
_PADDED = re.compile(rb"\s*[+-]?0\d+(?:\.\d*)?\s*")
_HEX = re.compile(rb"\s*[+-]?(?:0[xX])?[0-9a-fA-F]+\s*")
_FORTRAN = re.compile(rb"(\d\.?)[dD]([+-]?\d+)")
_NUMBER = rb"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_KINDS = {"f": "a number", "c": "a complex number"}


def is_number(mark: str) -> bool:
    """Whether a mark for missing values could be a value as well."""
    return re.fullmatch(_NUMBER + rb"\s*", mark.encode()) is not None


class NumberReader:
    """How the cells of a field of numbers become values."""

    def __init__(self, field: Field, schema: Schema) -> None:
        self.field = field
        self.dtype: np.dtype[Any] = field.dtype.base
        self._encoding = schema.encoding
        self._kind = self.dtype.kind
        marks = schema.missing_of(field) if self._kind in "iuf" else set()
        self._missing_numbers = {Decimal(mark) for mark in marks if is_number(mark)}
        self._decimal, self._thousands = schema.decimal, schema.thousands
        self._is_rewritten = field.format != "hex" and (schema.decimal, schema.thousands, field.format) != (".", "", "")
        self._is_exact = schema.exact and self._kind in "iuf"
        after = f"({_NUMBER.decode()})({schema.after_number})" if schema.after_number else ""
        self._marked_number = re.compile(after.encode(schema.encoding)) if after else None

    def read(
        self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any], notes: Counter[str], missing: list[int]
    ) -> list[CellError]:
        """Write the numbers into `target`; give the cells that are none. Rows that are missing by value go to `missing`."""
        written = text, starts, ends
        if self._is_rewritten:
            text, starts, ends = self._rewritten(text, starts, ends)
        if self._kind == "c" or self.field.format == "hex":
            odd = np.arange(len(target))
        else:
            read_plain = self._read_floats if self._kind == "f" else self._read_integers
            odd = read_plain(text, starts, ends, target, missing)
        if self._is_exact:
            odd = np.union1d(odd, _padded(text, starts, ends))
        if not len(odd):
            return []
        faults = list(self._settle(text, starts, ends, target, odd, notes, missing))
        if not self._is_rewritten:
            return faults
        text, starts, ends = written
        cells = [(each, text.cell(starts[each.row], ends[each.row])) for each in faults]
        return [CellError(each.row, cell, self._not_written_so(cell, each.reason)) for each, cell in cells]

    def _rewritten(self, text: TextBuffer, starts: Ints, ends: Ints) -> tuple[TextBuffer, Ints, Ints]:
        percent = self.field.format == "percent"
        return rewrite_numbers(text, starts, ends, decimal=self._decimal, thousands=self._thousands, percent=percent)

    def _not_written_so(self, cell: bytes, reason: str) -> str:
        if "\\x01" not in reason and "\x01" not in reason:
            return reason
        so = [f"decimal {self._decimal}"] * (self._decimal != ".") + ["percent"] * bool(self.field.format)
        return (
            f"{cell.decode(self._encoding, 'replace')!r} is no number written as declared ({', '.join(so) or 'thousands'})"
        )

    def _read_integers(
        self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any], missing: list[int]
    ) -> Ints:
        numbers = read_numbers(text, starts, ends, decimal=False)
        values, odd = numbers.values, numbers.odd
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
        return self._without_missing(values, odd, missing)

    def _read_floats(
        self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any], missing: list[int]
    ) -> Ints:
        numbers = read_numbers(text, starts, ends, decimal=True)
        if len(numbers.minus):
            numbers.values[numbers.minus] *= -1
        with np.errstate(over="ignore"):  # what is too large for the type is inf, as loadtxt has it
            target[...] = numbers.values
        return self._without_missing(numbers.values, numbers.odd, missing)

    def _without_missing(self, values: npt.NDArray[Any], odd: Ints, missing: list[int]) -> Ints:
        """The odd rows; the others whose value means a missing one go to `missing`."""
        if not self._missing_numbers:
            return odd
        is_missing = np.zeros(len(values), np.bool_)
        for mark in self._missing_numbers:
            number = float(mark) if self._kind == "f" else int(mark) if mark == int(mark) else None
            if number is not None and (self._kind == "f" or _fits(number, values.dtype)):
                is_missing |= values == values.dtype.type(number)
        is_missing[odd] = False
        missing += np.flatnonzero(is_missing).tolist()
        return odd

    def _settle(
        self,
        text: TextBuffer,
        starts: Ints,
        ends: Ints,
        target: npt.NDArray[Any],
        odd: Ints,
        notes: Counter[str],
        missing: list[int],
    ) -> Iterator[CellError]:
        cells = [text.cell(start, end) for start, end in zip(starts[odd].tolist(), ends[odd].tolist(), strict=True)]
        if self._marked_number is not None:
            for index, cell in enumerate(cells):
                if match := self._marked_number.fullmatch(cell):
                    cells[index] = match[1]
                    notes[f"{match[2].decode(self._encoding)!r} after a number"] += 1
        if self._kind == "f":
            cells = [_FORTRAN.sub(rb"\1e\2", cell) for cell in cells]
        if self._kind in "fc" and all(map(bytes.strip, cells)) and not self._missing_numbers and not self._is_exact:
            try:
                target[odd] = _loadtxt(cells, self.dtype)
            except ValueError:
                pass  # one by one, to find out which
            else:
                return
        for row, cell in zip(odd.tolist(), cells, strict=True):
            if self._missing_numbers and self._is_missing(cell):
                missing.append(row)
                continue
            value = self._value(cell)
            if isinstance(value, _Reason):
                yield CellError(row, cell, str(value))
            else:
                target[row] = value

    def _is_missing(self, cell: bytes) -> bool:
        return re.fullmatch(_NUMBER + rb"\s*", cell) is not None and Decimal(cell.decode().strip()) in self._missing_numbers

    def _value(self, cell: bytes) -> Any:
        """The value of one cell, or the reason why it has none."""
        kind = self.dtype.kind
        shown = cell.decode(self._encoding, "replace").strip()
        if not shown:
            return _Reason(EMPTY)
        if self._is_exact and (reason := self._would_change(cell, shown)):
            return _Reason(reason)
        if self.field.format == "hex":
            if not _HEX.fullmatch(cell):
                return _Reason(f"{shown!r} is not a hexadecimal number")
            info = np.iinfo(self.dtype)
            value = int(cell, 16)
            return value if info.min <= value <= info.max else _Reason(f"{shown} is outside {self.dtype}")
        if kind in "iu":
            if not _INTEGER.fullmatch(cell):
                more = ", a decimal number; read it as f8" if re.fullmatch(_NUMBER, cell.strip()) else ""
                return _Reason(f"{shown!r} is not an integer{more}")
            info = np.iinfo(self.dtype)
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

    def _would_change(self, cell: bytes, shown: str) -> str:
        """Why a number would not come out as it is written, if so."""
        if _PADDED.fullmatch(cell):
            return f"{shown!r} would lose its leading 0; declare {self.field.name}:S{len(cell)}"
        if self._kind == "f" and _INTEGER.fullmatch(cell) and int(float(cell)) != int(cell):
            return f"{shown} would become {int(float(cell))}; declare {self.field.name}:i8? (or u8?)"
        return ""


def _padded(text: TextBuffer, starts: Ints, ends: Ints) -> Ints:
    """The cells that may be numbers with a leading zero, 0123 or -01."""
    first, second = text.byte(starts), text.byte(starts, ahead=1)
    is_digit = (second - np.uint8(ord("0"))) <= 9
    is_odd = (first == ord(" ")) | (first == ord("-")) | (first == ord("+"))
    return np.flatnonzero(((first == ord("0")) & is_digit & (ends - starts > 1)) | is_odd)


def _fits(number: Any, dtype: np.dtype[Any]) -> bool:
    info = np.iinfo(dtype)
    return bool(info.min <= number <= info.max)


class _Reason(str):
    """Why a cell has no value."""

    __slots__ = ()


def _loadtxt(cells: list[bytes], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        values = np.loadtxt(
            [cell.strip().decode("latin-1") for cell in cells], dtype=dtype, delimiter="\x1f", comments=None, ndmin=1
        )
    return values.reshape(len(cells))  # loadtxt passes over blank lines, and one value would be broadcast to all rows
