from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from shmlease.auditor.observe import statx as module
from shmlease.auditor.observe.statx import AT_EMPTY_PATH, statx


@pytest.fixture
def file() -> Path:
    path = Path(f"/dev/shm/test-statx-{os.getpid()}")
    path.write_bytes(b"x" * 10_000)
    yield path
    path.unlink(missing_ok=True)


def test_statx_agrees_with_stat(file: Path) -> None:
    status, expected = statx(str(file)), file.stat()
    assert (status.device, status.inode, status.mode) == (expected.st_dev, expected.st_ino, expected.st_mode)
    assert (status.links, status.uid, status.size_bytes) == (expected.st_nlink, expected.st_uid, expected.st_size)
    assert status.resident_bytes == expected.st_blocks * 512
    assert status.used_ns == max(expected.st_atime_ns, expected.st_mtime_ns, expected.st_ctime_ns)


def test_birth_time_is_that_of_the_file_and_not_of_its_last_change(file: Path) -> None:
    born_ns = statx(str(file)).born_ns
    assert born_ns is not None
    assert abs(born_ns - time.time_ns()) < 60e9
    os.utime(file, ns=(1, 1))
    assert statx(str(file)).born_ns == born_ns


def test_a_file_of_the_same_name_has_another_identity(file: Path) -> None:
    first = statx(str(file)).identity
    file.unlink()
    file.write_bytes(b"x")
    assert statx(str(file)).identity != first


def test_path_is_relative_to_a_directory(file: Path) -> None:
    directory = os.open("/dev/shm", os.O_RDONLY)
    try:
        assert statx(file.name, directory=directory).identity == statx(str(file)).identity
        assert statx("", directory=directory, flags=AT_EMPTY_PATH).inode == os.stat("/dev/shm").st_ino
    finally:
        os.close(directory)


def test_links_are_not_followed_unless_asked(file: Path) -> None:
    link = file.with_name(f"{file.name}-link")
    link.symlink_to(file)
    try:
        assert statx(str(link)).inode != statx(str(file)).inode
        assert statx(str(link), flags=0).inode == statx(str(file)).inode
    finally:
        link.unlink()


def test_missing_file_raises_what_stat_raises() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        statx("/dev/shm/there-is-no-such-file")
    assert caught.value.filename == "/dev/shm/there-is-no-such-file"


def test_without_statx_in_the_c_library_only_the_birth_time_is_missing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = statx(str(file))
    monkeypatch.setattr(module, "_call", None)
    assert statx(str(file)) == msgspec.structs.replace(whole, born_ns=None)
    directory = os.open("/dev/shm", os.O_RDONLY)
    try:
        assert statx("", directory=directory, flags=AT_EMPTY_PATH).inode == os.stat("/dev/shm").st_ino
    finally:
        os.close(directory)
