"""The obvious reader: one character after another, one cell after another, by the rules of docs/ingest.md.

It knows nothing of blocks, arrays or C, and shares no code with the parsers. It gives for each line that is data its row,
or None where the line is malformed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from shmlease.text.schema import Field, Schema

__all__ = ["read"]

Row = tuple[Any, ...]
_BLANKS = " \t\r"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TRUE, _FALSE = (b"true", b"t", b"yes", b"y", b"1"), (b"false", b"f", b"no", b"n", b"0")
_NANOSECONDS = {"D": 86_400 * 10**9, "h": 3_600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_NOT_A_TIME = -(2**63)
_NUMBER = r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


class MalformedError(Exception):
    """There is no such value, or no such row."""


def read(data: bytes, schema: Schema) -> Iterator[Row | None]:
    """The rows of a text whose lines end as the schema says; None for each malformed line."""
    text = data.decode("latin-1")  # a character is a byte
    if schema.line_end == "cr":
        text = text.replace("\r", "\n")
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        line_end = len(text) if end < 0 else end
        line = text[at:line_end].removesuffix("\r")
        if is_passed_over(line, schema):
            at = line_end + 1
            continue
        try:
            cells, stop = cells_of(text, at, line_end, schema)
            if stop > line_end and is_wrong(len(cells), schema):
                raise MalformedError
        except MalformedError:
            yield None
            at = line_end + 1
            continue
        try:
            text[at:stop].encode("latin-1").decode(schema.encoding)
            yield row_of([cell.encode("latin-1") for cell in cells], schema)
        except (MalformedError, UnicodeDecodeError):
            yield None
        at = stop + 1


def is_passed_over(line: str, schema: Schema) -> bool:
    """Whether a line is blank or a comment."""
    if schema.widths:
        if not line[: sum(schema.widths)].strip(_CONTROLS):
            return True
        line = line.strip(_CONTROLS)
    elif schema.delimiter is None:
        line = line.strip(_BLANKS)
    return not line or line.startswith(tuple(schema.comments))


_CONTROLS = "".join(map(chr, range(33)))


def is_wrong(count: int, schema: Schema) -> bool:
    width = schema.row_width
    return (count < width and schema.short == "error") or (count > width and schema.extra == "error")


def cells_of(text: str, at: int, line_end: int, schema: Schema) -> tuple[list[str], int]:
    """The cells of the record at a place, and its line end."""
    line = text[at:line_end].removesuffix("\r")
    if schema.widths:
        return fixed_cells(line, schema), line_end
    if schema.delimiter is None:
        most = schema.row_width - 1 if schema.extra == "join" else 0
        line = line.strip(_BLANKS)
        return (re.split("[ \t\r]+", line, maxsplit=most) if most or schema.extra != "join" else [line]), line_end
    if not schema.quote:
        return line.split(schema.delimiter), line_end
    return quoted_cells(text, at, schema)


def fixed_cells(line: str, schema: Schema) -> list[str]:
    cells, at = [], 0
    for width in schema.widths:
        cells.append(line[at : at + width].strip(_CONTROLS))
        at += width
    if line[at:].strip() and schema.extra == "error":
        raise MalformedError
    if schema.encoding == "utf-8" and not line.isascii():
        raise MalformedError
    return cells


def quoted_cells(text: str, at: int, schema: Schema) -> tuple[list[str], int]:
    cells: list[str] = []
    while True:
        cell = ""
        if text.startswith(schema.quote, at):
            at += 1
            while True:
                if at >= len(text):
                    raise MalformedError
                if text.startswith(schema.quote * 2, at):
                    cell, at = cell + schema.quote, at + 2
                elif text[at] == schema.quote:
                    at += 1
                    break
                else:
                    cell, at = cell + text[at], at + 1
            at += text.startswith("\r\n", at) or text[at:] == "\r"
            if at < len(text) and text[at] not in (schema.delimiter, "\n"):
                raise MalformedError
        else:
            while at < len(text) and text[at] not in (schema.delimiter, "\n"):
                cell, at = cell + text[at], at + 1
            if at >= len(text) or text[at] == "\n":
                cell = cell.removesuffix("\r")
        cells.append(cell)
        if at >= len(text) or text[at] == "\n":
            return cells, at
        at += 1


def row_of(cells: list[bytes], schema: Schema) -> Row:
    """The values of a row."""
    if is_wrong(len(cells), schema):
        raise MalformedError
    width = schema.row_width
    if schema.extra == "join" and len(cells) > width and schema.delimiter:
        cells = [*cells[: width - 1], schema.delimiter.encode().join(cells[width - 1 :])]
    cells = [*cells, *[b""] * (width - len(cells))]
    row: list[Any] = []
    for field, place in schema.places():
        found = [value_of(cells[place + index], field, schema) for index in range(field.width)]
        row.append([value for value, _ in found] if field.dtype.shape else found[0][0])
        if field.is_nullable:
            row.append(found[0][1])
    return tuple(row)


def value_of(cell: bytes, field: Field, schema: Schema) -> tuple[Any, bool]:
    """The value of a cell, and whether it is missing."""
    kind = "e" if field.is_enum else field.declared.base.kind
    read_cell = _READERS[kind]
    marks = marks_of(field, schema, is_string=kind in "SU")
    word = cell.decode(schema.encoding)
    is_missing = word in marks and not (kind in "iuf" and is_number(word))
    if kind in "iuf" and not is_missing:
        written = word_of_number(word, field, schema)
        number = Decimal(written.strip()) if is_number(written) else None
        is_missing = number is not None and number in {Decimal(mark) for mark in marks if is_number(mark)}
    if not is_missing:
        return read_cell(cell, field, schema), False
    if field.fill is not None:
        return read_cell(field.fill.encode(), field, schema), True
    if field.is_nullable:
        return read_cell(b"0", field, schema) if kind != "e" else 0, True
    if kind not in _NOTHING:
        raise MalformedError
    return _NOTHING[kind], True


_NOTHING: dict[str, Any] = {"f": math.nan, "S": b"", "U": "", "M": _NOT_A_TIME, "m": _NOT_A_TIME}


def marks_of(field: Field, schema: Schema, *, is_string: bool) -> set[str]:
    marks = {""} if schema.short == "missing" else set()
    names = [each.name for each in schema.fields]
    for mark in schema.missing:
        name, equals, text = mark.partition("=")
        if equals and name in names:
            marks |= {text} if name == field.name else set()
        elif not is_string:
            marks.add(mark)
    return marks


def is_number(word: str) -> bool:
    return re.fullmatch(_NUMBER + r"\s*", word, re.ASCII) is not None


def word_of_number(word: str, field: Field, schema: Schema) -> str:
    """A number in the plain notation."""
    if field.format == "hex":
        return marked(word, schema)
    if field.format == "percent":
        if "%" not in word:
            raise MalformedError
        word = word.rstrip(" \r\n").removesuffix("%").rstrip(" ")
    if schema.thousands:
        groups = re.match(rf"[ \r\n]*[+-]?\d{{1,3}}(?:{re.escape(schema.thousands)}\d{{3}})+", word, re.ASCII)
        if groups and word[groups.end() :][:1] not in (schema.thousands, *"0123456789"):
            word = groups[0].replace(schema.thousands, "") + word[groups.end() :]
    if schema.decimal != ".":
        if "." in word:
            raise MalformedError
        word = word.replace(schema.decimal, ".")
    return marked(word, schema)


def marked(word: str, schema: Schema) -> str:
    """A number without the mark that may follow it."""
    match = schema.after_number and re.fullmatch(f"({_NUMBER})({schema.after_number})", word, re.ASCII)
    return match[1] if match else word


def integer(cell: bytes, field: Field, schema: Schema) -> int:
    word = word_of_number(cell.decode(schema.encoding), field, schema)
    if field.format == "hex":
        if not re.fullmatch(r"\s*[+-]?(0[xX])?[0-9a-fA-F]+\s*", word, re.ASCII):
            raise MalformedError
        value = int(word, 16)
    else:
        if not re.fullmatch(r"\s*[+-]?\d+\s*", word, re.ASCII):
            raise MalformedError
        value = int(word)
    dtype = field.declared.base
    if dtype.kind == "u" and "-" in word and field.format != "hex":
        raise MalformedError
    if not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise MalformedError
    require_unpadded(word, schema)
    return value


def decimal(cell: bytes, field: Field, schema: Schema) -> float:
    word = word_of_number(cell.decode(schema.encoding), field, schema)
    word = re.sub(r"(\d\.?)[dD]([+-]?\d+)", r"\1e\2", word)
    if "_" in word or not word.strip().isascii():
        raise MalformedError
    try:
        value = float(word)
    except ValueError:
        raise MalformedError from None
    require_unpadded(word, schema)
    if schema.exact and re.fullmatch(r"\s*[+-]?\d+\s*", word) and int(value) != int(word):
        raise MalformedError
    with np.errstate(over="ignore"):
        return float(field.declared.base.type(value))


def require_unpadded(word: str, schema: Schema) -> None:
    if schema.exact and re.fullmatch(r"\s*[+-]?0\d+(\.\d*)?\s*", word, re.ASCII):
        raise MalformedError


def string(cell: bytes, field: Field, _schema: Schema) -> bytes:
    if len(cell) > field.dtype.base.itemsize:
        raise MalformedError
    return cell.rstrip(b"\0")


def letters(cell: bytes, field: Field, schema: Schema) -> str:
    word = cell.decode(schema.encoding)
    if len(word) > field.dtype.base.itemsize // 4:
        raise MalformedError
    return word.rstrip("\0")


def truth(cell: bytes, _field: Field, _schema: Schema) -> bool:
    word = cell.strip().lower()
    if word not in (*_TRUE, *_FALSE):
        raise MalformedError
    return word in _TRUE


def label(cell: bytes, field: Field, schema: Schema) -> int:
    labels = [each.encode(schema.encoding) for each in field.labels]
    if cell.strip() not in labels:
        raise MalformedError
    return labels.index(cell.strip())


def time(cell: bytes, field: Field, _schema: Schema) -> int:
    word, unit = cell.decode("latin-1").strip(), np.datetime_data(field.declared.base)[0]
    if word.lower() == "nat":
        return _NOT_A_TIME
    if field.format.startswith("epoch"):
        return counted(word, field.format.removeprefix("epoch").strip() or unit, unit)
    parts = re.fullmatch(_ISO if not field.format else "".join(_as_pattern(field.format)), word, re.ASCII)
    if parts is None:
        raise MalformedError
    found = {key: value for key, value in parts.groupdict().items() if value is not None}
    year = int(found["Y"]) if "Y" in found else int(found["y"]) + (2000 if int(found["y"]) < 69 else 1900)
    month = int(found.get("m", 1))
    if "b" in found:
        month = _MONTHS.index(found["b"].lower()) + 1 if found["b"].lower() in _MONTHS else 0
    try:
        day = date(year, month, int(found.get("d", 1))).toordinal() - date(1970, 1, 1).toordinal()
        if "j" in found:
            day = date(year, 1, 1).toordinal() + int(found["j"]) - 1 - date(1970, 1, 1).toordinal()
            if int(found["j"]) < 1 or date.fromordinal(day + date(1970, 1, 1).toordinal()).year != year:
                raise MalformedError
    except ValueError:
        raise MalformedError from None
    clock = [int(found.get(key, 0)) for key in "HMS"]
    if clock[0] > 23 or clock[1] > 59 or clock[2] > 59:
        raise MalformedError
    seconds = Fraction(day * 86_400 + clock[0] * 3_600 + clock[1] * 60 + clock[2])
    seconds += Fraction(f"0.{found.get('f', 0)}")
    if found.get("z", "Z") != "Z":
        digits = found["z"][1:].replace(":", "")
        offset = int(digits[:2]) * 3_600 + int(digits[2:]) * 60
        seconds -= -offset if found["z"][0] == "-" else offset
    return whole(seconds, "s", unit)


_ISO = (
    r"(?P<Y>\d{4})(-(?P<m>\d\d)(-(?P<d>\d\d)"
    r"([T ](?P<H>\d\d):(?P<M>\d\d)(:(?P<S>\d\d)([.,](?P<f>\d{1,18}))?)?\s?(?P<z>Z|[+-]\d\d:?\d\d)?)?)?)?"
)
_DIRECTIVES = {"Y": r"(?P<Y>\d{4})", "b": r"(?P<b>[A-Za-z]{3})", "j": r"(?P<j>\d{1,3})", "f": r"(?P<f>\d{1,18})"}
_DIRECTIVES |= {"y": r"(?P<y>\d\d)"} | {key: rf"(?P<{key}>\d{{1,2}})" for key in "mdHMS"}


def _as_pattern(format: str) -> Iterator[str]:
    at = 0
    while at < len(format):
        if format[at] == "%":
            yield _DIRECTIVES[format[at + 1]]
            at += 2
        else:
            yield r"\s+" if format[at] == " " else re.escape(format[at])
            at += 1


def span(cell: bytes, field: Field, _schema: Schema) -> int:
    word, unit = cell.decode("latin-1").strip(), np.datetime_data(field.declared.base)[0]
    if word.lower() == "nat":
        return _NOT_A_TIME
    pattern = r"([+-])?(?:(\d+)\s*(?:d|day|days),?\s*)?(\d+):(\d\d)(?::(\d\d)(?:\.(\d{1,18}))?)?"
    match = re.fullmatch(pattern, word, re.ASCII)
    if match is None:
        return counted(word, unit, unit)
    if int(match[4]) > 59 or int(match[5] or 0) > 59:
        raise MalformedError
    seconds = int(match[2] or 0) * 86_400 + int(match[3]) * 3_600 + int(match[4]) * 60 + int(match[5] or 0)
    length = seconds + Fraction(f"0.{match[6] or 0}")
    return whole(-length if match[1] == "-" else length, "s", unit)


def counted(word: str, given: str, unit: str) -> int:
    if not is_number(word) or abs(Decimal(word).adjusted()) > 40:  # what is beyond any time need not be written out
        raise MalformedError
    return whole(Fraction(word), given, unit)


def whole(number: Fraction, given: str, unit: str) -> int:
    """A number of one unit in another, which must be a whole number that fits."""
    count = number * _NANOSECONDS[given] / _NANOSECONDS[unit]
    if count.denominator != 1 or abs(count) > 2**63 - 1:
        raise MalformedError
    return int(count)


_READERS: dict[str, Callable[[bytes, Field, Schema], Any]] = {
    "i": integer,
    "u": integer,
    "f": decimal,
    "S": string,
    "U": letters,
    "b": truth,
    "e": label,
    "M": time,
    "m": span,
}
