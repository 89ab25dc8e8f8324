"""Files begin with B-trees of small nodes, and are read by whoever reads HDF5 1.8."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np

from shmlease.hdf5 import HDF5Sink
from shmlease.hdf5.empty_file import empty_file


def test_the_empty_file_is_one_for_hdf5_and_takes_groups_and_datasets() -> None:
    memory = io.BytesIO(empty_file())
    with h5py.File(memory, "r+", libver=("v108", "v108")) as file:
        assert not list(file)
        for number in range(100):
            file[f"group/{number}"] = np.arange(number)
    with h5py.File(memory, "r") as file:
        assert [len(file[f"group/{number}"]) for number in range(100)] == list(range(100))


def test_a_small_dataset_takes_a_kilobyte_beside_its_rows(tmp_path: Path) -> None:
    with HDF5Sink(tmp_path / "out.h5") as sink:
        for number in range(300):
            sink.append(f"table{number}", np.full(500, number, "<i4"))
    stored = (tmp_path / "out.h5").stat().st_size
    with h5py.File(tmp_path / "out.h5") as file:
        rows = sum(each.id.get_storage_size() for each in file.values())
        assert h5py.h5o.get_info(file["table7"].id).meta_size.obj.index_size < 512
        assert all((each[...] == number).all() for number, each in ((n, file[f"table{n}"]) for n in range(300)))
    assert stored - rows < 300 * 1200


def test_thousands_of_chunks_are_found_again(tmp_path: Path) -> None:
    rows = np.arange(20_000, dtype="<i8")
    with HDF5Sink(tmp_path / "out.h5", chunk_bytes=64, compression="none") as sink:
        sink.append("data", rows)
    with h5py.File(tmp_path / "out.h5", libver=("v108", "v108")) as file:
        assert file["data"].id.get_num_chunks() == 2500
        assert (file["data"][...] == rows).all()
