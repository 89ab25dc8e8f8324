"""From an error number to what ran out, how much of it there was, and what to do."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmlease.system.exhaustion import explained, require_file_size, shortage_of_shm


@pytest.fixture
def limit() -> Iterator[None]:
    """Soft limits that are put back."""
    kept = {number: resource.getrlimit(number) for number in (resource.RLIMIT_FSIZE, resource.RLIMIT_AS)}
    yield
    for number, limits in kept.items():
        resource.setrlimit(number, limits)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            errno.EMFILE,
            "the registry has all of its {nofile} descriptors in use (RLIMIT_NOFILE); close some, or raise `ulimit -n`",
        ),
        (errno.ENFILE, "raise the sysctl fs.file-max"),
        (errno.EAGAIN, "processes at most (RLIMIT_NPROC)"),
        (errno.EROFS, "/dev/shm is mounted read-only; `mount -o remount,rw /dev/shm` makes it writable"),
        (errno.ENOSPC, "/dev/shm is full"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_each_shortage_has_its_words(number: int, words: str) -> None:
    nofile = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert words.format(nofile=nofile) in explained(OSError(number, os.strerror(number)), "the registry")


def test_memory_that_is_not_to_be_had_names_the_limit_that_is_set(limit: None) -> None:
    error = OSError(errno.ENOMEM, "")
    assert "neither RLIMIT_AS nor RLIMIT_DATA is set" in explained(error)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.getrlimit(resource.RLIMIT_AS)[1]))
    assert "RLIMIT_AS is 1 TiB; raise `ulimit -v`" in explained(error)


def test_file_beyond_the_limit_is_refused_before_a_signal_could_end_the_process(limit: None) -> None:
    require_file_size(1 << 50)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    require_file_size(4096)
    with pytest.raises(OSError, match="File too large") as refused:
        require_file_size(4097)
    assert "files of 4 KiB at most (RLIMIT_FSIZE); raise `ulimit -f`" in explained(refused.value)


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
