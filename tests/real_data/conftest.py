"""Real tables, found under $SHMLEASE_REAL_DATA; without it these tests are skipped."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rig.reading import Read, read_table


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real tables."""
    folder = os.environ.get("SHMLEASE_REAL_DATA")
    if not folder:
        pytest.skip("SHMLEASE_REAL_DATA does not name the folder of the real tables")
    path = Path(folder)
    assert path.is_dir(), f"SHMLEASE_REAL_DATA names {folder}, which is no folder"
    return path


@pytest.fixture
def read() -> Callable[..., Read]:
    """Reads in small blocks, so that every file here has many."""
    return functools.partial(read_table, block_bytes=1 << 16)
