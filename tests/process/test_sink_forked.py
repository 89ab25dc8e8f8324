"""Children of a process that writes a file."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

# A parent forks in the middle; the child leaves the with statement too, by an error or an exit. Then the parent goes on.
FORKING = """
import os, sys
import numpy as np
from shmlease.errors import SinkError
from shmlease.hdf5 import HDF5Sink

with HDF5Sink(sys.argv[1], encoders=2) as sink:
    sink.append("calls", np.arange(300_000))
    sink.append("calls", np.arange(300_000, 300_010))
    child = os.fork()
    if not child:
        if sys.argv[2] == "append":
            try:
                sink.append("calls", np.arange(5))
            except SinkError as error:
                assert "opened by the parent" in str(error)
                os._exit(7)
        if sys.argv[2] == "raise":
            raise SystemExit(7)
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    sink.append("calls", np.arange(300_010, 400_000))
"""


@pytest.mark.parametrize("manner", ["append", "raise", "exit"])
def test_a_forked_child_neither_writes_nor_ends_the_file_of_its_parent(manner: str, tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, path, manner],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    with h5py.File(path) as file:
        assert np.array_equal(file["calls"], np.arange(400_000))
    assert os.listdir(tmp_path) == ["out.h5"]


def test_a_program_that_the_writer_starts_holds_no_descriptor_of_the_file(tmp_path: Path) -> None:
    from shmlease.hdf5 import HDF5Sink

    with HDF5Sink(tmp_path / "out.h5") as sink:
        sink.append("calls", np.arange(300_000))
        listing = subprocess.run(
            [
                sys.executable,
                "-c",
                "import os; [print(os.readlink(f'/proc/self/fd/{n}')) for n in range(3, 20)"
                " if os.path.exists(f'/proc/self/fd/{n}')]",
            ],
            capture_output=True,
            text=True,
            check=True,
            close_fds=False,
        )
    assert "partial" not in listing.stdout


def encode(task: tuple) -> object:
    from shmlease.hdf5 import ChunkEncoder

    rows, codec = task
    payload = np.empty(codec.bound_bytes, np.uint8)
    chunk = ChunkEncoder(codec).encode(rows, payload)
    return chunk, payload[: chunk.size_bytes].tobytes()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_every_kind_encode_for_a_sink(method: str, tmp_path: Path) -> None:
    from shmlease.hdf5 import HDF5Sink

    rows = np.arange(20_000)
    with HDF5Sink(tmp_path / "out.h5", chunk_bytes="16KiB") as sink:
        codec = sink.declare("calls", rows.dtype)
        planned = (plan := sink.plan("calls")).add(0, len(rows)) + plan.finish()
        tasks = [(rows[chunk.pieces[0].start : chunk.pieces[0].stop], codec) for chunk in planned]
        with multiprocessing.get_context(method).Pool(2) as pool:
            for chunk, (encoded, payload) in zip(planned, pool.imap(encode, tasks), strict=True):
                sink.append_encoded("calls", chunk.index, encoded, payload)
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["calls"], rows)
