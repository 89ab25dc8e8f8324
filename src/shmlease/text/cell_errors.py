"""A cell without a value, and the words that several readers of cells have for it."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["EMPTY", "CellError"]

EMPTY: Final = "an empty cell; if that means a missing value, say so (missing)"


class CellError(msgspec.Struct, frozen=True):
    """A cell that has no value of its field's type: the row of the stretch, the cell, and why."""

    row: int
    cell: bytes
    reason: str
