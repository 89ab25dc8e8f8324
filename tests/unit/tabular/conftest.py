"""Whole tables read through the public pieces of the parser, as a worker would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leasehold.tabular.blocks import BLOCK_BYTES, count_lines, cut_table, read_piece
from leasehold.tabular.parse import BadRow, parse_block
from leasehold.tabular.prologue import open_table
from leasehold.tabular.schema import Schema


@dataclass
class Read:
    """A table, read whole."""

    rows: np.ndarray
    bad: list[BadRow] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def read_table(path: Path | str, schema: Schema, block_bytes: int = BLOCK_BYTES) -> Read:
    table = open_table(path, schema)
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


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_file(content: bytes | str, name: str = "table.tsv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture
def parse() -> Callable[..., Any]:
    """Rows and bad rows of a text under a dtype and options."""

    def parse_text(text: str | bytes, dtype: str, **options: Any) -> Any:
        data = text.encode() if isinstance(text, str) else text
        return parse_block(data, Schema(**options).with_dtype(dtype))

    return parse_text
