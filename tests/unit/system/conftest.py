"""A directory in /dev/shm that is removed again, and a /proc of one's own."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_proc import FakeProc

from shmlease.core.evidence import Root


@pytest.fixture
def shm() -> Iterator[Path]:
    path = Path(f"/dev/shm/test-{secrets.token_hex(6)}")
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def root(shm: Path) -> Root:
    return Root(str(shm), os.stat(shm).st_dev, is_whole=False)


@pytest.fixture
def fake_proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")
