"""Readers that know nothing of shmlease."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shmlease.hdf5 import HDF5Sink

Calls = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def arrays(calls: Calls) -> dict[str, np.ndarray]:
    """One array for each way in which a chunk is stored."""
    random = np.random.default_rng(0)
    return {
        "shuffled": calls(3000),
        "unshuffled": random.random(50)[random.integers(0, 50, 5000)],
        "raw": random.integers(0, 2**63, 5000),
        "bytes": random.integers(0, 3, (100, 300)).astype("u1"),
    }


@pytest.fixture(scope="module")
def out(arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readers") / "out.h5"
    with HDF5Sink(path, chunk_bytes="16KiB") as sink:
        for name, array in arrays.items():
            sink.append(name, array)
            sink.attributes(name)["unit"] = "mm"
            sink.source(name, note="made")
    return path


def test_the_chunks_are_of_every_kind(out: Path) -> None:
    import h5py

    with h5py.File(out) as file:
        masks = {name: dataset.id.get_chunk_info(0).filter_mask for name, dataset in file.items()}
    assert masks == {"shuffled": 0, "unshuffled": 1, "raw": 3, "bytes": 1}


def test_h5py_without_plugins_reads_every_bit(out: Path, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, h5py\n"
        "with h5py.File(sys.argv[1]) as file:\n"
        "    for name in file:\n"
        "        pathlib.Path(sys.argv[2], name).write_bytes(file[name][...].tobytes())\n"
        "assert 'shmlease' not in sys.modules and 'hdf5plugin' not in sys.modules\n"
    )
    environment = {"HDF5_PLUGIN_PRELOAD": "::", "PATH": ""}  # "::" turns plugins off
    subprocess.run([sys.executable, "-c", program, out, tmp_path], check=True, env=environment)
    for name, array in arrays.items():
        assert (tmp_path / name).read_bytes() == array.tobytes()


def test_pytables_reads_every_bit(out: Path, arrays: dict[str, np.ndarray]) -> None:
    tables = pytest.importorskip("tables", reason="PyTables is not installed")
    with tables.open_file(str(out)) as file:
        for name, array in arrays.items():
            node = file.get_node(f"/{name}")
            assert node.read().tobytes() == array.tobytes()
            assert node.attrs.unit == "mm"


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump is not installed")
def test_h5dump_reads_every_bit(out: Path, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    for name, array in arrays.items():
        dumped = tmp_path / name
        subprocess.run(
            ["h5dump", "-d", name, "-b", "FILE", "-o", str(dumped), str(out)], check=True, stdout=subprocess.DEVNULL
        )
        assert dumped.read_bytes() == array.tobytes()
    listing = subprocess.run(["h5dump", "-A", str(out)], check=True, capture_output=True, text=True).stdout
    assert "shmlease_checksum" in listing
