"""The file under HDF5's hands."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from shmlease.errors import SinkError
from shmlease.hdf5.checksum import crc32
from shmlease.hdf5.file_object import SIGNATURE, FileObject


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def file(path: Path) -> Iterator[FileObject]:
    sealed = FileObject(os.open(path, os.O_RDWR | os.O_CREAT))
    yield sealed
    sealed.close()


class FullDisk(FileObject):
    """A file on a disk that is full from some byte on."""

    def __init__(self, fd: int, room_bytes: int) -> None:
        super().__init__(fd)
        self._room_bytes = room_bytes

    def _write_disk(self, view: memoryview, offset: int) -> None:
        if offset + len(view) > self._room_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super()._write_disk(view, offset)


def fill(file: FileObject) -> None:
    with h5py.File(file, "w") as h5:
        h5["numbers"] = np.arange(10_000)
        h5["numbers"].attrs["unit"] = "m"


def test_a_sealed_file_is_the_hdf5_file_that_was_written(file: FileObject, path: Path) -> None:
    fill(file)
    file.seal()
    with h5py.File(path) as h5:
        assert np.array_equal(h5["numbers"], np.arange(10_000))
        assert h5["numbers"].attrs["unit"] == "m"


def test_a_whole_file_that_is_not_sealed_does_not_open(file: FileObject, path: Path) -> None:
    fill(file)
    with pytest.raises(OSError, match="file signature not found"):
        h5py.File(path)
    assert not h5py.is_hdf5(path)


def test_resuming_a_sealed_file_unseals_it(file: FileObject, path: Path) -> None:
    fill(file)
    file.seal()
    file.hold()
    assert not h5py.is_hdf5(path)


def test_hdf5_sees_the_signature_that_the_disk_lacks(file: FileObject) -> None:
    fill(file)
    with h5py.File(file, "r") as h5:
        assert h5["numbers"][17] == 17


def test_what_is_held_reaches_the_disk_when_it_is_applied(file: FileObject, path: Path) -> None:
    file.hold()
    fill(file)
    assert path.stat().st_size <= len(SIGNATURE)
    file.apply()
    file.seal()
    with h5py.File(path) as h5:
        assert np.array_equal(h5["numbers"], np.arange(10_000))


@pytest.mark.parametrize("room_bytes", [0, 1000, 60_000, 80_100])
def test_hdf5_closes_in_peace_when_the_disk_is_full(path: Path, room_bytes: int) -> None:
    file = FullDisk(os.open(path, os.O_RDWR | os.O_CREAT), room_bytes)
    fill(file)
    assert isinstance(file.failure, OSError)
    assert file.failure.errno == errno.ENOSPC
    assert path.stat().st_size <= room_bytes
    with h5py.File(file, "r") as h5:  # from memory, as if nothing had happened
        assert np.array_equal(h5["numbers"], np.arange(10_000))
    file.close()


def test_an_interrupt_in_a_write_is_kept_for_the_caller(file: FileObject, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwrite", interrupt)
    fill(file)
    assert isinstance(file.failure, KeyboardInterrupt)


def test_a_closed_file_takes_writes_in_memory(file: FileObject, path: Path) -> None:
    h5 = h5py.File(file, "w")
    h5["numbers"] = np.arange(10_000)
    size = path.stat().st_size
    file.close()
    h5.close()
    assert path.stat().st_size == size


def test_it_tells_where_a_payload_went(file: FileObject, path: Path) -> None:
    payload = os.urandom(5000)
    with h5py.File(file, "w") as h5:
        dataset = h5.create_dataset("numbers", (5000,), "u1", chunks=(5000,))
        file.await_payload(len(payload), crc32(payload))
        dataset.id.write_direct_chunk((0,), payload)
        offset = file.payload_offset()
    assert path.read_bytes()[offset:][:5000] == payload


def test_a_payload_that_hdf5_did_not_write_is_an_error(file: FileObject) -> None:
    file.await_payload(5, 5)
    with pytest.raises(SinkError, match="not supported"):
        file.payload_offset()


@pytest.mark.parametrize("displaced_by", [0, 1])
def test_a_payload_that_is_present_must_be_where_hdf5_puts_it(path: Path, displaced_by: int) -> None:
    payload = os.urandom(5000)
    present_at: int | None = None
    for _ in range(2):
        file = FileObject(os.open(path, os.O_RDWR | os.O_CREAT))
        with h5py.File(file, "w") as h5:
            dataset = h5.create_dataset("numbers", (5000,), "u1", chunks=(5000,))
            file.await_payload(len(payload), crc32(payload), present_at)
            dataset.id.write_direct_chunk((0,), payload)
            present_at = file.payload_offset() + displaced_by
        failure = file.failure
        file.close()
    assert (failure is None) == (displaced_by == 0)
    assert failure is None or "the interrupted run" in str(failure)


def test_the_descriptor_is_closed_on_exec(file: FileObject) -> None:
    assert not os.get_inheritable(file._fd)
