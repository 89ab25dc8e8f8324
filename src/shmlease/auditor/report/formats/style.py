"""How a report for people may look."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Style"]


@dataclass(frozen=True, slots=True)
class Style:
    """`verbose` shows all evidence, unused suppressions and gaps that blind nobody."""

    colour: bool = False
    width_columns: int = 100
    verbose: bool = False
