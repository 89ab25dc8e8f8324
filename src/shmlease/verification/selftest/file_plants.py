"""Leaks of plain files in shared memory, and their clean twins: the same, but in use or in order."""

from __future__ import annotations

import os

from shmlease.verification.selftest.acts import SIZE_BYTES
from shmlease.verification.selftest.testbed import NotPermittedError, Testbed

__all__: list[str] = []


def orphan(testbed: Testbed) -> None:
    """Its maker has ended."""
    testbed.wait_until_ended(testbed.act("make", testbed.path()))


def mapped_file(testbed: Testbed) -> None:
    """Its maker has ended, and another process has it mapped."""
    path = testbed.path()
    testbed.wait_until_ended(testbed.act("make", path))
    testbed.act("map_file", path)


def open_file(testbed: Testbed) -> None:
    """Its maker has ended, and another process has it open."""
    path = testbed.path()
    testbed.wait_until_ended(testbed.act("make", path))
    testbed.act("open_file", path)


def orphan_in_directory(testbed: Testbed) -> None:
    """As joblib leaves them: in a directory of its own."""
    path = f"{testbed.directory()}/0-1.pkl"
    testbed.at_the_end(lambda: os.unlink(path))
    testbed.wait_until_ended(testbed.act("make", path))


def mapped_in_directory(testbed: Testbed) -> None:
    """The same, in use."""
    path = f"{testbed.directory()}/0-1.pkl"
    testbed.at_the_end(lambda: os.unlink(path))
    testbed.wait_until_ended(testbed.act("make", path))
    testbed.act("map_file", path)


def unlinked_mapped(testbed: Testbed) -> None:
    """A mapping is all that is left."""
    testbed.act("unlink_mapped", testbed.path())


def unlinked_open(testbed: Testbed) -> None:
    """A descriptor is all that is left."""
    testbed.act("unlink_open", testbed.path())


def unnamed(testbed: Testbed) -> None:
    """It never had a name."""
    testbed.act("unnamed", "/dev/shm")


def anonymous(testbed: Testbed) -> None:
    """A memfd, a shared anonymous mapping, and what a clean multiprocessing program has: all "(deleted)", none a leak."""
    testbed.act("anonymous")


def unlinked_in_thread(testbed: Testbed) -> None:
    """Only a thread with descriptors of its own has it."""
    testbed.act("open_in_thread", testbed.path(), "unlink")


def open_in_thread(testbed: Testbed) -> None:
    """The same, with its name: in use, and no orphan."""
    testbed.act("open_in_thread", testbed.path(), "keep")


def unlinked_behind_leader(testbed: Testbed) -> None:
    """Its holder's first thread has ended, and the others live."""
    testbed.act("outlive_leader", testbed.path())


def empty(testbed: Testbed) -> None:
    """Killed between shm_open and ftruncate."""
    testbed.wait_until_ended(testbed.act("make", testbed.path(), "0"))


def without_pages(testbed: Testbed) -> None:
    """Killed between ftruncate and the first write."""
    testbed.wait_until_ended(testbed.act("make", testbed.path(), str(SIZE_BYTES), "no"))


def being_made(testbed: Testbed) -> None:
    """Half made as well, and somebody is at it."""
    path = testbed.path()
    testbed.wait_until_ended(testbed.act("make", path, "0"))
    testbed.act("open_file", path)


def in_flight(testbed: Testbed) -> None:
    """It is in a message that nobody has taken."""
    testbed.require_count()
    testbed.act("send", testbed.path(), "unlink")


def named_in_flight(testbed: Testbed) -> None:
    """The same, with its name: in use, and no orphan."""
    testbed.act("send", testbed.path(), "keep")


def registered(testbed: Testbed) -> None:
    """It is registered in an io_uring."""
    testbed.require_count()
    testbed.act("register", testbed.path(), "unlink")


def named_registered(testbed: Testbed) -> None:
    """The same, with its name: in use, and no orphan."""
    testbed.require_count()
    testbed.act("register", testbed.path(), "keep")


def orphan_elsewhere(testbed: Testbed) -> None:
    """In the /dev/shm of another mount namespace, nobody holds it."""
    testbed.look_abroad()
    testbed.act("other_namespace", f"{testbed.token}-elsewhere", "leave")


def held_elsewhere(testbed: Testbed) -> None:
    """In the /dev/shm of another mount namespace, and in use there."""
    testbed.look_abroad()
    testbed.act("other_namespace", f"{testbed.token}-elsewhere", "hold")


def orphan_of_huge_pages(testbed: Testbed) -> None:
    """In a hugetlbfs, nobody holds it."""
    testbed.look_abroad()
    testbed.act("huge_pages", _mount_point(testbed), testbed.token, "leave")


def held_huge_pages(testbed: Testbed) -> None:
    """In a hugetlbfs, and in use."""
    testbed.look_abroad()
    testbed.act("huge_pages", _mount_point(testbed), testbed.token, "hold")


def _mount_point(testbed: Testbed) -> str:
    """An empty directory that every mount namespace has."""
    if "hugetlbfs" not in _filesystems():
        raise NotPermittedError("this kernel has no hugetlbfs")
    return testbed.directory()


def _filesystems() -> str:
    with open("/proc/filesystems", encoding="ascii") as file:
        return file.read()


def mapped_before_the_scope(testbed: Testbed) -> None:
    """Held, and older than the scope."""
    mapped_file(testbed)
    testbed.begin_scope()
