"""A process that writes a file is killed at random moments; another one resumes it."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from shmlease.errors import SinkError
from shmlease.hdf5 import HDF5Sink, verify

# Appends three datasets from numbered sources, resuming what is there; writes a byte for each step, so that the test
# can kill it at any of them.
WRITER = """
import sys
import numpy as np
from shmlease.hdf5 import HDF5Sink, sink as sink_module

sink_module._CHECKPOINT_EVERY_BYTES = 1 << 16
with HDF5Sink(sys.argv[1], overwrite=True, resume=True, chunk_bytes="32KiB", encoders=2) as sink:
    done = sink.completed()
    for number in range(30):
        random = np.random.default_rng(number)
        rows = np.zeros(random.integers(1, 6000), [("pos", "i4"), ("pct", "f4"), ("chr", "S5")])
        rows["pos"], rows["chr"] = random.integers(0, 99, len(rows)), b"chr%d" % number
        noise, grid = random.random(900), random.integers(0, 9, (40, 30 * number + 1))
        if not done.has("calls", str(number)):
            sink.append("calls", rows)
            sink.source("calls", path=str(number))
            sys.stdout.write("."); sys.stdout.flush()
        if not done.has("noise", str(number)):
            sink.append("noise", noise)
            sink.source("noise", path=str(number))
        if f"grids/{number}" not in done.finished:
            sink.write(f"grids/{number}", grid, attributes={"number": number})
        sys.stdout.write("."); sys.stdout.flush()
"""


def start(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, bufsize=0)


def contents(path: Path) -> dict[str, bytes]:
    seen = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                seen.update({name: item[()].tobytes() + repr(sorted(item.attrs.items())).encode()})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return seen


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("unkilled") / "out.h5"
    with start(path) as writer:
        writer.communicate()
    assert writer.returncode == 0
    return contents(path)


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.stress) for seed in range(3, 30))])
def test_a_file_whose_writer_was_killed_again_and_again_is_the_file_of_an_unkilled_run(
    seed: int, expected: dict[str, bytes], tmp_path: Path
) -> None:
    chance = random.Random(seed)
    path = tmp_path / "out.h5"
    for _ in range(4):
        with start(path) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randrange(1, 40)):
                if not writer.stdout.read(1):
                    break
            # some moment within the next step, or while the file is closed
            select.select([], [], [], chance.uniform(0, 0.02))
            writer.kill()
        assert writer.returncode in (0, -signal.SIGKILL)
        partial = tmp_path / "out.h5.partial" / "data"
        if h5py.is_hdf5(partial):  # killed when the file was whole and had no name yet
            assert contents(partial) == expected
    with start(path) as writer:
        writer.communicate()
    assert writer.returncode == 0
    assert contents(path) == expected
    assert verify(path).is_good
    assert os.listdir(tmp_path) == ["out.h5"]


def test_the_lock_of_a_killed_writer_is_free_although_its_child_lives(tmp_path: Path) -> None:
    program = (
        "import os, sys, signal, numpy\n"
        "from shmlease.hdf5 import HDF5Sink\n"
        "sink = HDF5Sink(sys.argv[1])\n"
        "sink.append('calls', numpy.arange(300_000))\n"
        "if os.fork() == 0:\n"
        "    sys.stdout.write('child'); sys.stdout.close(); signal.pause()\n"
        "signal.pause()\n"
    )
    path = tmp_path / "out.h5"
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, start_new_session=True) as writer:
        assert writer.stdout is not None
        try:
            assert writer.stdout.read(5) == b"child"
            with pytest.raises(SinkError, match="another sink is writing it"):
                HDF5Sink(path)
            writer.kill()
            writer.wait()
            with HDF5Sink(path) as sink:
                sink.append("calls", np.arange(3))
        finally:
            os.killpg(writer.pid, signal.SIGKILL)
    with h5py.File(path) as file:
        assert list(file["calls"]) == [0, 1, 2]
