"""Removing a registry's directory, and the names that its segments were given in /dev/shm itself."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Final

from shmlease.core.os_names import os_names_of
from shmlease.interrupts import is_from_handler
from shmlease.system import syscalls
from shmlease.system.owned_directory import OwnedDirectory

__all__ = ["names_in", "remove_registry", "unlink", "unlink_os_name"]

# How often a removal begins again because a client has put something there meanwhile.
_REMOVALS: Final = 100
# What goes last, in this order.
_LAST: Final = ("ledger", "lock")


def remove_registry(owned: OwnedDirectory, root_path: str, id: str) -> None:
    """Remove the directory `owned` of registry `id`, and the names of its segments in `root_path`.

    Raises
    ------
    OSError
        Something that no registry has made is in the way; all else is removed.
    """
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as opened:
        root = syscalls.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(syscalls.close, root)
        directory = owned.open(root)
        opened.callback(syscalls.close, directory)
        for name in filter(os_names_of(id).fullmatch, names_in(root)):
            unlink_os_name(name, root, owned.owner)
        _unlink_other_names(directory, root)
        for _ in range(_REMOVALS):
            if _is_gone_after_removal(owned.name, root, directory):
                return
        raise OSError(errno.ENOTEMPTY, "something that no registry has made is in it", owned.path)


def _unlink_other_names(directory: int, root: int) -> None:
    """Remove the names that users have chosen for files of `directory`: other links to the same files in `root`."""
    files = (_status(name, directory) for name in names_in(directory))
    linked = {(file.st_dev, file.st_ino) for file in files if file is not None and file.st_nlink > 1}
    for name in names_in(root) if linked else ():
        there = _status(name, root)
        if there is not None and stat.S_ISREG(there.st_mode) and (there.st_dev, there.st_ino) in linked:
            unlink(name, root)


def _status(name: str, directory: int) -> os.stat_result | None:
    try:
        return syscalls.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_gone_after_removal(directory_name: str, root: int, directory: int) -> bool:
    for name in sorted(names_in(directory), key=lambda name: _LAST.index(name) + 1 if name in _LAST else 0):
        with contextlib.suppress(IsADirectoryError):  # what is in the way of all else keeps only itself
            unlink(name, directory)
    try:
        # a namesake made since stays; one made between these two calls is empty, and its maker makes it anew
        there = syscalls.stat(directory_name, dir_fd=root, follow_symlinks=False)
        if os.path.samestat(syscalls.fstat(directory), there):
            syscalls.rmdir(directory_name, dir_fd=root)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:  # a client has put something there meanwhile
            raise
        return False
    return True


def unlink_os_name(name: str, root: int, owner: int) -> None:
    """Remove a name that a segment of `owner` was given in the directory `root`; not what somebody else has put there."""
    try:
        status = syscalls.stat(name, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISREG(status.st_mode) and status.st_uid == owner:
        unlink(name, root)


def names_in(directory: int) -> list[str]:
    """What lies in the open `directory`."""
    # opened anew: what is listed through one descriptor by two at a time is listed by halves
    listed = syscalls.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return syscalls.listdir(listed)
    finally:
        syscalls.close(listed)


def unlink(name: str, directory: int) -> bool:
    """Remove `name` from the open `directory`; False if it is not there."""
    try:
        syscalls.unlink(name, dir_fd=directory)
    except FileNotFoundError as error:
        if is_from_handler(error):
            raise
        return False
    return True
