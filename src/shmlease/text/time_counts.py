"""Time spans and counts of units since 1970, as exact counts of another unit."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shmlease.text.digits import read_numbers
from shmlease.text.text_buffer import Ints, TextBuffer

__all__ = ["BEYOND", "INEXACT", "NANOSECONDS", "NOT_A_TIME", "read_counts", "read_spans", "unit_of"]

NOT_A_TIME: Final = np.iinfo(np.int64).min
INEXACT: Final = "is no whole number of the unit of M8[{}]; use a finer one"
BEYOND: Final = "is beyond what M8[{}] holds; use a coarser unit"
NANOSECONDS: Final = {
    "W": 604_800 * 10**9,
    "D": 86_400 * 10**9,
    "h": 3_600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
}
_SPAN = re.compile(
    r"(?P<sign>[+-])?(?:(?P<d>\d+)\s*d(?:ays?)?,?\s*)?(?P<H>\d+):(?P<M>\d\d)(?::(?P<S>\d\d)(?:\.(?P<f>\d{1,18}))?)?"
)


def read_spans(text: TextBuffer, starts: Ints, ends: Ints, unit: str) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
    """The cells, counts of `unit` or ``[days d] hours:minutes:seconds``, as counts, and the reasons where there is none."""
    values, reasons = read_counts(text, starts, ends, unit, unit)
    for row in list(reasons):
        cell = text.cell(int(starts[row]), int(ends[row])).decode("latin-1").strip()
        match = _SPAN.fullmatch(cell)
        if match is None:
            continue
        part = {key: int(value or 0) for key, value in match.groupdict().items() if key not in ("sign", "f")}
        seconds = part["d"] * 86_400 + part["H"] * 3_600 + part["M"] * 60 + part["S"]
        whole = Decimal(seconds) + Decimal(f"0.{match['f'] or 0}")
        value, reason = _scaled(-whole if match["sign"] == "-" else whole, "s", unit, cell)
        values[row] = value
        if part["M"] > 59 or part["S"] > 59:
            reason = f"{cell!r} has more than 59 minutes or seconds"
        if reason:
            reasons[row] = reason
        else:
            del reasons[row]
    return values, reasons


def read_counts(
    text: TextBuffer, starts: Ints, ends: Ints, counted: str, unit: str
) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
    """The cells, numbers of the unit `counted`, as counts of `unit`, and the reasons where there is none."""
    numbers = read_numbers(text, starts, ends, decimal=False)
    whole = numbers.values.astype(np.int64)
    whole[numbers.minus] *= -1
    up, down = NANOSECONDS[counted] // NANOSECONDS[unit], NANOSECONDS[unit] // NANOSECONDS[counted]
    if up:
        odd = np.abs(whole) > np.iinfo(np.int64).max // up
        values = np.where(odd, 0, whole) * up
    else:
        values, rest = np.divmod(whole, down)
        odd = rest != 0
    odd[numbers.odd] = True
    reasons: dict[int, str] = {}
    for row in np.flatnonzero(odd).tolist():
        cell = text.cell(int(starts[row]), int(ends[row])).decode("latin-1").strip()
        try:
            number = Decimal(cell if "_" not in cell else "x")
            number = number if number.is_finite() else Decimal("x")
        except InvalidOperation:
            values[row] = NOT_A_TIME
            if cell.lower() != "nat":
                reasons[row] = f"{cell!r} is not a number of {counted}"
            continue
        values[row], reason = _scaled(number, counted, unit, cell)
        if reason:
            reasons[row] = reason
    return values, reasons


def _scaled(number: Decimal, counted: str, unit: str, cell: str) -> tuple[int, str]:
    """A number of one unit in another, or why there is none."""
    if abs(number.adjusted()) > 40:
        return NOT_A_TIME, f"{cell!r} is beyond what a time can be"
    numerator, denominator = number.as_integer_ratio()
    value, rest = divmod(numerator * NANOSECONDS[counted], denominator * NANOSECONDS[unit])
    if rest:
        return NOT_A_TIME, f"{cell!r} {INEXACT.format(unit)}"
    if abs(value) > np.iinfo(np.int64).max:
        return NOT_A_TIME, f"{cell!r} {BEYOND.format(unit)}"
    return value, ""


def unit_of(dtype: np.dtype[Any]) -> str:
    """The unit of a datetime64 or timedelta64 type; empty where it has none or a multiple of one."""
    unit, count = np.datetime_data(dtype)
    return unit if count == 1 and unit != "generic" else ""
