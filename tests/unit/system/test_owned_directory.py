"""A directory that is one user's alone: its kept descriptor is opened once, is never somebody else's, and is not lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.interrupts import Interrupt, Interrupter
from shmlease.errors import LeaseError, PermissionDeniedError
from shmlease.system.owned_directory import OwnedDirectory


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[OwnedDirectory]:
    (tmp_path / "own").mkdir(0o700)
    made = OwnedDirectory(
        str(tmp_path), "own", os.geteuid(), None, advice="remove it", unreadable=lambda error: LeaseError(str(error))
    )
    yield made
    made.close()


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def test_kept_descriptor_is_opened_once_and_closed_once(directory: OwnedDirectory) -> None:
    before = descriptors()
    kept = directory.kept_open()
    assert directory.kept_open() == kept
    assert os.path.samestat(os.fstat(kept), os.stat(directory.path))
    directory.close()
    directory.close()
    assert descriptors() == before


def test_number_that_the_program_has_closed_and_used_again_is_left_alone(directory: OwnedDirectory, tmp_path: Path) -> None:
    kept = directory.kept_open()
    os.close(kept)
    theirs = os.open(tmp_path, os.O_PATH)
    assert theirs == kept
    another = directory.kept_open()
    assert another != theirs
    assert os.path.samestat(os.fstat(another), os.stat(directory.path))
    os.close(another)
    also_theirs = os.open(tmp_path, os.O_PATH)
    assert also_theirs == another
    directory.close()
    assert os.path.samestat(os.fstat(theirs), os.fstat(also_theirs)), "neither was closed"
    os.close(theirs)
    os.close(also_theirs)


def test_number_that_the_program_has_closed_is_not_closed_again(directory: OwnedDirectory) -> None:
    os.close(directory.kept_open())
    directory.close()
    os.close(directory.kept_open())
    assert os.path.samestat(os.fstat(directory.kept_open()), os.stat(directory.path))


def test_directory_that_others_may_enter_by_now_is_refused(directory: OwnedDirectory) -> None:
    directory.kept_open()
    os.chmod(directory.path, 0o755)
    with pytest.raises(PermissionDeniedError, match="mode 0755, others may enter it; it must be 0700"):
        directory.kept_open()


def test_file_that_is_asked_for_in_a_directory_removed_since_is_not_looked_for_in_its_namesake(
    directory: OwnedDirectory,
) -> None:
    pinned = directory.kept_open()
    os.rmdir(directory.path)
    os.mkdir(directory.path, 0o700)
    Path(directory.path, "file").touch()
    with pytest.raises(FileNotFoundError):
        os.stat("file", dir_fd=directory.kept_open())
    assert directory.kept_open() == pinned
    directory.close()
    with pytest.raises(FileNotFoundError, match="another directory has taken its name"):
        directory.kept_open()
    directory.forget_identity()
    assert os.stat("file", dir_fd=directory.kept_open())


def test_interrupt_at_any_point_loses_no_descriptor(directory: OwnedDirectory) -> None:
    before = descriptors()

    def use() -> None:
        os.close(directory.kept_open())  # so that the next one finds it closed, and opens it again
        directory.kept_open()
        directory.close()

    points = 0
    while True:
        interrupter = Interrupter(points + 1)
        try:
            interrupter.run(use)
        except Interrupt:
            points += 1
        directory.close()
        assert descriptors() == before, interrupter.raised
        if not interrupter.raised:
            break
    assert points > 10
