"""What is read: a directory in /dev/shm, and a /proc of one's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_proc import FakeProc

from shmlease.auditor.judge.evidence import Root


@pytest.fixture
def root(shm: Path) -> Root:
    return Root(str(shm), os.stat(shm).st_dev, is_whole=False)


@pytest.fixture
def fake_proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")
