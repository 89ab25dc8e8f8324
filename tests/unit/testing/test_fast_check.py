from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import shmlease
from rig.neighbour import deep_directories
from shmlease.testing.fast_check import Contents, FastCheck


@pytest.fixture
def shm(tmp_path: Path) -> Path:
    """A directory that is no mount of its own: the inodes of its filesystem say nothing."""
    return tmp_path


def test_nothing_new_is_nothing_new(shm: Path) -> None:
    fast_check = FastCheck(str(shm))
    (shm / "old").touch()
    before = fast_check.look()
    assert not fast_check.look().has_new(before) or before.hidden_inodes  # others may use that filesystem
    assert fast_check.look().files == before.files


def test_new_file_is_new_and_a_removed_one_is_not(shm: Path) -> None:
    fast_check = FastCheck(str(shm))
    (shm / "old").touch()
    before = fast_check.look()
    (shm / "old").unlink()
    assert fast_check.look().files < before.files
    (shm / "new").touch()
    assert fast_check.look().has_new(before)


def test_file_in_a_directory_is_seen(shm: Path) -> None:
    (shm / "folder" / "below").mkdir(parents=True)
    before = FastCheck(str(shm)).look()
    (shm / "folder" / "below" / "new").touch()
    after = FastCheck(str(shm)).look()
    assert [path for path, _ in after.files - before.files] == [f"{shm}/folder/below/new"]


def test_file_made_anew_under_its_name_is_new(shm: Path) -> None:
    (shm / "one").touch()
    (shm / "other").touch()
    before = FastCheck(str(shm)).look()
    (shm / "other").rename(shm / "one")
    assert FastCheck(str(shm)).look().has_new(before)


def test_subjects_are_those_of_findings(shm: Path) -> None:
    (shm / "one").touch()
    status = (shm / "one").stat()
    assert f"file:{status.st_dev}:{status.st_ino}" in set(FastCheck(str(shm)).look().subjects(status.st_dev))


@pytest.mark.parametrize(
    ("before", "after", "is_new"),
    [
        (Contents(), Contents(), False),
        (Contents(hidden_inodes=2), Contents(hidden_inodes=1), False),
        (Contents(hidden_inodes=1), Contents(hidden_inodes=2), True),
        (Contents(), Contents(sysv=frozenset({"sysv:1:0"})), True),
        (Contents(sysv=frozenset({"sysv:1:0"})), Contents(), False),
        (Contents(leases=frozenset({"lease:a:1"})), Contents(leases=frozenset({"lease:a:1", "lease:a:2"})), True),
    ],
)
def test_more_of_anything_is_new_and_less_is_not(before: Contents, after: Contents, is_new: bool) -> None:
    assert after.has_new(before) is is_new


def test_unlinked_file_that_is_held_shows_as_a_hidden_inode() -> None:
    fast_check = FastCheck("/dev/shm")
    if not os.statvfs("/dev/shm").f_files:
        pytest.skip("this /dev/shm does not count its inodes")
    path = f"/dev/shm/test-fast-check-{os.getpid()}"
    before = fast_check.look().hidden_inodes
    descriptors = []
    for _ in range(50):  # enough to stand out from what others do meanwhile
        descriptors.append(os.open(path, os.O_CREAT | os.O_RDWR))
        os.unlink(path)
    assert fast_check.look().hidden_inodes >= before + 25
    for descriptor in descriptors:
        os.close(descriptor)


def test_system_v_segment_is_seen() -> None:
    made = subprocess.run(["ipcmk", "-M", "4096"], capture_output=True, text=True, check=True).stdout.split()[-1]
    try:
        assert any(subject.startswith(f"sysv:{made}:") for subject in FastCheck().look().sysv)
    finally:
        subprocess.run(["ipcrm", "-m", made], check=True)


def test_leases_of_this_process_are_seen_at_once() -> None:
    fast_check = FastCheck()
    with shmlease.Registry(capacity="16MiB") as registry:
        before = fast_check.look().leases
        with registry.share(np.arange(10)):
            (fresh,) = fast_check.look().leases - before
            assert fresh.startswith(f"lease:{registry.id}:")
        assert fast_check.look().leases <= before


def test_segments_of_a_registry_are_not_files_to_look_at() -> None:
    fast_check = FastCheck()
    with shmlease.Registry(capacity="16MiB") as registry:
        before = fast_check.look()
        with registry.share(np.arange(10)):
            assert not [path for path, _ in fast_check.look().files - before.files if registry.id in path]


def test_directories_without_end_are_followed_to_a_depth(shm: Path) -> None:
    deep_directories(str(shm / "d"))
    (shm / "d" / "file").touch()
    (shm / "/".join(["d"] * 100) / "file").touch()
    seen = {path.removeprefix(f"{shm}/d/") for path, _ in FastCheck(str(shm)).look().files}
    assert [path for path in seen if path.endswith("file")] == ["file"]
    subprocess.run(["rm", "-r", shm / "d"], check=True)  # shutil.rmtree goes no deeper than Python's stack


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir])
def test_registry_whose_ledger_is_none_is_passed_over(shm: Path, make: Callable[[str], None]) -> None:
    (shm / "shmlease-abad1dea").mkdir()
    make(f"{shm}/shmlease-abad1dea/ledger")
    assert FastCheck(str(shm)).look().leases == frozenset()
