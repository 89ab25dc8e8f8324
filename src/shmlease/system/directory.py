"""A registry's directory in /dev/shm: what lies where, and the few operations on it that must be atomic.

``/dev/shm/shmlease-<id>/``, mode 0700, holds everything of one registry:

=============  ====================================================================================================
``lock``       flocked by the registry for as long as it lives; whoever gets it may succeed
``ledger``     the lease table, written by the registry
``socket``     where it listens
``s<n>``       segment n
``t<ticket>``  the token of a ticket: renaming it to ``t<ticket>.<client>`` redeems the ticket, and only one can
``j<client>``  the notice log of a client
``work``       what the registry has in hand: see `shmlease.system.work_log`
``log``        the registry's log, and ``crash`` what ends it: see `shmlease.registry.log`
=============  ====================================================================================================

A segment whose OS name somebody asked for has a second link, ``/dev/shm/shmlease-<id>-<n>-<random>``. A resource tracker
that unlinks it takes away the name, not the segment. The random part keeps other users, who may write in /dev/shm, from
taking it first.

This module is longer than other modules: its operations are one interface (`Store`), which registry, clients and the store
in memory share, and each is a few system calls on one descriptor.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import stat
import struct
from collections.abc import Iterator
from typing import Final

from shmlease.core.os_names import os_names_of
from shmlease.core.snapshot import Snapshot
from shmlease.errors import PermissionDeniedError
from shmlease.interrupts import is_from_handler
from shmlease.system import registry_lock, syscalls
from shmlease.system.file_lease import is_open_nowhere_else
from shmlease.system.ledger import FOREIGN_LEDGER_LIMIT_BYTES, LEDGER_LIMIT_BYTES, read_ledger
from shmlease.system.notice_log import FILE_BYTES
from shmlease.system.owned_descriptor import OwnedDescriptor
from shmlease.system.owned_directory import OwnedDirectory
from shmlease.system.removal import names_in, remove_registry, unlink, unlink_os_name
from shmlease.system.safe_open import (
    DIRECTORY_MODE,
    FILE_MODE,
    create_regular,
    directory_of,
    open_into,
    open_regular,
    require_regular,
)
from shmlease.system.shm_root import FULL, SHM_ROOT, cannot_be_made, no_shared_memory

__all__ = ["SHM_ROOT", "RegistryDirectory"]

_ENTRY: Final = re.compile(r"([stj])(\d+)(?:\.(\d+))?")
_FLOCK: Final = struct.Struct("@hhqqi")  # struct flock
_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2


class RegistryDirectory:
    """The directory of the registry `id` under `root`, which is `owner`'s alone.

    It is one directory, and whatever is in it is reached through a descriptor of it: see `OwnedDirectory`. The descriptor
    is opened for each operation; but what is done all the time, `claim_spare`, `mint_token`, `claim_token` and
    `drop_token`, uses one that is kept until `close`, and is for one thread at a time.

    Parameters
    ----------
    id : str
        Of the registry.
    root : str
        Where shared memory is mounted.
    owner : int, optional
        The user id of its owner; this process's if not given.
    identity : tuple of int, optional
        Device and inode, if they are known.
    """

    def __init__(
        self, id: str, root: str = SHM_ROOT, owner: int | None = None, identity: tuple[int, int] | None = None
    ) -> None:
        self.id = id
        self.root = root
        self._name = f"shmlease-{id}"
        self.path = f"{root}/{self._name}"
        self.lock_path = f"{self.path}/lock"
        self.ledger_path = f"{self.path}/ledger"
        self.socket_path = f"{self.path}/socket"
        self._owner = os.geteuid() if owner is None else owner
        self._directory = OwnedDirectory(
            root,
            self._name,
            self._owner,
            identity,
            advice=f"registry {id} cannot be there: choose another id, or have {self.path} removed",
            unreadable=lambda error: no_shared_memory(root, error),
        )

    def create(self) -> None:
        """Make the directory, or use one of that name that belongs to this user alone.

        Raises
        ------
        PermissionDeniedError
            It exists and belongs to somebody else, or others may enter it.
        UnsupportedPlatformError
            There is no `root`.
        RegistryUnavailableError
            Nothing can be made there.
        """
        try:
            syscalls.mkdir(self.path, DIRECTORY_MODE)
        except FileExistsError:
            pass
        except OSError as error:
            raise cannot_be_made(self.id, self.root, error) from None
        self._directory.forget_identity()
        syscalls.close(self._directory.open())

    def close(self) -> None:
        """Close the descriptor that is kept; the next operation that needs one opens it again."""
        self._directory.close()

    def entered(self) -> contextlib.AbstractContextManager[int]:
        """A block in which the directory is open, for use as `dir_fd`: see `OwnedDirectory.opened`."""
        return self._directory.opened()

    def exists(self) -> bool:
        """Whether the registry has not ended: a registry that ends removes its directory last.

        Raises
        ------
        PermissionDeniedError
            There is a directory of its name, and it is not this user's alone.
        """
        try:
            syscalls.close(self._directory.open())
        except FileNotFoundError as error:
            if is_from_handler(error):
                raise
            try:  # os.path.isdir would take any OSError for a no, one that a signal handler raises as well
                syscalls.stat(self.root)
            except FileNotFoundError as missing:
                if is_from_handler(missing):
                    raise
                raise no_shared_memory(self.root, missing) from None
            return False
        return True

    def lock(self) -> int | None:
        """A descriptor that holds the registry's lock; None if another process has it or the registry has ended.

        Raises
        ------
        PermissionDeniedError
            The directory, or the lock in it, is not what it should be.
        """
        return registry_lock.take(self._open_lock)

    def _open_lock(self) -> int:
        with self.entered() as directory:
            try:
                return self._create_or_open("lock", directory)
            except PermissionDeniedError:
                raise
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise cannot_be_made(self.id, self.root, error) from None

    def _create_or_open(self, name: str, directory: int) -> int:
        try:
            return create_regular(name, directory=directory, owner=self._owner)
        except FileExistsError:
            return open_regular(name, os.O_RDWR, directory=directory, owner=self._owner)

    @staticmethod
    def unlock(fd: int) -> None:
        """Let go of what `lock` gave; a process that inherited the descriptor through exec still holds the lock."""
        registry_lock.let_go(fd)

    def is_locked_by(self, fd: int) -> bool:
        """Whether `fd`, which `lock` gave, is of the lock that is in the directory now."""
        try:
            with self.entered() as directory:
                found = syscalls.stat("lock", dir_fd=directory, follow_symlinks=False)
        except PermissionDeniedError:  # perhaps only its mode was changed: clients refuse it then, its registry goes on
            return self._directory.is_in_place()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == registry_lock.file_of(fd)

    def is_served(self) -> bool:
        """Whether a registry process lives and holds the lock."""
        try:
            with self.entered() as directory:
                return registry_lock.is_locked("lock", directory=directory, owner=self._owner)
        except FileNotFoundError:
            return False

    def read_ledger(self) -> Snapshot:
        """The lease table: see `shmlease.system.ledger.read_ledger`."""
        with self.entered() as directory:
            limit_bytes = LEDGER_LIMIT_BYTES if self._owner == os.geteuid() else FOREIGN_LEDGER_LIMIT_BYTES
            return read_ledger("ledger", directory=directory, owner=self._owner, limit_bytes=limit_bytes)

    # --- segments ------------------------------------------------------------------------------------------------

    def segment_path(self, number: int) -> str:
        """Where segment `number` lies."""
        return f"{self.path}/s{number}"

    def open_segment(self, number: int, *, writable: bool) -> int:
        """A descriptor of a segment's file.

        Raises
        ------
        FileNotFoundError
            It is gone.
        """
        return self._open(f"s{number}", writable=writable)

    def _open(self, name: str, *, writable: bool) -> int:
        opened: list[int] = []  # by now, whatever interrupts what follows
        try:
            directory = self._directory.open()
            try:
                flags = os.O_RDWR if writable else os.O_RDONLY
                opened.append(open_regular(name, flags, directory=directory, owner=self._owner))
            finally:
                syscalls.close(directory)
        except BaseException:
            if opened:
                syscalls.close(opened[0])
            raise
        return opened[0]

    def create_segment(self, number: int, size_bytes: int) -> None:
        """Make the file of a segment, its pages not reserved.

        Raises
        ------
        OSError
            The system refused (ENOSPC, for one); no file is left.
        """
        with self.entered() as directory:
            fd = create_regular(f"s{number}", directory=directory)
            try:
                syscalls.ftruncate(fd, size_bytes)
            except OSError:  # EFBIG: the registry's own limit
                unlink(f"s{number}", directory)
                raise
            finally:
                syscalls.close(fd)

    def unreserved_bytes(self, number: int) -> int:
        """How much of a segment has no pages yet; 0 if it is gone."""
        try:
            with self.entered() as directory:
                status = syscalls.stat(f"s{number}", dir_fd=directory, follow_symlinks=False)
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
        if alias:
            self.unlink_alias(number, alias)
        try:
            directory = self._directory.open()
        except FileNotFoundError:
            return
        try:
            if punch:
                self._punch(f"s{number}", directory)
            unlink(f"s{number}", directory)
        finally:
            syscalls.close(directory)

    def recycle_segment(self, number: int, alias: str, size_bytes: int, into: int) -> bool:
        """Make segment `number`, whose alias goes, segment `into`; False, with nothing made, if anybody may have it open.

        What others may have done to the file while they had it open is looked at: it has one name, the mode and the size
        that it should have, and all its pages.
        """
        try:
            if alias:
                self.unlink_alias(number, alias)
            fd = self.open_segment(number, writable=True)
        except OSError as error:
            if is_from_handler(error):
                raise
            return False
        try:
            if not is_open_nowhere_else(fd):
                return False
            syscalls.ftruncate(fd, size_bytes)
            status = syscalls.fstat(fd)
            is_as_made = (status.st_nlink, stat.S_IMODE(status.st_mode)) == (1, FILE_MODE)
            if not is_as_made or status.st_blocks * 512 < size_bytes:
                return False
            with self.entered() as directory:
                syscalls.rename(f"s{number}", f"s{into}", src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            if is_from_handler(error):
                raise
            return False
        finally:
            syscalls.close(fd)
        return True

    def _punch(self, name: str, directory: int) -> None:
        try:
            fd = open_regular(name, os.O_RDWR, directory=directory, owner=self._owner)
        except FileNotFoundError:
            return
        try:
            # not truncated: a stray access to a punched page reads zeros, to a truncated one it is a SIGBUS
            syscalls.fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, 0, syscalls.fstat(fd).st_size)
        finally:
            syscalls.close(fd)

    def link_alias(self, number: int, alias: str, nbytes: int = 0) -> None:
        """Give a segment the name `alias` in /dev/shm itself, its file `nbytes` large if that is not 0.

        Raises
        ------
        OSError
            There is another file of that name, or the kernel refused.
        """
        target, fd = f"{self.root}/{alias}", self.open_segment(number, writable=bool(nbytes))
        try:
            if nbytes:
                syscalls.ftruncate(fd, nbytes)
            # linkat(2) with AT_SYMLINK_FOLLOW, which Python's link only calls when it is given a directory
            syscalls.link(f"/proc/self/fd/{fd}", target, src_dir_fd=fd, follow_symlinks=True)
        except FileExistsError:
            if not self._is_same(fd, target):
                raise
        finally:
            syscalls.close(fd)

    def has_alias(self, number: int, alias: str) -> bool:
        """Whether the name `alias` in /dev/shm itself leads to a segment."""
        try:
            fd = self.open_segment(number, writable=False)
        except FileNotFoundError:
            return False
        try:
            return self._is_same(fd, f"{self.root}/{alias}")
        finally:
            syscalls.close(fd)

    @staticmethod
    def _is_same(fd: int, path: str) -> bool:
        try:
            return os.path.samestat(syscalls.fstat(fd), syscalls.stat(path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def unlink_alias(self, number: int, alias: str) -> None:
        """Take the name `alias` in /dev/shm itself from a segment again, if it is there and leads to it.

        Raises
        ------
        OSError
            The kernel refused.
        """
        # a name that others can think of may have been removed, and given to another file
        if os_names_of(self.id).fullmatch(alias) or self.has_alias(number, alias):
            with contextlib.suppress(FileNotFoundError), directory_of(self.root, alias) as (root, name):
                unlink_os_name(name, root, self._owner)

    def total_bytes(self) -> int:
        """How large /dev/shm is; what is free where it has no limit.

        Raises
        ------
        UnsupportedPlatformError
            There is no /dev/shm.
        """
        status = self._file_system()
        return status.f_blocks * status.f_frsize or _free_bytes(status)

    def free_bytes(self) -> int:
        """What /dev/shm has left for this user.

        Raises
        ------
        UnsupportedPlatformError
            There is no /dev/shm.
        """
        return _free_bytes(self._file_system())

    def _file_system(self) -> os.statvfs_result:
        try:
            return syscalls.statvfs(self.root)
        except OSError as error:
            raise no_shared_memory(self.root, error) from None

    # --- spares: claimed and revoked under the same lock, one byte of the file for each generation ------------------

    def claim_spare(self, number: int, generation: int, claim: OwnedDescriptor) -> bool:
        """Keep a spare from being revoked for as long as `claim` is open; False if it was revoked before.

        The lock is on the grant, not on the file: a client that is idle since holds on to nothing when the file is granted
        again.
        """
        name = f"s{number}"
        try:
            directory = self._directory.kept_open()
            try:
                open_into(claim.fds, name, os.O_RDWR, directory)
            except FileNotFoundError:
                raise
            except OSError as error:
                if is_from_handler(error):
                    raise
                # which repairs it, or says what is in the way
                claim.fds.append(open_regular(name, os.O_RDWR, directory=directory, owner=self._owner))
        except FileNotFoundError as error:
            if is_from_handler(error):
                raise
            return False
        if not _try_lock(claim.fds[0], generation):
            return False
        status = syscalls.fstat(claim.fds[0])
        require_regular(status, name, directory=directory, owner=self._owner)
        claim.mark(status)
        return status.st_nlink > 0

    def claim_again(self, generation: int, claim: OwnedDescriptor) -> bool:
        """Claim once more what `let_go` has left open; False if it was revoked since."""
        return claim.is_own() and _try_lock(claim.fds[0], generation) and syscalls.fstat(claim.fds[0]).st_nlink > 0

    def let_go(self, generation: int, claim: OwnedDescriptor) -> bool:
        """Let a claimed spare be revoked again, and keep it open; False if somebody has closed it."""
        if not claim.is_own():
            return False
        syscalls.fcntl(claim.fds[0], fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, generation))
        return True

    def revoke_spare(self, number: int, generation: int) -> bool:
        """Unlink a spare, unless its client has claimed it: then False."""
        try:
            fd = self.open_segment(number, writable=True)
        except FileNotFoundError:
            return True
        try:
            if not _try_lock(fd, generation):
                return False
            self.retire_segment(number, "", punch=True)
        finally:
            syscalls.close(fd)
        return True

    # --- tickets: a token file that one rename redeems --------------------------------------------------------------

    def mint_token(self, ticket: int, minted: list[None] | None = None) -> None:
        """Make the token of a ticket; `minted` has an entry as soon as there is one, whatever interrupts this call.

        Raises
        ------
        OSError
            The system refused: ENOSPC, for one.
        """
        # what bits the umask leaves it means nothing: it is renamed and removed, never opened
        make = functools.partial(syscalls.mknod, dir_fd=self._directory.kept_open())
        (minted if minted is not None else []).extend(map(make, (f"t{ticket}",), (FILE_MODE,)))

    def claim_token(self, ticket: int, client: int, claimed: list[None] | None = None) -> bool:
        """Redeem a ticket for `client`; False if it was redeemed before, has expired, or never was.

        `claimed` has an entry as soon as it has happened, whatever interrupts this call.
        """
        try:
            directory = self._directory.kept_open()
            rename = functools.partial(syscalls.rename, src_dir_fd=directory, dst_dir_fd=directory)
            (claimed if claimed is not None else []).extend(map(rename, (f"t{ticket}",), (f"t{ticket}.{client}",)))
        except FileNotFoundError as error:
            if is_from_handler(error):
                raise
            return False
        return True

    def has_token(self, ticket: int) -> bool:
        """Whether a ticket can be redeemed at this moment."""
        try:
            directory = self._directory.open()
            try:
                syscalls.stat(f"t{ticket}", dir_fd=directory, follow_symlinks=False)
            finally:
                syscalls.close(directory)
        except FileNotFoundError as error:
            if is_from_handler(error):
                raise
            return False
        return True

    def void_token(self, ticket: int) -> int | None:
        """Make a ticket unredeemable: None; or the client that has redeemed it already."""
        if self._remove_if_there(f"t{ticket}"):
            return None
        for kind, number, client in self.entries():
            if (kind, number) == ("t", ticket) and client is not None:
                return client
        return None

    def drop_token(self, ticket: int, client: int) -> None:
        """Remove the token that `client` redeemed."""
        try:
            syscalls.unlink(f"t{ticket}.{client}", dir_fd=self._directory.kept_open())
        except FileNotFoundError:
            pass

    # --- notice logs ------------------------------------------------------------------------------------------------

    def notice_log_path(self, client: int) -> str:
        """Where the notice log of `client` lies."""
        return f"{self.path}/j{client}"

    def open_notice_log(self, client: int, *, writable: bool) -> int:
        """A descriptor of a client's notice log.

        Raises
        ------
        FileNotFoundError
            It has none.
        PermissionDeniedError
            What is there is none.
        """
        return self._open(f"j{client}", writable=writable)

    def create_notice_log(self, client: int) -> None:
        """Make the notice log of a client, its pages reserved.

        Raises
        ------
        OSError
            ENOSPC: /dev/shm has no room for it.
        """
        with self.entered() as directory:
            fd = self._create_or_open(f"j{client}", directory)
            try:
                syscalls.posix_fallocate(fd, 0, FILE_BYTES)
            except OSError:
                unlink(f"j{client}", directory)
                raise
            finally:
                syscalls.close(fd)

    def drop_notice_log(self, client: int) -> None:
        """Remove the notice log of a client."""
        self._remove_if_there(f"j{client}")

    # --- the whole -----------------------------------------------------------------------------------------------

    def entries(self) -> Iterator[tuple[str, int, int | None]]:
        """Kind (``s``, ``t`` or ``j``), number, and the redeeming client of each entry; none if the directory is gone."""
        try:
            with self.entered() as directory:
                names = names_in(directory)
        except FileNotFoundError:
            return
        for name in names:
            match = _ENTRY.fullmatch(name)
            if match is not None:
                yield match[1], int(match[2]), None if match[3] is None else int(match[3])

    def remove_entry(self, kind: str, number: int, client: int | None) -> None:
        """Remove one entry that `entries` named."""
        self._remove_if_there(f"{kind}{number}" + ("" if client is None else f".{client}"))

    def _remove_if_there(self, name: str) -> bool:
        try:
            directory = self._directory.open()
            try:
                return unlink(name, directory)
            finally:
                syscalls.close(directory)
        except FileNotFoundError as error:
            if is_from_handler(error):
                raise
            return False

    def remove(self) -> None:
        """Remove everything: the registry has ended. For the holder of the lock only.

        The names given out in /dev/shm go first, the ledger after the segments, the lock and the directory last, so that a
        process killed in between leaves what the next one can finish.

        Raises
        ------
        OSError
            Something that no registry has made is in the way; all else is removed.
        """
        remove_registry(self._directory, self.root, self.id)


def _free_bytes(status: os.statvfs_result) -> int:
    if status.f_blocks == 0:  # mounted without a limit: as much as the machine has
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return status.f_bavail * status.f_frsize


@functools.lru_cache(maxsize=64)
def _flock(kind: int, byte: int) -> bytes:
    """The struct flock for one byte."""
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


def _try_lock(fd: int, byte: int) -> bool:
    """Lock one byte of a file for this open file description (fcntl(2), F_OFD_SETLK); False if another one has it."""
    try:
        syscalls.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte))
    except (BlockingIOError, PermissionError) as error:
        if is_from_handler(error):
            raise
        return False
    return True
