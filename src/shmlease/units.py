"""Bytes and durations, parsed and printed with the same words."""

from __future__ import annotations

import math
import re

__all__ = ["format_bytes", "format_count", "format_duration", "parse_bytes", "parse_duration"]

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_BYTE_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _BYTE_UNITS[_letter] = _BYTE_UNITS[f"{_letter}ib"] = 1024**_power
    _BYTE_UNITS[f"{_letter}b"] = 1000**_power
_SECOND_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "m": 60.0, "h": 3600.0}
# Deadlines are sums of nanoseconds in 63 bits; this leaves room for all of them.
_FOREVER_S = 30 * 365.25 * 86400
_MOST_BYTES = 2**63 - 1  # of an off_t
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*")


def _parse(text: str, units: dict[str, int] | dict[str, float], kind: str, example: str) -> float:
    match = _QUANTITY.fullmatch(text)
    unit = None if match is None else units.get(match[2].lower())
    if match is None or unit is None:
        raise ValueError(f"{text!r} is not a {kind}; write a number and a unit, such as {example}")
    return float(match[1]) * unit


def parse_bytes(size: int | str) -> int:
    """Bytes meant by `size`: a number, or words such as ``"2GiB"``, ``"64 MB"``, ``"512K"``.

    KiB, MiB, GiB, TiB, PiB and the bare letters are powers of 1024; kB, MB, GB, TB, PB powers of 1000.

    Raises
    ------
    ValueError
        The text is no size, or the size is negative, not a number, or larger than any memory.
    TypeError
        Neither a number nor words.
    """
    number = _parse(size, _BYTE_UNITS, "size", '"2GiB"') if isinstance(size, str) else size
    try:
        if not number >= 0:
            raise ValueError(f"a size of {size} bytes is negative or not a number")
        if number > _MOST_BYTES:
            raise ValueError(f"a size of {size} is larger than any memory")
    except TypeError:
        raise TypeError(f'a size is a number of bytes, or words such as "2GiB", not {size!r}') from None
    return math.floor(number)


def parse_duration(duration: float | str) -> float:
    """Seconds meant by `duration`: a number, or words such as ``"500ms"``, ``"1.5 s"``, ``"2min"``.

    Infinity and anything beyond 30 years count as 30 years.

    Raises
    ------
    ValueError
        The text is no duration, or the duration is negative or not a number.
    TypeError
        Neither a number nor words.
    """
    if isinstance(duration, str):
        return min(_parse(duration, _SECOND_UNITS, "duration", '"500ms"'), _FOREVER_S)
    try:
        if not duration >= 0:
            raise ValueError(f"a duration of {duration} s is negative or not a number")
    except TypeError:
        raise TypeError(f'a duration is a number of seconds, or words such as "500ms", not {duration!r}') from None
    return min(float(duration), _FOREVER_S)


def format_bytes(size_bytes: int) -> str:
    """`size_bytes` in the largest binary unit that keeps it at one or more: ``"1.5 MiB"``, ``"17 B"``."""
    power = min(max(size_bytes.bit_length() - 1, 0) // 10, len(_BINARY) - 1)
    value = size_bytes / 1024**power
    return f"{value:.4g} {_BINARY[power]}" if value < 1000 else f"{value:.0f} {_BINARY[power]}"


def format_count(number: int, one: str, many: str = "") -> str:
    """`number` with what is counted: ``"1 leak"``, ``"2,000 leaks"``; `many` where the plural is irregular."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def format_duration(seconds: float) -> str:
    """`seconds` with a unit that fits: ``"250 us"``, ``"12.5 ms"``, ``"3.2 s"``, ``"2 min 5 s"``."""
    if seconds >= 60:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        large, small = (f"{hours} h", f"{minutes} min") if hours else (f"{minutes} min", f"{rest} s")
        return large if small.startswith("0 ") else f"{large} {small}"
    if not seconds:
        return "0 s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.9995 * scale:  # what would be printed as 1000 of the next smaller unit is 1 of this
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
