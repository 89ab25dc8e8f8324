"""A registry's directory in /dev/shm: what lies where, and the few operations on it that must be atomic.

``/dev/shm/shmlease-<id>/``, mode 0700, holds everything of one registry:

=============  ====================================================================================================
``lock``       flocked by the registry for as long as it lives; whoever gets it may succeed
``ledger``     the lease table, written by the registry
``socket``     where it listens
``s<n>``       segment n
``t<ticket>``  the token of a ticket: renaming it to ``t<ticket>.<client>`` redeems the ticket, and only one can
``j<client>``  the journal of a client
=============  ====================================================================================================

A segment whose OS name somebody asked for has a second link, ``/dev/shm/shmlease-<id>-<n>``. A resource tracker that unlinks it
takes away the name, not the segment.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import stat
import struct
import threading
from collections.abc import Iterator
from typing import Final

from shmlease.errors import PermissionDeniedError
from shmlease.system.identity import require_same_user
from shmlease.system.journal import JOURNAL_BYTES
from shmlease.system.names import DIRECTORY_NAME

__all__ = ["SHM_ROOT", "RegistryDirectory", "registry_directories"]

SHM_ROOT: Final = "/dev/shm"
_ENTRY: Final = re.compile(r"([stj])(\d+)(?:\.(\d+))?")
_FLOCK: Final = struct.Struct("@hhqqi")  # struct flock
_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2
# Descriptors of registry locks: held by this process, or for the moment of an election. A child forked in that moment must
# not keep one, or nobody could succeed while it lives; so no fork happens between the opening of one and its listing here.
# With the file that each is of: a descriptor closed behind this module's back may be of another file by now.
_locks: Final[dict[int, tuple[int, int]]] = {}
_no_fork: Final = threading.Lock()
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class RegistryDirectory:
    """The directory of the registry `id` under `root`."""

    def __init__(self, id: str, root: str = SHM_ROOT) -> None:
        self.id = id
        self.root = root
        self.path = f"{root}/shmlease-{id}"
        self.lock_path = f"{self.path}/lock"
        self.ledger_path = f"{self.path}/ledger"
        self.socket_path = f"{self.path}/socket"

    def create(self) -> None:
        """Make the directory; one of that name that is this user's alone will do.

        Raises
        ------
        PermissionDeniedError
            It exists and belongs to somebody else, or others may enter it.
        """
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            self.require_own()

    def require_own(self) -> None:
        """Refuse a directory that is not this user's alone.

        Raises
        ------
        FileNotFoundError
            There is none.
        PermissionDeniedError
            It belongs to somebody else, is a link, or others may enter it.
        """
        status = os.lstat(self.path)
        if not stat.S_ISDIR(status.st_mode):
            raise PermissionDeniedError(f"{self.path} is not a directory; remove it, or choose another registry id")
        require_same_user(status.st_uid, self.path)
        if status.st_mode & 0o077:
            raise PermissionDeniedError(
                f"{self.path} has mode {stat.S_IMODE(status.st_mode):04o}, others may enter it; it must be 0700"
            )

    def exists(self) -> bool:
        """Whether the registry has not ended: a registry that ends removes its directory last."""
        return os.path.isdir(self.path)

    def lock(self) -> int | None:
        """A descriptor that holds the registry's lock; None if another process has it or the registry has ended."""
        with _no_fork:
            try:
                fd = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                return None
            _locks[fd] = _file_of(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.unlock(fd)
            return None
        if os.fstat(fd).st_nlink == 0:  # the registry ended between open and flock
            self.unlock(fd)
            return None
        return fd

    @staticmethod
    def unlock(fd: int) -> None:
        """Let go of what `lock` gave; a process that inherited the descriptor through exec still holds the lock."""
        _locks.pop(fd, None)
        os.close(fd)

    def is_served(self) -> bool:
        """Whether a registry process lives and holds the lock."""
        fd = self.lock()
        if fd is None:
            return self.exists()
        self.unlock(fd)
        return False

    # --- segments ------------------------------------------------------------------------------------------------

    def segment_path(self, number: int) -> str:
        """Where segment `number` lies."""
        return f"{self.path}/s{number}"

    def create_segment(self, number: int, size_bytes: int) -> None:
        """Make the file of a segment, its pages not reserved.

        Raises
        ------
        OSError
            ENOSPC and the like.
        """
        fd = os.open(self.segment_path(number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size_bytes)
        finally:
            os.close(fd)

    def unreserved_bytes(self, number: int) -> int:
        """How much of a segment has no pages yet; 0 if it is gone."""
        try:
            status = os.stat(self.segment_path(number))
        except FileNotFoundError:
            return 0
        return max(status.st_size - status.st_blocks * 512, 0)

    def retire_segment(self, number: int, alias: str, *, punch: bool) -> None:
        """Unlink a segment; `punch` frees its pages even while caches still map it.

        Raises
        ------
        OSError
            It could not be unlinked.
        """
        path = self.segment_path(number)
        if alias:
            _unlink(f"{self.root}/{alias}")
        if punch:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return
            try:
                # not truncated: a stray access to a punched page reads zeros, to a truncated one it is a SIGBUS
                _libc.fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, 0, os.fstat(fd).st_size)
            finally:
                os.close(fd)
        _unlink(path)

    def link_alias(self, number: int, alias: str) -> None:
        """Give a segment the name `alias` in /dev/shm itself."""
        try:
            os.link(self.segment_path(number), f"{self.root}/{alias}")
        except FileExistsError:
            if not os.path.samefile(self.segment_path(number), f"{self.root}/{alias}"):
                raise

    def free_bytes(self) -> int:
        """What /dev/shm has left for this user."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    # --- spares: claimed and revoked under the same lock, one byte of the file for each generation ------------------

    def claim_spare(self, number: int, generation: int) -> int | None:
        """A descriptor that keeps a spare from being revoked until it is closed; None if it was revoked before.

        The lock is on the grant, not on the file: a client that is idle since holds on to nothing when the file is granted
        again.
        """
        try:
            fd = os.open(self.segment_path(number), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if not _try_lock(fd, generation) or os.fstat(fd).st_nlink == 0:
            os.close(fd)
            return None
        return fd

    def revoke_spare(self, number: int, generation: int) -> bool:
        """Unlink a spare, unless its client has claimed it: then False."""
        try:
            fd = os.open(self.segment_path(number), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            if not _try_lock(fd, generation):
                return False
            self.retire_segment(number, "", punch=True)
        finally:
            os.close(fd)
        return True

    # --- tickets: a token file that one rename redeems --------------------------------------------------------------

    def mint_token(self, ticket: int) -> None:
        """Make the token of a ticket.

        Raises
        ------
        OSError
            ENOSPC and the like.
        """
        os.mknod(f"{self.path}/t{ticket}", 0o600)

    def claim_token(self, ticket: int, client: int) -> bool:
        """Redeem a ticket for `client`; False if it was redeemed before, has expired, or never was."""
        try:
            os.rename(f"{self.path}/t{ticket}", f"{self.path}/t{ticket}.{client}")
        except FileNotFoundError:
            return False
        return True

    def has_claimed(self, ticket: int, client: int) -> bool:
        """Whether `client` has claimed the token and the registry has not read that yet."""
        return os.path.exists(f"{self.path}/t{ticket}.{client}")

    def void_token(self, ticket: int) -> int | None:
        """Make a ticket unredeemable: None; or the client that has redeemed it already."""
        if _unlink(f"{self.path}/t{ticket}"):
            return None
        for kind, number, client in self.entries():
            if (kind, number) == ("t", ticket) and client is not None:
                return client
        return None

    def drop_token(self, ticket: int, client: int) -> None:
        """Remove the token that `client` redeemed."""
        _unlink(f"{self.path}/t{ticket}.{client}")

    # --- journals ------------------------------------------------------------------------------------------------

    def journal_path(self, client: int) -> str:
        """Where the journal of `client` lies."""
        return f"{self.path}/j{client}"

    def create_journal(self, client: int) -> None:
        """Make the journal of a client, its pages reserved.

        Raises
        ------
        OSError
            ENOSPC: /dev/shm has no room for it.
        """
        fd = os.open(self.journal_path(client), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, JOURNAL_BYTES)
        except OSError:
            os.unlink(self.journal_path(client))
            raise
        finally:
            os.close(fd)

    def drop_journal(self, client: int) -> None:
        """Remove the journal of a client."""
        _unlink(self.journal_path(client))

    # --- the whole -----------------------------------------------------------------------------------------------

    def entries(self) -> Iterator[tuple[str, int, int | None]]:
        """Kind (``s``, ``t`` or ``j``), number, and the redeeming client of each entry."""
        for name in os.listdir(self.path):
            match = _ENTRY.fullmatch(name)
            if match is not None:
                yield match[1], int(match[2]), None if match[3] is None else int(match[3])

    def remove_entry(self, kind: str, number: int, client: int | None) -> None:
        """Remove one entry that `entries` named."""
        _unlink(f"{self.path}/{kind}{number}" + ("" if client is None else f".{client}"))

    def remove(self) -> None:
        """Remove everything: the registry has ended. For the holder of the lock only.

        The aliases go by name, the ledger after the segments, the lock and the directory last, so that a process killed
        in between leaves what the next one can finish.
        """
        if not self.exists():
            return
        alias = re.compile(rf"shmlease-{self.id}-\d+")
        for name in filter(alias.fullmatch, os.listdir(self.root)):
            _unlink(f"{self.root}/{name}")
        for entry in list(self.entries()):
            self.remove_entry(*entry)
        for name in sorted(os.listdir(self.path), key=lambda name: (name == "lock", name == "ledger")):
            _unlink(f"{self.path}/{name}")
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            self.remove()


def registry_directories(root: str = SHM_ROOT) -> list[RegistryDirectory]:
    """The directories of this user's registries, live and dead."""
    found = []
    for entry in os.scandir(root):
        match = DIRECTORY_NAME.fullmatch(entry.name)
        if match is None:
            continue
        directory = RegistryDirectory(match[1], root)
        try:
            directory.require_own()
        except (PermissionDeniedError, FileNotFoundError):
            continue
        found.append(directory)
    return found


def _try_lock(fd: int, byte: int) -> bool:
    """Lock one byte of a file for this open file description (fcntl(2), F_OFD_SETLK); False if another one has it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _file_of(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _after_fork_in_child() -> None:
    for fd, file in _locks.items():
        with contextlib.suppress(OSError):
            if _file_of(fd) == file:
                os.close(fd)
    _locks.clear()
    _no_fork.release()


os.register_at_fork(before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_after_fork_in_child)
