"""Whole tables read through the public pieces of the parser, as a worker would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rig.reading import Read, read_table
from shmlease.text.parser import parse_block
from shmlease.text.schema import Schema


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
