"""Real tables, found under $LEASEHOLD_REAL_DATA; without it these tests are skipped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from leasehold.tabular.blocks import count_lines, cut_table, read_piece
from leasehold.tabular.fit import fit_strings, measure_strings
from leasehold.tabular.parse import BadRow, parse_block
from leasehold.tabular.prologue import open_table
from leasehold.tabular.schema import Schema


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real tables."""
    folder = os.environ.get("LEASEHOLD_REAL_DATA")
    if not folder:
        pytest.skip("LEASEHOLD_REAL_DATA does not name the folder of the real tables")
    path = Path(folder)
    assert path.is_dir(), f"LEASEHOLD_REAL_DATA names {folder}, which is no folder"
    return path


@dataclass
class Read:
    """A table, read whole."""

    rows: np.ndarray
    bad: list[BadRow] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def read_table(path: Path, schema: Schema, *, fit: bool = False, block_bytes: int = 1 << 16) -> Read:
    """Rows of a file in small blocks, so that every file here has many."""
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


@pytest.fixture
def read() -> Callable[..., Read]:
    return read_table
