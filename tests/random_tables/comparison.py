"""What the readers must agree in, and the run of many tables."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from random_tables.generator import RandomTable, random_table
from random_tables.reference import read
from shmlease.errors import IngestError
from shmlease.text.blocks import count_lines, cut_table, read_piece
from shmlease.text.header import open_table
from shmlease.text.native_parser import is_native
from shmlease.text.parser import ParsedBlock
from shmlease.text.parser_choice import PARSERS, Parser
from shmlease.text.schema import Schema

__all__ = ["difference", "main", "run"]

_TELL_EVERY = 10_000
Outcome = tuple[list[Any], int]


def difference(table: RandomTable, path: Path) -> str:
    """Where the readers differ, in words; empty where they agree. `path` is for a file, if one is needed."""
    data, schema = table.data, table.schema
    if table.is_whole_file:
        return _file_difference(table, path)
    expected = _expected(data, schema)
    names: Iterable[Parser] = PARSERS if is_native(schema) else ("numpy",)  # the same function, where C reads nothing
    parsed = {name: PARSERS[name].parse_block(data, schema) for name in names}
    return _first_difference(expected, parsed) or _block_difference(expected, table, path)


def _file_difference(table: RandomTable, path: Path) -> str:
    """A file is opened first: its mark of byte order, header and encoding are looked at."""
    path.write_bytes(table.data)
    try:
        fitted = open_table(path, table.schema)
    except IngestError:
        return ""  # refused as a whole
    data = table.data.decode("utf-16").encode() if fitted.schema.encoding != table.schema.encoding else table.data
    if table.data.startswith((b"\xff\xfe", b"\xfe\xff")):
        data = table.data.decode("utf-16").encode()
    return _first_difference(_expected(data[fitted.data_offset :], fitted.schema), {"in blocks": _in_blocks(fitted, table)})


def _block_difference(expected: Outcome, table: RandomTable, path: Path) -> str:
    """Read in blocks of few bytes, as a part of a file that is cut anywhere."""
    if table.block_bytes % 8 or not table.data:
        return ""
    path.write_bytes(table.data)
    try:
        fitted = replace(open_table(path, table.schema), schema=table.schema, data_offset=0, data_line=1)
    except IngestError:
        return ""
    if fitted.compression != "plain":
        return ""
    return _first_difference(expected, {"in blocks": _in_blocks(fitted, table)})


def _in_blocks(fitted: Any, table: RandomTable) -> ParsedBlock:
    rows, bad = [np.empty(0, fitted.schema.dtype)], []
    for piece in cut_table(fitted, table.block_bytes):
        for block in read_piece(fitted, piece, table.block_bytes):
            first_line = block.first_line or count_lines(fitted, block.offset)
            parsed = PARSERS["native"].parse_block(block.data, fitted.schema, first_line=first_line)
            rows.append(parsed.rows.copy())
            bad += parsed.bad
    return ParsedBlock(np.concatenate(rows), bad, None)  # type: ignore[arg-type]


def _expected(data: bytes, schema: Schema) -> Outcome:
    rows = list(read(data, schema))
    return [row for row in rows if row is not None], rows.count(None)


def _first_difference(expected: Outcome, parsed: Mapping[Any, ParsedBlock]) -> str:
    rows, malformed = expected
    for name, found in parsed.items():
        values = [tuple(_plain(value) for value in row) for row in found.rows.tolist()]
        if repr(values) != repr(rows) or len(found.bad) != malformed:  # in which nan equals nan, and -0.0 not 0.0
            return f"{name}: {values}\n  {[str(each) for each in found.bad]}\nreference: {rows}\n  {malformed} malformed"
    both = [found for name, found in parsed.items() if name in PARSERS]
    if len(both) > 1 and (both[0].bad != both[1].bad or both[0].notes != both[1].notes):
        return f"reports differ: {both[0].bad} {both[0].notes}\n{both[1].bad} {both[1].notes}"
    return ""


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _described(schema: Schema) -> str:
    """The fields, and what is not the default."""
    default = Schema()
    options = {each.name: getattr(schema, each.name) for each in fields(Schema) if each.name != "fields"}
    said = [f"{name}={value!r}" for name, value in options.items() if value != getattr(default, name)]
    return ", ".join([*map(str, schema.fields), *said])


def run(count: int, seed: int, first: int = 0, most: int = 10) -> list[str]:
    """Compare so many tables, from the one with number `first` on; what was found, `most` at most."""
    found: list[str] = []
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        path = Path(folder) / "table.txt"
        for number in range(first, first + count):
            table = random_table(seed, number)
            try:
                different = difference(table, path)
            except Exception as error:
                different = f"{type(error).__name__}: {error}"
            if different:
                found.append(f"table {number} of seed {seed}: {table.data!r}\n{_described(table.schema)}\n{different}")
                print(found[-1], end="\n\n", flush=True)
                if len(found) >= most:
                    break
            if (number + 1 - first) % _TELL_EVERY == 0:
                took_s = time.monotonic() - began_s
                print(f"{number + 1 - first} tables, {len(found)} differences, {took_s:.0f} s", file=sys.stderr, flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m random_tables", description="Random tables, read by all readers.")
    parser.add_argument("--count", type=int, default=10_000, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="which")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first")
    parser.add_argument("--only", type=int, default=None, metavar="N", help="one, again")
    parser.add_argument("--most", type=int, default=10, metavar="N", help="differences, after which the run ends")
    options = parser.parse_args(arguments)
    first, count = (options.first, options.count) if options.only is None else (options.only, 1)
    found = run(count, options.seed, first, options.most)
    print(f"{count} tables from number {first} of seed {options.seed}, {len(found)} differences")
    sys.exit(1 if found else 0)
