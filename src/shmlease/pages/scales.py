"""Round numbers for the ticks of an axis: decimal, of bytes, or of time."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["round_bytes", "round_decimal", "round_seconds"]

# Above a second, people count in halves and quarters of minutes and hours.
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_SECONDS: Final = (
    *(1, 2, 5, 10, 15, 30),
    *(_MINUTE * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * hours for hours in (1, 2, 6, 12)),
    *(_DAY * days for days in (1, 7, 30)),
)


def round_decimal(rough: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def round_bytes(rough: float) -> float:
    """The smallest power of two that is not below `rough`, and at least a byte."""
    return 2.0 ** max(math.ceil(math.log2(rough)), 0)


def round_seconds(rough: float) -> float:
    """The smallest duration that people count in and that is not below `rough`."""
    if rough <= _SECONDS[0]:
        return round_decimal(rough)
    return next((step for step in _SECONDS if step >= rough), round_decimal(rough))
