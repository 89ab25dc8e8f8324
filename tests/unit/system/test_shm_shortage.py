"""What /dev/shm is full of, whoever made it, and what else the system may refuse there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from shmlease.system.shm_shortage import explained, shortage_of_shm


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "/dev/shm is mounted read-only; `mount -o remount,rw /dev/shm` makes it writable"),
        (errno.ENOSPC, "/dev/shm is full"),
        (errno.ENFILE, "raise the sysctl fs.file-max"),
    ],
)
def test_what_the_system_refuses_in_dev_shm_has_its_words(number: int, words: str) -> None:
    assert words in explained(OSError(number, os.strerror(number)), "the registry")


def test_what_takes_most_is_named_whoever_made_it(tmp_path: Path) -> None:
    for name, size in (("small", 1), ("large", 300_000), ("larger", 400_000), ("odd\nname\udcff", 500_000)):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "shmlease-1").mkdir()
    (tmp_path / "shmlease-1" / "s1").write_bytes(bytes(600_000))
    (tmp_path / "link").symlink_to("/")
    words = shortage_of_shm(str(tmp_path))
    listed = words.partition("most is in ")[2].partition(";")[0]
    assert [one.split(" (")[0] for one in listed.split("), ")] == ["shmlease-1", "odd\\nname\\udcff", "larger"]
    assert f"uid {os.geteuid()})" in listed
