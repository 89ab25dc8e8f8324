"""Dates and times in cells, as exact counts of a unit since 1970: ISO 8601, format strings, counts.

A format is a regular expression with a group for each part (year, month, ...). A column is read at once where its cells
look like the first of their length: the same characters between the parts, and digits in them. The other cells are matched
one by one. What a unit cannot hold exactly is refused, never rounded.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from shmlease.text.text_buffer import Ints, TextBuffer
from shmlease.text.time_counts import BEYOND, INEXACT, NANOSECONDS, NOT_A_TIME, read_counts

__all__ = ["check_time_format", "has_time_form", "read_times"]

_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_MOST_LENGTHS = 8  # a column whose cells have more different lengths than this is read cell by cell
_ISO = (
    r"(?P<Y>\d{4})(?:-(?P<m>\d\d)(?:-(?P<d>\d\d)(?:[T ](?P<H>\d\d):(?P<M>\d\d)(?::(?P<S>\d\d)(?:[.,](?P<f>\d{1,18}))?)?"
    r"\s?(?P<z>Z|[+-]\d\d:?\d\d)?)?)?)?"
)
_DIRECTIVES = {
    "Y": r"(?P<Y>\d{4})",
    "y": r"(?P<y>\d\d)",
    "m": r"(?P<m>\d{1,2})",
    "b": r"(?P<b>[A-Za-z]{3})",
    "B": r"(?P<b>[A-Za-z]{3,9})",
    "d": r"(?P<d>\d{1,2})",
    "j": r"(?P<j>\d{1,3})",
    "H": r"(?P<H>\d{1,2})",
    "I": r"(?P<I>\d{1,2})",
    "p": r"(?P<p>[AaPp]\.?[Mm]\.?)",
    "M": r"(?P<M>\d{1,2})",
    "S": r"(?P<S>\d{1,2})",
    "f": r"(?P<f>\d{1,18})",
    "z": r"(?P<z>Z|[+-]\d\d:?\d\d)",
    "%": "%",
}

Parts: TypeAlias = Mapping[str, npt.NDArray[np.int64]]


def check_time_format(format: str, unit: str, *, is_span: bool) -> str:
    """What is wrong with a format or unit, if something is."""
    if unit not in NANOSECONDS and (is_span or unit not in ("Y", "M")):
        return f"unit {unit or 'none'} is not one of {', '.join(('Y', 'M', *NANOSECONDS))}; write one, such as M8[ms]"
    if is_span:
        return "a time span is a count of its unit or hours:minutes:seconds; it takes no format" if format else ""
    if _epoch_unit(format, unit) is not None:
        return ""
    if format and "%" not in format:
        return f"format {format!r} is neither a format such as %d.%m.%Y nor epoch, epoch s, epoch ms, epoch us, epoch ns"
    unknown = set(re.findall("%(.)", format)) - set(_DIRECTIVES)
    directives = re.findall("%([A-Za-z])", format)
    if unknown:
        return f"format {format!r}: %{min(unknown)} is not known; there are %{' %'.join(_DIRECTIVES)}"
    if len(set(directives)) < len(directives):
        return f"format {format!r} has a part twice"
    return "" if not format or {"Y", "y"} & set(directives) else f"format {format!r} has no year (%Y or %y)"


def has_time_form(cell: str, format: str = "") -> bool:
    """Whether a cell is written as the format says, or is NaT. Whether there is such a day, `read_times` tells."""
    return _pattern_of(format).fullmatch(cell.strip()) is not None or cell.strip().lower() == "nat"


def read_times(
    text: TextBuffer, starts: Ints, ends: Ints, unit: str, format: str = ""
) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
    """The cells as counts of `unit` since 1970-01-01T00:00:00, and the reason for each that has none, by number.

    Times with an offset from UTC are in UTC, others as they are written. The text is ASCII where it is a time.
    """
    counted = _epoch_unit(format, unit)
    if counted is not None:
        return read_counts(text, starts, ends, counted, unit)
    pattern = _pattern_of(format)
    parts = {key: np.zeros(len(starts), np.int64) for key in "YmdHMSfz"}
    parts["m"] += 1
    parts["d"] += 1
    left = _read_alike(text, starts, ends, pattern, parts)
    reasons: dict[int, str] = {}
    values = np.full(len(starts), NOT_A_TIME)
    nat = []
    for row in left.tolist():
        cell = text.cell(int(starts[row]), int(ends[row])).decode("latin-1").strip()
        match = pattern.fullmatch(cell)
        if match is None:
            if cell.lower() != "nat":
                reasons[row] = f"{cell!r} is not a date of the form {format or '2024-03-05T14:30:00'}"
            nat.append(row)
            continue
        for key, value in _parts_of(match).items():
            parts[key][row] = value
    counts, wrong = _encode(parts, unit)
    good = np.ones(len(starts), np.bool_)
    good[nat] = False
    good &= wrong == 0
    values[good] = counts[good]
    for row in np.flatnonzero(wrong).tolist():
        if row not in reasons and row not in nat:
            cell = text.cell(int(starts[row]), int(ends[row])).decode("latin-1")
            reasons[row] = f"{cell!r} {_WRONG[int(wrong[row])].format(unit)}"
    return values, reasons


def _epoch_unit(format: str, unit: str) -> str | None:
    """The unit of the counts since 1970 that a format stands for, if it does."""
    word, _, counted = format.partition(" ")
    counted = counted.strip() or unit
    return counted if word == "epoch" and counted in NANOSECONDS and unit in NANOSECONDS else None


@functools.cache
def _pattern_of(format: str) -> re.Pattern[str]:
    if not format:
        return re.compile(_ISO, re.ASCII)
    parts = re.split(r"%(.)", format)
    literals = [r"\s+".join(map(re.escape, re.split(r"\s+", literal))) for literal in parts[::2]]
    directives = [_DIRECTIVES[each] for each in parts[1::2]]
    return re.compile("".join(a + b for a, b in zip(literals, [*directives, ""], strict=True)), re.ASCII)


def _parts_of(match: re.Match[str]) -> dict[str, int]:
    """Year, month, ... offset in minutes, of a cell that matches; a fraction in 10**-18 s is cut by `_encode`."""
    found = {key: value for key, value in match.groupdict().items() if value is not None}
    parts = {key: int(found[key]) for key in "YmdHMS" if key in found}
    if "y" in found:
        parts["Y"] = int(found["y"]) + (2000 if int(found["y"]) < 69 else 1900)  # as POSIX has it
    if "b" in found:
        name = found["b"].lower()[:3]
        parts["m"] = _MONTH_NAMES.index(name) + 1 if name in _MONTH_NAMES else 0
    if "j" in found:
        first = np.datetime64(f"{parts['Y']:04}-01-01")
        date = (first + np.timedelta64(int(found["j"]) - 1, "D")).astype(object)
        same = date.year == parts["Y"] and int(found["j"]) > 0
        parts["m"], parts["d"] = (date.month, date.day) if same else (0, 0)
    if "I" in found:
        hour = int(found["I"])
        afternoon = found.get("p", "a").lower().startswith("p")
        parts["H"] = hour % 12 + 12 * afternoon if 1 <= hour <= 12 else 99
    if "f" in found:
        parts["f"] = int(found["f"].ljust(18, "0"))
    if found.get("z", "Z") != "Z":
        sign, digits = found["z"][0], found["z"][1:].replace(":", "")
        parts["z"] = (int(digits[:2]) * 60 + int(digits[2:])) * (-1 if sign == "-" else 1)
    return parts


def _read_alike(text: TextBuffer, starts: Ints, ends: Ints, pattern: re.Pattern[str], parts: Parts) -> Ints:
    """Read the cells that look like the first of their length; gives the others."""
    lengths = ends - starts
    kinds = np.unique(lengths)
    if len(kinds) > _MOST_LENGTHS or pattern.groupindex.keys() & set("ybjIp"):
        return np.arange(len(starts))
    left = []
    for length in kinds.tolist():
        rows = np.flatnonzero(lengths == length)
        first = text.cell(int(starts[rows[0]]), int(starts[rows[0]]) + length)
        match = pattern.fullmatch(first.decode("latin-1"))
        if match is None or not length:
            left.append(rows)
            continue
        letters = [text.byte(starts[rows], ahead=place) for place in range(length)]
        alike = np.ones(len(rows), np.bool_)
        spans = {key: match.span(key) for key in "YmdHMSf" if key in pattern.groupindex and match[key] is not None}
        literals = set(range(length))
        for key, (begin, stop) in spans.items():
            literals.difference_update(range(begin, stop))
            value = np.zeros(len(rows), np.int64)
            for letter in letters[begin:stop]:
                digit = letter - np.uint8(ord("0"))
                alike &= digit <= 9
                value *= 10
                value += digit
            parts[key][rows] = value * 10 ** (18 - (stop - begin)) if key == "f" else value
        for place in literals:
            alike &= letters[place] == first[place]
        parts["z"][rows] = _parts_of(match).get("z", 0)
        left.append(rows[~alike])
    others = np.sort(np.concatenate(left)) if left else np.empty(0, np.int64)
    for key, blank in (("f", 0), ("z", 0), ("H", 0), ("M", 0), ("S", 0), ("m", 1), ("d", 1)):
        parts[key][others] = blank
    return others


_NO_DATE, _NO_TIME, _INEXACT, _BEYOND = 1, 2, 3, 4
_WRONG = {
    _NO_DATE: "is no day of the calendar",
    _NO_TIME: "is no time of the day",
    _INEXACT: INEXACT,
    _BEYOND: BEYOND,
}


def _encode(parts: Parts, unit: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Counts of the unit, and a number of `_WRONG` for each that is none."""
    year, month, day = parts["Y"], parts["m"], parts["d"]
    is_leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    longest = _MONTH_DAYS.take(month, mode="clip") + (is_leap & (month == 2))
    wrong = np.where((month < 1) | (month > 12) | (day < 1) | (day > longest), _NO_DATE, 0)
    no_time = (parts["H"] > 23) | (parts["M"] > 59) | (parts["S"] > 59)
    wrong[(wrong == 0) & no_time] = _NO_TIME
    seconds = parts["H"] * 3600 + parts["M"] * 60 + parts["S"] - parts["z"] * 60
    if unit in ("Y", "M"):
        inexact = (day != 1) | (seconds != 0) | (parts["f"] != 0) | ((unit == "Y") & (month != 1))
        counts = year - 1970 if unit == "Y" else (year - 1970) * 12 + month - 1
        wrong[(wrong == 0) & inexact] = _INEXACT
        return counts, wrong
    before_march = month <= 2  # days since 1970 of the proleptic Gregorian calendar, counted from 1 March
    shifted = year - before_march
    day_of_year = (153 * (month + np.where(before_march, 9, -3)) + 2) // 5 + day - 1
    days = shifted * 365 + shifted // 4 - shifted // 100 + shifted // 400 + day_of_year - 719468
    seconds += days * 86_400
    size = NANOSECONDS[unit]
    nanoseconds, finer = np.divmod(parts["f"], 10**9)
    if size >= 10**9:
        counts, rest = np.divmod(seconds, size // 10**9)
        inexact = (rest != 0) | (parts["f"] != 0)
    else:
        fraction, rest = np.divmod(nanoseconds, size)
        inexact = (rest != 0) | (finer != 0)
        beyond = np.abs(seconds) >= np.iinfo(np.int64).max // (10**9 // size)
        wrong[(wrong == 0) & beyond] = _BEYOND
        counts = np.where(beyond, 0, seconds) * (10**9 // size) + fraction
    wrong[(wrong == 0) & inexact] = _INEXACT
    return counts, wrong
