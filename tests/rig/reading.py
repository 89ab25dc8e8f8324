"""Whole tables read through the public pieces of the parser, as a worker would."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from shmlease.text.blocks import BLOCK_BYTES, count_lines, cut_table, read_piece
from shmlease.text.header import open_table
from shmlease.text.parser import BadRow, parse_block
from shmlease.text.schema import Schema
from shmlease.text.string_lengths import fit_strings, measure_strings


@dataclass
class Read:
    """A table, read whole."""

    rows: np.ndarray
    bad: list[BadRow] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def read_table(path: Path | str, schema: Schema, *, fit: bool = False, block_bytes: int = BLOCK_BYTES) -> Read:
    """The rows of a file, block by block; with `fit`, in strings as long as they need."""
    table = open_table(path, schema)
    if fit:
        table = replace(table, schema=fit_strings(table.schema, measure_strings(table)))
    parts: list[np.ndarray] = [np.empty(0, table.schema.dtype)]
    read = Read(parts[0])
    for piece in cut_table(table, block_bytes):
        for block in read_piece(table, piece, block_bytes):
            first_line = block.first_line or count_lines(table, block.offset)
            parsed = parse_block(block.data, table.schema, first_line=first_line)
            parts.append(parsed.rows)
            read.bad += parsed.bad
            read.notes += parsed.notes
    read.rows = np.concatenate(parts)
    return read
