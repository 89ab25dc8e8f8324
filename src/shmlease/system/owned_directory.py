"""A directory that is one user's alone: opened where others may have put something else, checked, and kept open
on request.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

from shmlease.errors import LeaseError, PermissionDeniedError
from shmlease.interrupts import is_from_handler
from shmlease.system import syscalls
from shmlease.system.safe_open import DIRECTORY_MODE, ensure_mode, open_directory

__all__ = ["OwnedDirectory"]

# The first fields of a status: mode, inode, device, links, owner.
_KNOWN: Final = 5


class OwnedDirectory:
    """The directory `name` in `root`, which belongs to `owner` and which nobody else may enter.

    It is one directory: the first that was opened. If it is removed and another takes its name, nothing is done to that
    one; device and inode decide, for tmpfs does not use an inode number again.

    Parameters
    ----------
    root, name : str
        Where it is.
    owner : int
        The user id that it must belong to.
    identity : tuple of int, optional
        Device and inode, if they are known.
    advice : str
        What the user can do about a directory that is refused; ends the message.
    unreadable : callable
        Makes the error to be raised from the one that the kernel gave because `root` may not be searched.
    """

    def __init__(
        self,
        root: str,
        name: str,
        owner: int,
        identity: tuple[int, int] | None,
        *,
        advice: str,
        unreadable: Callable[[OSError], LeaseError],
    ) -> None:
        self.path = f"{root}/{name}"
        self.name = name
        self.owner = owner
        self._identity = identity
        self._advice = advice
        self._unreadable = unreadable
        self._kept: list[int] = []
        self._known: tuple[int, ...] = ()  # the status of it when it was last checked

    def forget_identity(self) -> None:
        """The next directory that is opened will do, if it is the owner's alone."""
        self.close()
        self._identity, self._known = None, ()

    def is_in_place(self) -> bool:
        """Whether its name still leads to the directory that was opened first, whatever its mode is."""
        try:
            status = syscalls.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def open(self, root: int | None = None) -> int:
        """A descriptor of it, for use as `dir_fd`; to be closed. `root` is a descriptor of the directory that it is in.

        A mode with too few bits, which a start under a strange umask has left, is repaired.

        Raises
        ------
        FileNotFoundError
            It is gone, though another directory of its name may be there.
        PermissionDeniedError
            It belongs to somebody else, is a link, or others may enter it.
        """
        try:
            directory = open_directory(self.path if root is None else self.name, directory=root)
        except PermissionError as error:
            if is_from_handler(error):
                raise
            if isinstance(error, PermissionDeniedError):
                raise self._refused(str(error)) from None
            raise self._unreadable(error) from None
        try:
            self._check(syscalls.fstat(directory), directory)
        except BaseException:
            syscalls.close(directory)
            raise
        return directory

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """A block in which it is open: see `open`. Not for clients, whom an interrupt may take out of it half-way."""
        directory = self.open()
        try:
            yield directory
        finally:
            syscalls.close(directory)

    def kept_open(self) -> int:
        """A descriptor of it that stays open until `close`: opened once, and checked each time as `open` does.

        A program may close every descriptor, and open files of its own under the same numbers: a descriptor that is not of
        this directory any more is left alone, and another is opened. One thread at a time may use what this returns, or
        call `close`.

        Raises
        ------
        As `open`.
        """
        kept = self._kept
        while kept:
            try:
                status = syscalls.fstat(kept[0])
            except OSError as error:
                if is_from_handler(error):
                    raise
            else:
                if status[:_KNOWN] == self._known:  # all that is looked at is as it was
                    return kept[0]
                if (status.st_dev, status.st_ino) == self._identity:
                    self._check(status, kept[0])
                    return kept[0]
            del kept[0]
        kept.append(self.open())  # no call between: it is in the list before a signal handler can run
        return kept[0]

    def close(self) -> None:
        """Close what `kept_open` has opened."""
        kept = self._kept
        while kept:
            directory = kept[-1]
            status = self._status_of(directory)
            del kept[-1]
            if status is not None and (status.st_dev, status.st_ino) == self._identity:
                syscalls.close(directory)  # no call between: it is never closed twice

    @staticmethod
    def _status_of(directory: int) -> os.stat_result | None:
        """What `directory` is open on; None if it is closed."""
        try:
            return syscalls.fstat(directory)
        except OSError as error:
            if is_from_handler(error):
                raise
            return None

    def _check(self, status: os.stat_result, directory: int) -> None:
        identity = status.st_dev, status.st_ino
        if identity != self._identity:
            if self._identity is not None:
                raise FileNotFoundError(errno.ENOENT, "another directory has taken its name", self.path)
            self._identity = identity
        if status.st_uid != self.owner:
            raise self._refused(f"{self.path} belongs to uid {status.st_uid}; this process runs as uid {os.geteuid()}")
        if status.st_mode & 0o777 == DIRECTORY_MODE:
            self._known = status[:_KNOWN]
            return
        if status.st_mode & 0o077:
            raise PermissionDeniedError(
                f"{self.path} has mode {stat.S_IMODE(status.st_mode):04o}, others may enter it; it must be 0700"
            )
        if self.owner == os.geteuid():
            ensure_mode(directory, DIRECTORY_MODE)

    def _refused(self, what: str) -> PermissionDeniedError:
        return PermissionDeniedError(f"{what}; {self._advice}", path=self.path)
