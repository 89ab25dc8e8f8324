"""Tables at random: every way of writing one that a schema knows, with cells that are good, odd or wrong.

Most cells are values of their field, so that rows are read and not only refused. The rest is what real files have in their
place: marks of missing values, numbers of other notations, stray quotes, line ends, letters beyond ASCII.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from shmlease.errors import LeaseError
from shmlease.text.parser import parse_block
from shmlease.text.schema import Field, Schema

__all__ = ["RandomTable", "random_table"]

_TABLES_A_SCHEMA = 8  # making a schema takes as long as reading a table
_INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
_TYPES = {
    "integer": _INTEGERS,
    "nullable": tuple(f"{each}?" for each in _INTEGERS),
    "float": ("f4", "f8"),
    "bytes": ("S1", "S3", "S8", "S11"),
    "letters": ("U2", "U7"),
    "bool": ("?", "??"),
    "enum": ("enum", "enum?"),
    "time": ("M8[s]", "M8[ms]", "M8[ns]", "M8[D]", "M8[m]"),
    "span": ("m8[s]", "m8[ms]", "m8[h]"),
    "array": ("2i4", "3f8", "2S3"),
}
_MARKS = ("", "NA", "-99", "-99.0", "nan", "?", "-", "1e3", "0", "-0", ".5", "n/a", "9223372036854775807", "é")
_NOTATIONS = ((",", ""), (".", ","), (",", "."), (".", "'"))
_DELIMITERS = ("\t", ",", ";", "|", " ", None)
_FORMATS = ("%d.%m.%Y", "%m/%d/%y %H:%M", "%Y%m%d", "%d %b %Y", "%Y-%j")
_WORDS = """
7 -7 +7 007 1.5 x 1e2 1e . .5 5. 1D2 1d-3 -0 nan NaN inf -inf Infinity 1,5 1.234,5 1,234 1,234.5 12,34 0x1F 1_000 1% % --1
1e400 1e-400 9007199254740993 18446744073709551616 -9223372036854775808 4.9e-324 0.1e1 00 -00.5 true T No 2020-02-30 a|b
2020-02-29 NaT 12:30:59 12:61 # #1 1* 1.5# 1e+5 1E05 +.5e-3 -1. 0.30000000000000004 123456789012345678901 1e23 8.5e22
0.1000000000000000055511151231257827 2.2250738585072011e-308
"""
_ODD = ("", " ", " 5 ", "5 ", "1 2", "1 %", "1 day 2:00", "é", "日本", "²", "１", "\x0b1", "1\x0c", *_WORDS.split())
_PLAIN = "abcXYZ019._-"
_STRINGS = "aab b\u00e9\u65e5'\"#,;|\t.-19"


@dataclass(frozen=True)
class RandomTable:
    """A table as a file holds it.

    Attributes
    ----------
    data : bytes
    schema : Schema
        How it is to be read.
    block_bytes : int
        Read so much at once.
    is_whole_file : bool
        The file is to be opened, not only its rows parsed.
    """

    data: bytes
    schema: Schema
    block_bytes: int
    is_whole_file: bool


def random_table(seed: int, number: int) -> RandomTable:
    """Table `number` of a seed."""
    schema, columns, line_end = _random_schema(f"{seed}/{number // _TABLES_A_SCHEMA}")
    dice = random.Random(f"{seed}/{number // _TABLES_A_SCHEMA}/{number % _TABLES_A_SCHEMA}")
    lines = [(schema.delimiter or " ").join(each.name for each in columns)] if schema.header else []
    lines += [_line(dice, schema, columns, line_end) for _ in range(dice.randrange(1, 9))]
    text = _joined(dice, lines, line_end)
    data = text.encode(schema.encoding, "replace")
    if dice.random() < 0.05:
        data = _damaged(dice, data)
    is_whole_file = schema.header or dice.random() < 0.1
    if is_whole_file and schema.encoding == "utf-8":
        data = (dice.choice((b"", b"", b"\xef\xbb\xbf")) + data) if dice.random() < 0.9 else text.encode("utf-16")
    return RandomTable(data, schema, dice.randrange(1, 60), is_whole_file)


@lru_cache(maxsize=1)
def _random_schema(seed: str) -> tuple[Schema, list[Field], str]:
    """A schema, the field of each column of the file, and its line end; tried again where the schema is refused."""
    dice = random.Random(seed)
    while True:
        delimiter = dice.choice(_DELIMITERS)
        kinds = [dice.choice(list(_TYPES)) for _ in range(dice.randrange(1, 5))]
        fields = tuple(_field(dice, place, kind) for place, kind in enumerate(kinds))
        columns = [field for field in fields for _ in range(field.width)]
        options: dict[str, Any] = {
            "delimiter": delimiter,
            "quote": dice.choice(("", '"', '"', "'")) if delimiter else "",
            "missing": tuple(_mark(dice, fields) for _ in range(dice.choice((0, 0, 1, 2, 3)))),
            "comments": dice.choice(((), (), ("#",), ("//", "#!"))),
            "encoding": dice.choice(("utf-8", "utf-8", "utf-8", "latin-1", "cp1252", "ascii")),
            "exact": dice.random() < 0.2,
            "short": dice.choice(("error", "error", "missing")),
            "extra": dice.choice(("error", "error", "ignore", "join")),
        }
        if dice.random() < 0.2:
            options |= dict(zip(("decimal", "thousands"), dice.choice(_NOTATIONS), strict=True))
        if dice.random() < 0.1:
            options["after_number"] = "[*#]"
        line_end = dice.choice(("\n", "\n", "\r\n", "\r"))
        if options["quote"] and options["extra"] == "join":
            options["extra"] = "error"
        if dice.random() < 0.1:
            widths = tuple(dice.randrange(1, 9) for _ in columns)
            options |= {"delimiter": None, "quote": "", "widths": widths, "extra": dice.choice(("error", "ignore"))}
        options["header"] = "widths" not in options and len(columns) == len(fields) and dice.random() < 0.1
        if options["header"]:
            fields = tuple(dice.sample(fields, len(fields)))  # found by the names of their columns
        try:
            schema = Schema(fields=fields, line_end="cr" if line_end == "\r" else "lf", width=len(columns), **options)
            parse_block(b"\n", schema if not schema.header else Schema(fields=fields))  # refuses values for missing cells
        except LeaseError:
            continue
        return schema, columns, line_end


def _field(dice: random.Random, place: int, kind: str) -> Field:
    type_ = dice.choice(_TYPES[kind])
    fill, format_ = None, ""
    if kind == "enum":
        format_ = "a|b|é_c|NA"
    elif kind == "float" and dice.random() < 0.1:
        format_ = "percent"
    elif kind in ("integer", "nullable") and dice.random() < 0.1:
        format_ = "hex"
    elif kind == "time" and dice.random() < 0.3:
        format_ = dice.choice((*_FORMATS, "epoch", "epoch ms"))
    if kind in ("integer", "float", "bytes") and dice.random() < 0.2:
        fill = dice.choice(("1", "7", "0"))
    return Field(f"{kind}{place}", type_, fill=fill, format=format_)


def _mark(dice: random.Random, fields: tuple[Field, ...]) -> str:
    mark = dice.choice(_MARKS)
    return f"{dice.choice(fields).name}={mark}" if dice.random() < 0.2 else mark


def _line(dice: random.Random, schema: Schema, columns: list[Field], line_end: str) -> str:
    chance, between = dice.random(), schema.delimiter or " "
    if chance < 0.04:
        return dice.choice(("", " ", "# note", "#", "//", f"{schema.quote}x", f'a{between}"', "\t", "#!x 1"))
    cells = [_cell(dice, schema, each) for each in columns]
    if chance < 0.08:
        cells = cells[:-1] if dice.random() < 0.5 else [*cells, *(["9"] * dice.randrange(1, 3))]
    if schema.widths:
        pad = dice.choice((str.rjust, str.ljust))
        return "".join(pad(cell[:width], width) for cell, width in zip(cells, schema.widths, strict=False))
    if schema.quote and cells and dice.random() < 0.3:
        place, mark = dice.randrange(len(cells)), schema.quote
        inner = cells[place].replace(mark, mark * 2) if dice.random() < 0.9 else cells[place]
        inner += dice.choice(("", "", between, line_end, mark * 2, "\n", mark))
        cells[place] = f"{mark}{inner}{mark}" + dice.choice(("", "", "", "", "", " ", "x"))
    if schema.delimiter is None:
        blanks = (" ", "  ", "\t", " \t ")
        return dice.choice(("", "", " ")) + "".join(cell + dice.choice(blanks) for cell in cells[:-1]) + "".join(cells[-1:])
    return schema.delimiter.join(cells)


def _cell(dice: random.Random, schema: Schema, field: Field) -> str:
    chance = dice.random()
    if chance < 0.06 and schema.missing:
        return dice.choice(schema.missing).rpartition("=")[2]
    if chance < 0.11:
        return dice.choice(_ODD)
    kind = "e" if field.is_enum else field.declared.base.kind
    text = _CELLS[kind](dice, field)
    if kind in "iuf" and field.format != "hex":
        text = _in_notation(dice, schema, field, text)
    return f" {text}" if chance > 0.97 else f"{text} " if chance > 0.95 else text


def _in_notation(dice: random.Random, schema: Schema, field: Field, text: str) -> str:
    whole, point, fraction = text.partition(".")
    if schema.thousands and dice.random() < 0.5 and whole.lstrip("-").isdigit():
        whole = f"{int(whole):,}".replace(",", schema.thousands)
    text = whole + (schema.decimal if point and dice.random() < 0.95 else point) + fraction
    text += "%" if dice.random() < (0.95 if field.format == "percent" else 0.01) else ""
    return text + ("*" if schema.after_number and dice.random() < 0.3 else "")


def _integer(dice: random.Random, field: Field) -> str:
    most = field.declared.base.itemsize * 8
    bits = most - dice.choice((0, 1)) if dice.random() < 0.2 else dice.randrange(1, most)
    value = dice.getrandbits(bits) * (dice.choice((1, 1, -1)) if field.declared.base.kind == "i" else 1)
    if dice.random() < 0.1:
        value += dice.choice((-1, 1))
    return format(value, dice.choice(("x", "#x")) if field.format == "hex" else "d")


def _float(dice: random.Random, _field: Field) -> str:
    chance = dice.random()
    if chance < 0.3:
        return f"{dice.uniform(-100, 100):.{dice.randrange(8)}f}"
    if chance < 0.5:
        return f"{dice.uniform(-1, 1) * 10 ** dice.randrange(-30, 30):.{dice.randrange(12)}e}"
    if chance < 0.6:
        return str(dice.getrandbits(dice.randrange(1, 70)) * dice.choice((-1, 1)))
    value = struct.unpack("<d", dice.randbytes(8))[0] if chance < 0.8 else dice.gauss(0, 1e6)
    return repr(value)


def _string(dice: random.Random, field: Field) -> str:
    most = field.dtype.base.itemsize // (4 if field.dtype.base.kind == "U" else 1)
    letters = _STRINGS if dice.random() < 0.2 else _PLAIN
    return "".join(dice.choices(letters, k=dice.randrange(most + 1) if dice.random() < 0.95 else most + 1))


def _time(dice: random.Random, field: Field) -> str:
    year = dice.randrange(1, 9999) if dice.random() < 0.1 else dice.randrange(1960, 2030)
    month, day = dice.randrange(1, 13), dice.randrange(1, 32)
    date = f"{year:04}-{month:02}-{day:02}"
    hour, minute, second = dice.randrange(25), dice.randrange(60), dice.randrange(61)
    forms = (
        date,
        f"{date}T{hour:02}:{minute:02}",
        f"{date}{dice.choice(' T')}{hour:02}:{minute:02}:{second:02}",
        f"{date}T{hour:02}:{minute:02}:{second:02}.{dice.randrange(10**6)}",
        f"{date}T{hour:02}:{minute:02}:{second:02}Z",
        f"{date}T{hour:02}:{minute:02}:{second:02}+0{dice.randrange(10)}:30",
        f"{day:02}.{month:02}.{year:04}",
        f"{month}/{day}/{year % 100:02} {hour}:{minute:02}",
        f"{year:04}{month:02}{day:02}",
        f"{day} {dice.choice(('Feb', 'mar', 'Dec', 'Mai'))} {year:04}",
        f"{year:04}-{dice.randrange(367):03}",
        str(dice.randrange(-(10**12), 10**12)),
        f"{dice.randrange(10**10)}.{dice.choice(('0', '5', '25'))}",
    )
    if dice.random() < 0.2:
        return dice.choice(forms)
    if field.format.startswith("epoch"):
        return dice.choice(forms[-2:])
    if field.format:
        return forms[_FORMATS.index(field.format) + 6]
    return dice.choice(forms[:1] if field.type == "M8[D]" else forms[:3] if field.type == "M8[s]" else forms[:6])


def _span(dice: random.Random, _field: Field) -> str:
    return dice.choice(
        (
            str(dice.randrange(-(10**6), 10**6)),
            f"{dice.randrange(100)}:{dice.randrange(62):02}:{dice.randrange(62):02}",
            f"-{dice.randrange(30)}:{dice.randrange(60):02}",
            f"{dice.randrange(9)} days {dice.randrange(24):02}:{dice.randrange(60):02}:00.{dice.randrange(1000):03}",
            f"{dice.randrange(1000)}.5",
        )
    )


_CELLS: dict[str, Callable[[random.Random, Field], str]] = {
    **dict.fromkeys("iu", _integer),
    **dict.fromkeys("SU", _string),
    "f": _float,
    "M": _time,
    "m": _span,
    "b": lambda dice, _: dice.choice(("true", "F", "yes", "0", "1", "2", "No", "TRUE", "false", "t")),
    "e": lambda dice, _: dice.choice(("a", "b", "a", "b", "é_c", "A")),
}


def _joined(dice: random.Random, lines: list[str], line_end: str) -> str:
    """The lines with their ends; where LF ends a line, CR LF may as well."""
    is_mixed = line_end != "\r" and dice.random() < 0.1
    ends = [dice.choice(("\n", "\r\n")) if is_mixed else line_end for _ in lines]
    text = "".join(line + end for line, end in zip(lines, ends, strict=True))
    return text.removesuffix(ends[-1]) if dice.random() < 0.3 else text


def _damaged(dice: random.Random, data: bytes) -> bytes:
    """With a byte changed, added or taken away."""
    place = dice.randrange(len(data) + 1)
    byte = dice.choice((b"", b"\n", b"\r", b'"', b"'", b",", b"\xff", b"\0", b" ", b"\xc3"))
    return data[:place] + byte + data[place + dice.randrange(2) :]
