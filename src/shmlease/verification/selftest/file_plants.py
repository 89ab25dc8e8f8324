"""Leaks of plain files in shared memory, and their clean twins: the same, but in use or in order."""

from __future__ import annotations

import os

from shmlease.verification.selftest.acts import SIZE_BYTES
from shmlease.verification.selftest.ground import Ground, NotPermittedError

__all__: list[str] = []


def orphan(ground: Ground) -> None:
    """Its maker has ended."""
    ground.wait_until_ended(ground.act("make", ground.path()))


def mapped_file(ground: Ground) -> None:
    """Its maker has ended, and another process has it mapped."""
    path = ground.path()
    ground.wait_until_ended(ground.act("make", path))
    ground.act("map_file", path)


def open_file(ground: Ground) -> None:
    """Its maker has ended, and another process has it open."""
    path = ground.path()
    ground.wait_until_ended(ground.act("make", path))
    ground.act("open_file", path)


def orphan_in_directory(ground: Ground) -> None:
    """As joblib leaves them: in a directory of its own."""
    path = f"{ground.directory()}/0-1.pkl"
    ground.at_the_end(lambda: os.unlink(path))
    ground.wait_until_ended(ground.act("make", path))


def mapped_in_directory(ground: Ground) -> None:
    """The same, in use."""
    path = f"{ground.directory()}/0-1.pkl"
    ground.at_the_end(lambda: os.unlink(path))
    ground.wait_until_ended(ground.act("make", path))
    ground.act("map_file", path)


def unlinked_mapped(ground: Ground) -> None:
    """A mapping is all that is left."""
    ground.act("unlink_mapped", ground.path())


def unlinked_open(ground: Ground) -> None:
    """A descriptor is all that is left."""
    ground.act("unlink_open", ground.path())


def unnamed(ground: Ground) -> None:
    """It never had a name."""
    ground.act("unnamed", "/dev/shm")


def anonymous(ground: Ground) -> None:
    """A memfd, a shared anonymous mapping, and what a clean multiprocessing program has: all "(deleted)", none a leak."""
    ground.act("anonymous")


def unlinked_in_thread(ground: Ground) -> None:
    """Only a thread with descriptors of its own has it."""
    ground.act("open_in_thread", ground.path(), "unlink")


def open_in_thread(ground: Ground) -> None:
    """The same, with its name: in use, and no orphan."""
    ground.act("open_in_thread", ground.path(), "keep")


def unlinked_behind_leader(ground: Ground) -> None:
    """Its holder's first thread has ended, and the others live."""
    ground.act("outlive_leader", ground.path())


def empty(ground: Ground) -> None:
    """Killed between shm_open and ftruncate."""
    ground.wait_until_ended(ground.act("make", ground.path(), "0"))


def without_pages(ground: Ground) -> None:
    """Killed between ftruncate and the first write."""
    ground.wait_until_ended(ground.act("make", ground.path(), str(SIZE_BYTES), "no"))


def being_made(ground: Ground) -> None:
    """Half made as well, and somebody is at it."""
    path = ground.path()
    ground.wait_until_ended(ground.act("make", path, "0"))
    ground.act("open_file", path)


def in_flight(ground: Ground) -> None:
    """It is in a message that nobody has taken."""
    ground.require_count()
    ground.act("send", ground.path(), "unlink")


def named_in_flight(ground: Ground) -> None:
    """The same, with its name: in use, and no orphan."""
    ground.act("send", ground.path(), "keep")


def registered(ground: Ground) -> None:
    """It is registered in an io_uring."""
    ground.require_count()
    ground.act("register", ground.path(), "unlink")


def named_registered(ground: Ground) -> None:
    """The same, with its name: in use, and no orphan."""
    ground.require_count()
    ground.act("register", ground.path(), "keep")


def orphan_elsewhere(ground: Ground) -> None:
    """In the /dev/shm of another mount namespace, nobody holds it."""
    ground.look_abroad()
    ground.act("other_namespace", f"{ground.token}-elsewhere", "leave")


def held_elsewhere(ground: Ground) -> None:
    """In the /dev/shm of another mount namespace, and in use there."""
    ground.look_abroad()
    ground.act("other_namespace", f"{ground.token}-elsewhere", "hold")


def orphan_of_huge_pages(ground: Ground) -> None:
    """In a hugetlbfs, nobody holds it."""
    ground.look_abroad()
    ground.act("huge_pages", _mount_point(ground), ground.token, "leave")


def held_huge_pages(ground: Ground) -> None:
    """In a hugetlbfs, and in use."""
    ground.look_abroad()
    ground.act("huge_pages", _mount_point(ground), ground.token, "hold")


def _mount_point(ground: Ground) -> str:
    """An empty directory that every mount namespace has."""
    if "hugetlbfs" not in _filesystems():
        raise NotPermittedError("this kernel has no hugetlbfs")
    return ground.directory()


def _filesystems() -> str:
    with open("/proc/filesystems", encoding="ascii") as file:
        return file.read()


def mapped_before_the_scope(ground: Ground) -> None:
    """Held, and older than the scope."""
    mapped_file(ground)
    ground.begin_scope()
