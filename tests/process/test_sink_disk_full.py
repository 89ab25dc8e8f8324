"""A disk that is really full: a small tmpfs in a mount namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rig.mount_namespace import mount_namespace

WRITER = """
import errno, os, pathlib, sys
import numpy as np
from shmlease.errors import SinkError
from shmlease.hdf5 import HDF5Sink

folder, mode, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
path = os.path.join(folder, "out.h5")
pathlib.Path(path).write_text("the old one")
try:
    with HDF5Sink(path, overwrite=True, keep_partial=mode == "keep", chunk_bytes="64KiB") as sink:
        random = np.random.default_rng(0)
        for number in range((5 << 20) // (8 * size)):
            sink.append("noise", random.random(size))
            sink.checkpoint(number + 1)
except SinkError as error:
    assert error.errno == errno.ENOSPC, repr(error)
    assert "No space left on device" in str(error)
else:
    sys.exit("the disk was never full")
assert pathlib.Path(path).read_text() == "the old one"
left = sorted(os.listdir(folder))
assert left == (["out.h5", "out.h5.partial"] if mode == "keep" else ["out.h5"]), left
"""

RESUMER = """
import sys
import h5py
import numpy as np
from shmlease.hdf5 import HDF5Sink

path, size = sys.argv[1] + "/out.h5", int(sys.argv[2])
random = np.random.default_rng(0)
rows = [random.random(size) for _ in range((5 << 20) // (8 * size))]
with HDF5Sink(path, overwrite=True, resume=True) as sink:
    done = sink.completed().position
    assert done and sink.completed().rows["noise"] == done * size, done
    for part in rows[done:]:
        sink.append("noise", part)
with h5py.File(path) as file:
    assert np.array_equal(file["noise"], np.concatenate(rows))
"""

MOUNT = """
mount -t tmpfs -o size=2m none "$1"
"$2" -X dev -c "$3" "$1" "$5" "$6"
mount -o remount,size=64m "$1"
test "$5" = drop || "$2" -X dev -c "$4" "$1" "$6"
"""


# so that the disk is full in the middle of a chunk or of the log, and at different rows
@pytest.mark.parametrize("size", [1000, 7000, 9000])
@pytest.mark.parametrize("mode", ["drop", "keep"])
def test_a_full_disk_is_an_error_without_a_crash_and_a_kept_file_resumes_with_more_room(
    mode: str, size: int, tmp_path: Path
) -> None:
    ended = subprocess.run(
        mount_namespace(MOUNT, str(tmp_path), sys.executable, WRITER, RESUMER, mode, str(size)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
