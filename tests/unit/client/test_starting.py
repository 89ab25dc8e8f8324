"""Starting a registry beside others that start, and sweep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmlease.client.starting import begin, new_registry
from shmlease.system import syscalls
from shmlease.system.directory import RegistryDirectory


def test_directory_that_another_start_sweeps_before_it_is_opened_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, mkdir, made = RegistryDirectory("5eeb7a4d", str(tmp_path)), syscalls.mkdir, []

    def mkdir_and_be_swept(path: str, mode: int) -> None:
        mkdir(path, mode)
        made.append(path)
        if len(made) <= 2:
            os.rmdir(path)

    monkeypatch.setattr(syscalls, "mkdir", mkdir_and_be_swept)
    directory.unlock(begin(directory))
    assert made == [directory.path] * 3


def test_capacity_may_be_a_part_of_dev_shm(tmp_path: Path) -> None:
    directory = RegistryDirectory("5eeb7a4d", str(tmp_path))
    whole, half = (new_registry(directory, words, None, 1).capacity_bytes for words in ("100%", "50%"))
    assert whole == directory.total_bytes()
    assert half == whole // 2
    for words in ("0%", "101%", "%", "nan%"):
        with pytest.raises(ValueError, match="no part of /dev/shm"):
            new_registry(directory, words, None, 1)
