"""What the cells of a column seem to be: the narrowest type that every one has, and the reason where that is not plain.

A type is proposed when all values that were seen have it, and the converter that will read the column reads them. Where two
readings are possible (1,234; 3/4/2020), none is taken: the column stays text, and the reason says what to declare.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shmlease.text.text_buffer import TextBuffer
from shmlease.text.times import has_time_form, read_times

__all__ = ["MARKS", "NumberStyle", "Proposal", "is_number", "propose", "style_of"]

MARKS: Final = ("", "NA", "N/A", "n/a", "NaN", "nan", "NaT", "null", "NULL", "None", "-", "--", "---", "?", ".")
_NUMERIC_MARKS = {"-9999", "-9900", "-999", "-9999.0", "-999.0"}
_INTEGER = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d+)?|nan|inf|infinity)\s*", re.ASCII | re.IGNORECASE)
_PADDED = re.compile(r"\s*[+-]?0\d+(?:\.\d*)?\s*", re.ASCII)
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
_COMMA = re.compile(r"[+-]?(?:\d{1,3}(?:\.\d{3})+|\d*),\d+(?:[eE][+-]?\d+)?", re.ASCII)
_AMBIGUOUS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
_PERCENT = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*%\s*", re.ASCII)
_HEXADECIMAL = re.compile(r"\s*0[xX][0-9a-fA-F]{1,15}\s*")
_CLOCK = re.compile(r"\d\d:[0-5]\d:[0-5]\d(?:\.\d{1,9})?", re.ASCII)
_ISO = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,](\d+))?)?\s?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
_DATES = (
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%Y/%m/%d",
    "%d:%m:%Y",
    "%d %b %Y",
    "%d-%b-%Y",
    "%d-%b-%y",
)
_FORMATS = [date + time for date in _DATES for time in ("", " %H:%M", " %H:%M:%S")]
_BOOLEANS = ({"true", "false"}, {"t", "f"}, {"yes", "no"}, {"y", "n"})
_SEQUENCE_NAMES = {"chr", "chrom", "chromosome", "chrbase", "contig", "seqname", "scaffold"}
_SURE_F8 = 10**15  # integers up to 2**53 are float64 numbers, and the lines not seen may hold larger ones
_SURE_I4 = 10**9  # the lines not seen may hold larger numbers
_LONGEST_INTEGER = 40  # more digits than any type has, with blanks around them


@dataclass(frozen=True, slots=True)
class NumberStyle:
    """How numbers are written in a file."""

    decimal: str = "."
    thousands: str = ""

    def plain(self, cell: str) -> str:
        """A number of this style as Python writes it; anything else stays what it is, or becomes no number."""
        if self.thousands == "," and _GROUPED.fullmatch(cell.strip()):
            return cell.replace(",", "")
        if self.decimal == ",":
            if _COMMA.fullmatch(cell.strip()):
                return cell.replace(".", "").replace(",", ".")
            return cell.replace(".", "?")
        return cell


@dataclass(frozen=True, slots=True)
class Proposal:
    """The type of a column, how its cells are written, and the reason where that is not plain to see."""

    type: str
    why: str = ""
    format: str = ""


def is_number(cell: str) -> bool:
    """Whether a cell is a number, a missing one (nan) included."""
    return _NUMBER.fullmatch(cell) is not None


def style_of(columns: Sequence[Sequence[str]]) -> NumberStyle:
    """The style that all columns of numbers agree in; the plain one where nothing else is certain."""
    has_point = has_comma = has_groups = has_point_groups = False
    for cells in columns:
        values = [cell.strip() for cell in cells if cell.strip() not in MARKS]
        if any("." in cell and is_number(cell) for cell in values) and all(map(is_number, values)):
            has_point = True
        if not any("," in cell for cell in values):
            continue
        if not all(_INTEGER.fullmatch(cell) or _COMMA.fullmatch(cell) or _GROUPED.fullmatch(cell) for cell in values):
            continue
        has_groups |= any(_GROUPED.fullmatch(cell) and not _AMBIGUOUS.fullmatch(cell) and cell[0] != "0" for cell in values)
        has_comma |= any(_COMMA.fullmatch(cell) and not _AMBIGUOUS.fullmatch(cell) for cell in values)
        has_point_groups |= any("." in cell and _COMMA.fullmatch(cell) for cell in values)
    if has_comma and not has_groups and not has_point:
        return NumberStyle(",", "." if has_point_groups else "")
    return NumberStyle(".", ",") if has_groups and not has_comma else NumberStyle()


def propose(name: str, index: int, cells: Sequence[str], style: NumberStyle) -> Proposal:
    """The type of the column `name`, number `index` of its table."""
    values = [cell for cell in cells if cell.strip() not in MARKS]
    if not values:
        return Proposal("S", "since no value was seen")
    has_missing = len(values) < len(cells)
    for guess in _GUESSES:
        found = guess(values)
        if found is not None:
            is_masked = has_missing and found.type in ("?", "i8", "u8")
            return Proposal(found.type + "?" * is_masked, found.why, found.format)
    return _number(name, index, values, [style.plain(cell) for cell in values], has_missing=has_missing)


def _number(name: str, index: int, values: list[str], plain: list[str], *, has_missing: bool) -> Proposal:
    words = [value for value, cell in zip(values, plain, strict=True) if not is_number(cell)]
    if words:
        if all(_AMBIGUOUS.fullmatch(cell.strip()) or is_number(cell) for cell in values):
            return Proposal("S", f"since {words[0]!r} may have a decimal comma or not; say so (--decimal or --thousands)")
        few = len(words) < len(values) / 2
        return Proposal(
            "S", f"since {len(words)} of {len(values)} cells are not numbers, such as {words[0]!r}" if few else ""
        )
    if any(_PADDED.fullmatch(cell) for cell in plain):
        return Proposal("S", "since some numbers begin with 0, as codes do")
    for mark in sorted(_NUMERIC_MARKS.intersection(map(str.strip, values))):
        times = sum(cell.strip() == mark for cell in values)
        return Proposal("f8", f"where {mark} stands {times} times; if it means missing, say so (--missing {mark})")
    if not all(map(_INTEGER.fullmatch, plain)):
        return Proposal("f8")
    if max(map(len, plain)) > _LONGEST_INTEGER:
        return Proposal("S", "since some integers do not fit 64 bits")
    numbers = [int(cell) for cell in plain]
    largest, smallest = max(numbers), min(numbers)
    if name.lower() in _SEQUENCE_NAMES:
        return Proposal("S", "since chromosomes have names, also where they look like numbers")
    if index == 0 and _looks_like_chromosomes(numbers):
        return Proposal("S", "since it looks like chromosomes: few small numbers, each in one run; X may follow")
    size = max(largest, -smallest)
    if size < _SURE_F8 and has_missing:
        return Proposal("f8", "integers with missing values, exact up to 2**53")
    if size < _SURE_I4:
        return Proposal("i4")
    kind = "i8" if smallest >= -(2**63) and largest < 2**63 else "u8" if smallest >= 0 and largest < 2**64 else "S"
    if kind == "S":
        return Proposal("S", "since some integers do not fit 64 bits")
    return Proposal(f"{kind}?", "integers that no float holds, with missing values") if has_missing else Proposal(kind)


def _looks_like_chromosomes(numbers: list[int]) -> bool:
    runs = [number for number, _ in itertools.groupby(numbers)]
    return min(numbers) >= 1 and max(numbers) <= 50 and len(runs) == len(set(runs)) and len(numbers) >= 4 * len(runs)


def _boolean(values: list[str]) -> Proposal | None:
    seen = {cell.strip().lower() for cell in values}
    return Proposal("?") if seen in _BOOLEANS else None


def _iso_time(values: list[str]) -> Proposal | None:
    matches = [_ISO.fullmatch(cell.strip()) for cell in values]
    if not all(matches):
        return None
    digits = max(len(match[1] or "") for match in matches if match)
    has_time = any(len(match[0]) > len("2020-01-01") for match in matches if match)
    if digits > 9:
        return Proposal("S", "since its times have more digits than ns")
    if len({match[2] is None for match in matches if match}) > 1 and has_time:
        return Proposal("S", "since some of its times have an offset from UTC and others have none")
    unit = ("s" if has_time else "D") if not digits else ("ms", "us", "ns")[(digits - 1) // 3]
    return Proposal(f"M8[{unit}]") if _are_times(values, unit, "") else None


def _other_time(values: list[str]) -> Proposal | None:
    if not any(mark in values[0] for mark in "./-: ") or not any(letter.isdigit() for letter in values[0]):
        return None
    fitting = [each for each in _FORMATS if _are_times(values, "s" if "%H" in each else "D", each)]
    if not fitting:
        return None
    if len(fitting) > 1:
        return Proposal(
            "S", f"since day and month cannot be told apart: declare M8[D]({fitting[0]}) or M8[D]({fitting[1]})"
        )
    return Proposal(f"M8[{'s' if '%H' in fitting[0] else 'D'}]", "dates of this form", fitting[0])


def _are_times(values: list[str], unit: str, format: str) -> bool:
    if not has_time_form(values[0], format):  # most columns are none, which shows in the first cell
        return False
    data = np.frombuffer("".join(f"{cell}\n" for cell in values).encode("latin-1", "replace"), np.uint8)
    text = TextBuffer(len(data))
    text.fill(data, ord("\n"))
    ends = np.flatnonzero(data == ord("\n"))
    starts = np.concatenate(([0], ends[:-1] + 1))
    return len(ends) == len(values) and not read_times(text, starts, ends, unit, format)[1]


def _time_of_day(values: list[str]) -> Proposal | None:
    if not all(_CLOCK.fullmatch(cell.strip()) for cell in values):
        return None
    digits = max(len(cell.strip().partition(".")[2]) for cell in values)
    return Proposal(f"m8[{('s', 'ms', 'us', 'ns')[-(-digits // 3)]}]", "hours, minutes and seconds")


def _percentage(values: list[str]) -> Proposal | None:
    return Proposal("f8", "", "percent") if all(map(_PERCENT.fullmatch, values)) else None


def _hexadecimal(values: list[str]) -> Proposal | None:
    return Proposal("i8", "", "hex") if all(map(_HEXADECIMAL.fullmatch, values)) else None


_GUESSES: tuple[Callable[[list[str]], Proposal | None], ...] = (
    _boolean,
    _iso_time,
    _time_of_day,
    _other_time,
    _percentage,
    _hexadecimal,
)
