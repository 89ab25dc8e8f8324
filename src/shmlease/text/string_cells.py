"""Cells to strings: bytes as they stand in the file, or letters, each with the length of its field at most."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from shmlease.errors import DTypeError
from shmlease.text.cell_errors import CellError
from shmlease.text.field import Field
from shmlease.text.schema import Schema
from shmlease.text.text_buffer import Ints, TextBuffer

__all__ = ["StringReader"]

_MASKS = np.array([(1 << 8 * length) - 1 for length in range(9)], np.uint64)
_NONE = np.empty(0, np.int64)


class StringReader:
    """How the cells of a string field become values.

    Raises
    ------
    DTypeError
        The field has no length.
    """

    def __init__(self, field: Field, schema: Schema) -> None:
        self.dtype: np.dtype[Any] = field.dtype.base
        self._encoding = schema.encoding
        if self.dtype.itemsize == 0:
            raise DTypeError(
                f"field {field.name!r} is a string without a length; fit the schema first (fit_strings), or write S10",
                field=field.name,
            )

    def read(
        self,
        text: TextBuffer,
        starts: Ints,
        ends: Ints,
        target: npt.NDArray[Any],
        _notes: Counter[str],
        _missing: list[int],
    ) -> list[CellError]:
        """Write the strings into `target`; give the cells that do not fit."""
        is_bytes = self.dtype.kind == "S"
        odd = (self._read_bytes if is_bytes else self._read_letters)(text, starts, ends, target)
        faults = []
        for row in odd.tolist():
            cell = text.cell(starts[row], ends[row])
            value = cell if is_bytes else cell.decode(self._encoding, "replace")  # what is not of it is reported of the row
            room = self.dtype.itemsize // (1 if is_bytes else 4)
            if len(value) <= room:
                target[row] = value
                continue
            kind, unit = self.dtype.kind, "bytes" if is_bytes else "characters"
            reason = f"{len(value)} {unit} do not fit {kind}{room}; {kind}{len(value)} would hold them"
            faults.append(CellError(row, cell, reason))
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


def _only_value(text: TextBuffer, starts: Ints, lengths: Ints, longest: int) -> bytes | None:
    """The value that all cells have, as chromosomes and dates do in sorted tables, or None; it costs half of
    reading them.
    """
    if not 0 < longest <= _WORTH_COMPARING or lengths.min() < longest:
        return None
    value = text.cell(int(starts[0]), int(starts[0]) + longest)
    return value if all((text.byte(starts, ahead=place) == byte).all() for place, byte in enumerate(value)) else None


_WORTH_COMPARING = 8  # bytes; longer cells are quicker read by words
