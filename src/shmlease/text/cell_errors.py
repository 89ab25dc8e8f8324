"""A cell without a value, and the words that several readers of cells have for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["EMPTY", "CellError"]

EMPTY: Final = "an empty cell; if that means a missing value, say so (missing)"


@dataclass(frozen=True, slots=True)
class CellError:
    """A cell that has no value of its field's type: the row of the stretch, the cell, and why."""

    row: int
    cell: bytes
    reason: str
