"""Cells of one column to values of one field, and the reason where there is none: a reader for each kind of field.

A reader knows how the values of its kind are written: numbers (`number_cells`), strings (`string_cells`), times, and words
for truth values and labels. What means a missing value, and what stands for it, is the same for all of them, and is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from shmlease.errors import DTypeError
from shmlease.text.cell_errors import EMPTY, CellError
from shmlease.text.field import Field
from shmlease.text.notations import FALSE, TRUE, find_words
from shmlease.text.number_cells import NumberReader, is_number
from shmlease.text.schema import Schema
from shmlease.text.string_cells import StringReader
from shmlease.text.text_buffer import Ints, TextBuffer
from shmlease.text.time_counts import NOT_A_TIME, read_spans, unit_of
from shmlease.text.times import read_times

__all__ = ["CellError", "Converter", "is_number"]


class _Reader(Protocol):
    def read(
        self, text: TextBuffer, starts: Ints, ends: Ints, target: npt.NDArray[Any], notes: Counter[str], missing: list[int]
    ) -> list[CellError]:
        """Write the values of the cells into `target`; give those without one. Rows that are missing go to `missing`."""


class _TimeReader:
    """Times and time spans, as counts of their unit."""

    def __init__(self, field: Field, _schema: Schema) -> None:
        self._format, self._kind, self._unit = field.format, field.declared.base.kind, unit_of(field.declared.base)

    def read(
        self,
        text: TextBuffer,
        starts: Ints,
        ends: Ints,
        target: npt.NDArray[Any],
        _notes: Counter[str],
        _missing: list[int],
    ) -> list[CellError]:
        if self._kind == "M":
            values, reasons = read_times(text, starts, ends, self._unit, self._format)
        else:
            values, reasons = read_spans(text, starts, ends, self._unit)
        target[...] = values
        return [CellError(row, text.cell(starts[row], ends[row]), reason) for row, reason in reasons.items()]


class _WordReader:
    """Truth values and labels, blanks around them aside."""

    def __init__(self, field: Field, schema: Schema) -> None:
        self._encoding = schema.encoding
        self._is_bool = not field.is_enum
        self._known = f"one of {', '.join(field.labels)}"
        self._words = [label.encode(schema.encoding) for label in field.labels]
        if self._is_bool:
            self._known, self._words = "true or false, T or F, yes or no, 1 or 0", [*TRUE, *FALSE]

    def read(
        self,
        text: TextBuffer,
        starts: Ints,
        ends: Ints,
        target: npt.NDArray[Any],
        _notes: Counter[str],
        _missing: list[int],
    ) -> list[CellError]:
        found = find_words(text, starts, ends, self._words, any_case=self._is_bool)
        faults = []
        for row in np.flatnonzero(found < 0).tolist():
            cell = text.cell(starts[row], ends[row])
            plain = cell.strip().lower() if self._is_bool else cell.strip()
            if plain in self._words:
                found[row] = self._words.index(plain)
                continue
            shown = cell.decode(self._encoding, "replace")
            faults.append(CellError(row, cell, f"{shown!r} is not {self._known}" if plain else EMPTY))
        target[...] = found < len(TRUE) if self._is_bool else found
        return faults


_READERS: dict[str, Callable[[Field, Schema], _Reader]] = {
    **dict.fromkeys("iufc", NumberReader),
    **dict.fromkeys("SU", StringReader),
    **dict.fromkeys("mM", _TimeReader),
    **dict.fromkeys("be", _WordReader),
}
_FILLS: dict[str, Any] = {"f": np.nan, "c": np.nan, "S": b"", "U": "", "M": NOT_A_TIME, "m": NOT_A_TIME}


_NONE = np.empty(0, np.int64)


class Converter:
    """How the cells of one field become values.

    Raises
    ------
    DTypeError
        The field is a string without a length, or its value for missing cells does not fit its type.
    """

    def __init__(self, field: Field, schema: Schema) -> None:
        self.field = field
        self._kind = "e" if field.is_enum else field.declared.base.kind
        self._reader = _READERS[self._kind](field, schema)
        marks = schema.missing_of(field) | ({""} if schema.short == "missing" else set())
        words = {mark for mark in marks if self._kind not in "iuf" or not is_number(mark)}
        self._missing_words = sorted(mark.encode(schema.encoding) for mark in words)
        self._fill = 0 if field.is_nullable else _FILLS.get(self._kind)
        if field.fill is not None:
            self._fill = self._value_of(field.fill.encode(schema.encoding))

    def _value_of(self, cell: bytes) -> Any:
        text = TextBuffer(len(cell) + 1)
        text.fill(np.frombuffer(cell + b"\n", np.uint8), ord("\n"))
        target = np.zeros(1, self.field.dtype.base)
        where = np.array([0]), np.array([len(cell)])
        missing: list[int] = []
        for fault in self._reader.read(text, *where, target, Counter(), missing):
            name = self.field.name
            raise DTypeError(f"field {name!r}: its value for missing cells: {fault.reason}", field=name)
        return target[0] if not missing else target.dtype.type(cell)

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
        if not len(starts):
            return []
        if mask is not None:
            mask[...] = False
        missing = _NONE
        if self._missing_words:
            missing = np.flatnonzero(find_words(text, starts, ends, self._missing_words, any_case=False) >= 0)
        by_value: list[int] = []
        if not len(missing):
            faults = self._reader.read(text, starts, ends, target, notes, by_value)
        else:
            rest = np.delete(np.arange(len(starts)), missing)
            values = np.zeros(len(rest), target.dtype)
            found = self._reader.read(text, starts[rest], ends[rest], values, notes, by_value) if len(rest) else []
            target[rest] = values
            faults = [msgspec.structs.replace(fault, row=int(rest[fault.row])) for fault in found]
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

    def _no_fill(self) -> str:
        name, kind = self.field.name, self.field.type
        return f"a missing value, and {kind} has none; declare {name}:{kind}? or {name}:{kind}=-1, or read it as a float"
