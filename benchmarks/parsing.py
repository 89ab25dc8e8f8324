"""How fast text becomes rows, beside numpy.loadtxt on the same text.

Quantified: nanoseconds a row on one core, and the ratio to `numpy.loadtxt` reading the same file whole in the same run.
Method: a table of the kind named is made from a fixed seed and written to a file; the readers take turns and the fastest of
many turns counts, since a shared machine only ever makes a turn slower. Every reader's rows are compared with loadtxt's,
bit for bit. `blocks` is what a worker does (read a block of 4 MiB into the same buffer, parse into the same rows); `loadtxt
blocks` is numpy.loadtxt on the same blocks, `native blocks` the parser in C, where that was compiled.

Tables: ``methylation`` (name, position, percentage with two decimals, two counts: the rows of the ingest targets),
``bismark`` (the same with percentages of 15 digits), ``station`` (runs of blanks, signs, missing values), ``p-values``
(exponents, which go the slow way).

    python benchmarks/parsing.py [--tables methylation,bismark] [--rows 300000] [--turns 15] [--json]
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from shmlease.text.blocks import cut_table, read_piece
from shmlease.text.header import Table, open_table
from shmlease.text.native_parser import library
from shmlease.text.parser import parse_block
from shmlease.text.parser_choice import PARSERS, ParseBlock
from shmlease.text.schema import Schema

CALLS = Schema().with_dtype("chr:S10,pos:i4,pct:f4,c:i4,t:i4")
STATION = Schema(delimiter=None, missing=("---",)).with_dtype("year:i2,month:i1,tmax:f4,tmin:f4,rain:f4")
SCORES = Schema(delimiter=",").with_dtype("name:S8,p:f8,effect:f8")


def calls(rows: int, percentage: str) -> str:
    """Methylation calls as sequencing gives them: sorted positions, small counts, percentages of their ratio."""
    random = np.random.default_rng(1)
    methylated = random.poisson(8, rows)
    other = random.poisson(4, rows) + (methylated == 0)
    position = 3_000_000 + np.cumsum(random.integers(1, 200, rows)) % 200_000_000
    share = 100 * methylated / (methylated + other)
    names = [f"chr{name}" for name in (*range(1, 20), "X")]
    lines = zip(position.tolist(), share.tolist(), methylated.tolist(), other.tolist(), strict=True)
    each = rows // len(names) + 1
    return "".join(f"{names[n // each]}\t{a}\t{percentage % b}\t{c}\t{d}\n" for n, (a, b, c, d) in enumerate(lines))


def station(rows: int) -> str:
    random = np.random.default_rng(2)
    columns = zip(random.normal(10, 8, rows), random.normal(4, 8, rows), random.gamma(2, 30, rows), strict=True)
    return "".join(
        f"   {1900 + n // 12 % 120}  {n % 12 + 1:2d}  {a:6.1f}  {b:6.1f}  {'---' if n % 50 == 0 else format(c, '6.1f')}\n"
        for n, (a, b, c) in enumerate(columns)
    )


def scores(rows: int) -> str:
    random = np.random.default_rng(3)
    columns = zip((10 ** -random.gamma(2, 2, rows)).tolist(), random.normal(0, 1, rows).tolist(), strict=True)
    return "".join(f"g{n},{p:.6g},{effect:.5f}\n" for n, (p, effect) in enumerate(columns))


TABLES: dict[str, tuple[Schema, Callable[[int], str]]] = {
    "methylation": (CALLS, lambda rows: calls(rows, "%.2f")),
    "bismark": (CALLS, lambda rows: calls(rows, "%.15g")),
    "station": (STATION, station),
    "p-values": (SCORES, scores),
}


def whole_loadtxt(table: Table) -> np.ndarray:
    missing = dict.fromkeys(range(len(table.schema.fields)), lambda cell: "nan" if cell == "---" else cell)
    converters = missing if table.schema.missing else None
    return np.loadtxt(
        table.path,
        dtype=table.schema.dtype,
        delimiter=table.schema.delimiter,
        comments=None,
        converters=converters,
        encoding="latin-1",
    )


def blocks(table: Table, parse: ParseBlock = parse_block) -> None:
    """Every block, parsed into the same rows."""
    buffer = bytearray(5 << 20)
    rows = np.empty(1 << 20, table.schema.dtype)
    for piece in cut_table(table):
        for block in read_piece(table, piece, buffer=buffer):
            parsed = parse(block.data, table.schema, out=rows)
            assert not parsed.bad


def loadtxt_blocks(table: Table) -> None:
    for piece in cut_table(table):
        for block in read_piece(table, piece):
            lines = io.StringIO(bytes(block.data).decode("latin-1"))
            np.loadtxt(lines, dtype=table.schema.dtype, delimiter=table.schema.delimiter, comments=None)


def measure(name: str, rows: int, turns: int, folder: str) -> dict[str, float]:
    schema, make = TABLES[name]
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        file.write(make(rows))
    table = open_table(path, schema)
    expected = whole_loadtxt(table)
    found = np.concatenate(
        [
            parse_block(bytes(block.data), table.schema).rows
            for piece in cut_table(table)
            for block in read_piece(table, piece)
        ]
    )
    for field in schema.fields:
        assert found[field.name].tobytes() == expected[field.name].tobytes(), f"{field.name} differs from loadtxt"
    readers: dict[str, Callable[[Table], object]] = {"loadtxt": whole_loadtxt, "blocks": blocks}
    if not schema.missing:
        readers["loadtxt blocks"] = loadtxt_blocks
    if library() is not None:
        readers["native blocks"] = functools.partial(blocks, parse=PARSERS["native"].parse_block)
    fastest = dict.fromkeys(readers, float("inf"))
    for _ in range(turns):
        for reader, read in readers.items():
            begin = time.perf_counter()
            read(table)
            fastest[reader] = min(fastest[reader], time.perf_counter() - begin)
    figures = {f"{reader} ns/row": 1e9 * seconds / rows for reader, seconds in fastest.items()}
    figures |= {f"{reader} vs loadtxt": fastest["loadtxt"] / seconds for reader, seconds in fastest.items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = {name: measure(name, options.rows, options.turns, folder) for name in options.tables.split(",")}
    if options.json:
        json.dump(figures, sys.stdout, indent=2)
        return
    for name, each in figures.items():
        print(name)
        for what, value in each.items():
            print(f"  {what:24} {value:8.2f}")


if __name__ == "__main__":
    main()
