"""Cells of one column to values of one field, each as numpy.loadtxt reads it, and the reason where it cannot be.

Plain numbers, strings and missing values are read as arrays. What is left of a column (marks after a number, exponents,
nan, errors) is settled cell by cell: integers by Python, everything else by numpy.loadtxt itself. Times, truth values and
labels have readers of their own (`times`, `notations`); numbers with a decimal comma, thousands separators or percent signs
are rewritten before they are read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from shmlease.errors import DTypeError
from shmlease.text.digits import read_numbers
from shmlease.text.notations import FALSE, TRUE, find_words, rewrite_numbers
from shmlease.text.schema import Field, Schema
from shmlease.text.text_buffer import Bools, Ints, TextBuffer
from shmlease.text.times import NOT_A_TIME, read_spans, read_times, unit_of

__all__ = ["CellError", "Converter", "is_number"]

_INTEGER = re.compile(rb"\s*[+-]?\d+\s*")
_PADDED = re.compile(rb"\s*[+-]?0\d+(?:\.\d*)?\s*")
_HEX = re.compile(rb"\s*[+-]?(?:0[xX])?[0-9a-fA-F]+\s*")
_FORTRAN = re.compile(rb"(\d\.?)[dD]([+-]?\d+)")
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
    return re.fullmatch(_NUMBER + rb"\s*", mark.encode()) is not None


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
        self._kind = "e" if field.is_enum else field.declared.base.kind
        self._unit = unit_of(field.declared.base) if self._kind in "mM" else ""
        self._labels = [label.encode(schema.encoding) for label in field.labels]
        marks = {mark.encode(schema.encoding) for mark in schema.missing_of(field)}
        if schema.short == "missing":
            marks.add(b"")
        self._missing_words = [
            mark for mark in marks if self._kind not in "iuf" or not is_number(mark.decode(schema.encoding))
        ]
        self._missing_numbers = {Decimal(mark.decode()) for mark in marks.difference(self._missing_words)}
        self._decimal, self._thousands = schema.decimal, schema.thousands
        self._is_rewritten = self._kind in "iufc" and (schema.decimal, schema.thousands, field.format) != (".", "", "")
        self._is_exact = schema.exact and self._kind in "iuf"
        after = f"({_NUMBER.decode()})({schema.after_number})" if schema.after_number else ""
        self._marked_number = re.compile(after.encode(schema.encoding)) if after else None
        self._fill: Any = {"f": np.nan, "c": np.nan, "S": b"", "U": "", "M": NOT_A_TIME, "m": NOT_A_TIME}.get(self._kind)
        if field.is_nullable:
            self._fill = 0
        if field.fill is not None:
            self._fill = self._fill_of(field.fill.encode(schema.encoding))

    def _fill_of(self, cell: bytes) -> Any:
        text = TextBuffer(len(cell) + 1)
        text.fill(np.frombuffer(cell + b"\n", np.uint8), ord("\n"))
        target = np.zeros(1, self.dtype)
        read, where = self._read, (np.array([0]), np.array([len(cell)]))
        for fault in read(text, *where, target, Counter()):
            raise DTypeError(
                f"field {self.field.name!r}: its value for missing cells: {fault.reason}", field=self.field.name
            )
        return target[0]

    def read(
        self,
        text: TextBuffer,
        starts: Ints,
        ends: Ints,
        target: npt.NDArray[Any],
        notes: Counter[str],
        mask: npt.NDArray[Any] | None = None,
    ) -> list[CellError]:
        """Write the values of the cells into `target`, which may be strided; give the cells that have no value.

        What is missing is set in `mask`, where there is one.
        """
        if mask is not None:
            mask[...] = False
        missing = self._find(self._missing_words, text, starts, ends) if self._missing_words else _NONE
        by_value: list[int] = []
        if not len(missing):
            faults = self._read(text, starts, ends, target, notes, by_value)
        else:
            rest = np.delete(np.arange(len(starts)), missing)
            values = np.zeros(len(rest), target.dtype)
            found = self._read(text, starts[rest], ends[rest], values, notes, by_value)
            target[rest] = values
            faults = [replace(fault, row=int(rest[fault.row])) for fault in found]
            by_value = [int(rest[row]) for row in by_value]
        if len(missing) or by_value:
            missing = np.union1d(missing, np.array(by_value, np.int64))
            if self._fill is None:
                faults += [CellError(int(row), text.cell(starts[row], ends[row]), self._no_fill()) for row in missing]
            else:
                target[missing] = self._fill
                notes["missing values"] += len(missing) if self._kind not in "SU" else 0
                if mask is not None:
                    mask[missing] = True
        return faults

    def _read(
        self,
        text: TextBuffer,
        starts: Ints,
        ends: Ints,
        target: npt.NDArray[Any],
        notes: Counter[str],
        by_value: list[int] | None = None,
    ) -> list[CellError]:
        """The same for cells that are no words for missing values; rows that are so by their value go to `by_value`."""
        written = text, starts, ends
        match self._kind:
            case "M" | "m":
                return self._read_times(text, starts, ends, target)
            case "b" | "e":
                return self._read_words(text, starts, ends, target)
            case "S":
                odd = self._read_bytes(text, starts, ends, target)
            case "U":
                odd = self._read_letters(text, starts, ends, target)
            case "i" | "u" | "f":
                if self.field.format == "hex":
                    odd = np.arange(len(target))
                else:
                    if self._is_rewritten:
                        text, starts, ends = self._rewritten(text, starts, ends)
                    read_plain = self._read_floats if self._kind == "f" else self._read_integers
                    odd = read_plain(text, starts, ends, target, by_value)
            case _:
                if self._is_rewritten:
                    text, starts, ends = self._rewritten(text, starts, ends)
                odd = np.arange(len(target))
        if self._is_exact:
            odd = np.union1d(odd, _padded(text, starts, ends))
        if not len(odd):
            return []
        faults = self._settle(text, starts, ends, target, odd, notes, by_value)
        if not self._is_rewritten:
            return list(faults)
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

    def _read_times(self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any]) -> list[CellError]:
        if self._kind == "M":
            values, reasons = read_times(text, starts, ends, self._unit, self.field.format)
        else:
            values, reasons = read_spans(text, starts, ends, self._unit)
        target[...] = values
        return [CellError(row, text.cell(starts[row], ends[row]), reason) for row, reason in reasons.items()]

    def _read_words(self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any]) -> list[CellError]:
        """Truth values and labels, blanks around them aside."""
        is_bool = self._kind == "b"
        words = (*TRUE, *FALSE) if is_bool else self._labels
        found = find_words(text, starts, ends, words, any_case=is_bool)
        faults = []
        for row in np.flatnonzero(found < 0).tolist():
            cell = text.cell(starts[row], ends[row])
            plain = cell.strip().lower() if is_bool else cell.strip()
            if plain in words:
                found[row] = words.index(plain)
                continue
            shown = cell.decode(self._encoding, "replace")
            known = "true or false, T or F, yes or no, 1 or 0" if is_bool else f"one of {', '.join(self.field.labels)}"
            faults.append(CellError(row, cell, f"{shown!r} is not {known}" if plain else _EMPTY))
        target[...] = found < len(TRUE) if is_bool else found
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

    def _read_integers(
        self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any], by_value: list[int] | None
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
        return self._without_missing(values, odd, by_value)

    def _read_floats(
        self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any], by_value: list[int] | None
    ) -> Ints:
        numbers = read_numbers(text, starts, ends, decimal=True)
        if len(numbers.minus):
            numbers.values[numbers.minus] *= -1
        with np.errstate(over="ignore"):  # what is too large for the type is inf, as loadtxt has it
            target[...] = numbers.values
        return self._without_missing(numbers.values, numbers.odd, by_value)

    def _without_missing(self, values: npt.NDArray[Any], odd: Ints, by_value: list[int] | None) -> Ints:
        """The odd rows; the others whose value means a missing one go to `by_value`."""
        if by_value is None or not self._missing_numbers:
            return odd
        is_missing = np.zeros(len(values), np.bool_)
        for mark in self._missing_numbers:
            number = float(mark) if self._kind == "f" else int(mark) if mark == int(mark) else None
            if number is not None and (self._kind == "f" or _fits(number, values.dtype)):
                is_missing |= values == values.dtype.type(number)
        is_missing[odd] = False
        by_value += np.flatnonzero(is_missing).tolist()
        return odd

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
        self,
        text: TextBuffer,
        starts: Ints,
        ends: Ints,
        target: npt.NDArray[Any],
        odd: Ints,
        notes: Counter[str],
        by_value: list[int] | None,
    ) -> Iterator[CellError]:
        cells = [text.cell(start, end) for start, end in zip(starts[odd].tolist(), ends[odd].tolist(), strict=True)]
        if self._marked_number is not None:
            for index, cell in enumerate(cells):
                if match := self._marked_number.fullmatch(cell):
                    cells[index] = match[1]
                    notes[f"{match[2].decode(self._encoding)!r} after a number"] += 1
        if self._kind == "f":
            cells = [_FORTRAN.sub(rb"\1e\2", cell) for cell in cells]
        if self._kind in "fc" and b"" not in cells and not self._missing_numbers and not self._is_exact:
            try:
                target[odd] = _loadtxt(cells, self.dtype)
            except ValueError:
                pass  # one by one, to find out which
            else:
                return
        for row, cell in zip(odd.tolist(), cells, strict=True):
            if by_value is not None and self._missing_numbers and self._is_missing(cell):
                by_value.append(row)
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
            return _Reason(_EMPTY)
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

    def _no_fill(self) -> str:
        name, kind = self.field.name, self.field.type
        return f"a missing value, and {kind} has none; declare {name}:{kind}? or {name}:{kind}=-1, or read it as a float"


def _only_value(text: TextBuffer, starts: Ints, lengths: Ints, longest: int) -> bytes | None:
    """The value that all cells have, as chromosomes and dates do in sorted tables, or None; it costs half of
    reading them.
    """
    if not 0 < longest <= _WORTH_COMPARING or lengths.min() < longest:
        return None
    value = text.cell(int(starts[0]), int(starts[0]) + longest)
    return value if all((text.byte(starts, ahead=place) == byte).all() for place, byte in enumerate(value)) else None


_WORTH_COMPARING = 8  # bytes; longer cells are quicker read by words
_KINDS = {"f": "a number", "c": "a complex number"}
_EMPTY = "an empty cell; if that means a missing value, say so (missing)"


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
        return np.loadtxt([cell.decode("latin-1") for cell in cells], dtype=dtype, delimiter="\x1f", comments=None, ndmin=1)
