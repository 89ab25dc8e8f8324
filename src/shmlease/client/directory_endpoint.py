"""A registry in /dev/shm, as a client reaches it: its directory, its socket, and its successor if it is dead."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import Final

from shmlease.client.connection import SocketConnection
from shmlease.client.endpoint import Connection, NoticeWriter, Spawn
from shmlease.core.limits import Limits, shortfalls
from shmlease.core.model import ClientState
from shmlease.core.settings import Settings
from shmlease.core.sizes import file_size
from shmlease.core.snapshot import Snapshot
from shmlease.errors import CapacityError, LeaseError, ProtocolError, RegistryUnavailableError
from shmlease.exhaustion import require_file_size
from shmlease.interrupts import is_from_handler
from shmlease.system import syscalls
from shmlease.system.clock import Clock, SystemClock
from shmlease.system.control_group import require_memory
from shmlease.system.directory import RegistryDirectory
from shmlease.system.identity import is_dead
from shmlease.system.launch import launch
from shmlease.system.mapping import Mapping, map_segment
from shmlease.system.notice_log import FILE_BYTES, NoticeLog
from shmlease.system.owned_descriptor import OwnedDescriptor
from shmlease.system.page_reservation import reserve_pages
from shmlease.system.primitives import complete, start_new_thread
from shmlease.system.shm_shortage import explained
from shmlease.system.surroundings import own_limits
from shmlease.units import format_bytes

__all__ = ["DirectoryEndpoint"]

# Errors that tell of this process and its limits, not of the segment.
_LIMITS: Final = frozenset({errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS})
# How long a process with low limits leaves it to others to succeed a registry: they take 50 ms where they use it just then.
_HESITATE_NS: Final = 500_000_000
# What control groups have left is asked for segments from this size on: it takes some 50 us, a tenth of reserving this
# much.
_NOTED_BYTES: Final = 1 << 20


class DirectoryEndpoint:
    """The registry in a directory of /dev/shm; `launch_successor` takes the place of `shmlease.system.launch.launch`."""

    def __init__(
        self,
        directory: RegistryDirectory,
        clock: Clock | None = None,
        spawn: Spawn = start_new_thread,
        launch_successor: Callable[[Settings, int], None] | None = None,
    ) -> None:
        self.directory = directory
        self.id = directory.id
        self.clock: Clock = clock or SystemClock()
        self.spawn = spawn
        self._launch = launch_successor
        self._can_start = True
        self._hesitating = 0, 0  # which epoch was not succeeded at once, and until when it is not
        # what a client does in the directory itself
        self.new_claim = OwnedDescriptor
        self.claim_spare = directory.claim_spare
        self.claim_again = directory.claim_again
        self.let_go = directory.let_go
        self.mint_token = directory.mint_token
        self.void_token = directory.void_token
        self.has_token = directory.has_token
        self.claim_token = directory.claim_token
        self.link_alias = directory.link_alias
        self.has_alias = directory.has_alias
        self.unlink_alias = directory.unlink_alias
        self.close = directory.close

    def exists(self) -> bool:
        """Whether the registry's directory is there, and this user's.

        Raises
        ------
        PermissionDeniedError
            It is another user's.
        UnsupportedPlatformError
            There is no /dev/shm.
        RegistryUnavailableError
            This process lacks what it takes to look.
        """
        with self._explained():
            return self.directory.exists()

    def connection(self) -> Connection:
        """A connection to the registry's socket."""
        return SocketConnection(self.directory.socket_path, self._explained)

    def succeed(self) -> None:
        """Take the registry's lock, if it is free, and start a process that goes on with it.

        A process that may use less than the registry might leaves that to other clients for a moment.
        """
        if self.spawn is None:
            self._succeed()
        else:
            complete(self._succeed)

    def _succeed(self) -> None:
        lock_fd = self.directory.lock()
        if lock_fd is None:
            return
        try:
            if self._leaves_it_to_others():
                return
            self._can_start = False
            (self._launch or launch)(Settings(self.id, self.directory.root), lock_fd)
            self._can_start = True
        finally:
            self.directory.unlock(lock_fd)

    def snapshot(self) -> Snapshot | None:
        """As it lies in /dev/shm; None if the registry has ended."""
        with contextlib.suppress(OSError, LeaseError):
            return self.directory.read_ledger()
        return None

    def limits(self) -> Limits | None:
        """What a registry may use that this process starts; None if the last one that it tried to start did not."""
        return own_limits() if self._can_start else None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """An error that tells of a limit, or of the system, and not of the registry, is raised with its reason."""
        try:
            yield
        except OSError as error:
            if isinstance(error, LeaseError | ConnectionError | FileNotFoundError | TimeoutError) or is_from_handler(error):
                raise
            if isinstance(error, BlockingIOError):
                raise TimeoutError(f"registry {self.id} takes no connection") from None
            raise RegistryUnavailableError(
                f"registry {self.id} cannot be reached: {explained(error)}", registry=self.id
            ) from error

    def _leaves_it_to_others(self) -> bool:
        try:
            snapshot = self.directory.read_ledger()
        except (OSError, ProtocolError, MemoryError):  # low limits may be why
            return False
        registry = snapshot.registry
        if registry is None or registry.wanted is None or not shortfalls(own_limits(), registry.wanted):
            return False
        now_ns = self.clock.now_ns()
        if self._hesitating[0] != registry.epoch:
            clients = (client.identity for client in snapshot.clients.values() if client.state is not ClientState.ENDED)
            others = any(not is_dead(identity) for identity in clients if identity.pid != syscalls.getpid())
            self._hesitating = registry.epoch, now_ns + (_HESITATE_NS if others else 0)
        return now_ns < self._hesitating[1]

    def open_notice_log(self, client: int) -> NoticeWriter:
        """The notice log of `client`."""
        with self._explained():
            require_file_size(FILE_BYTES)
            fd = self.directory.open_notice_log(client, writable=True)
            try:
                return NoticeLog(fd)
            finally:
                syscalls.close(fd)

    def map(self, segment: int, size_bytes: int, *, writable: bool, private: bool, reserve: bool) -> Mapping:
        """Map the segment's file; nothing but the mapping keeps it open.

        Raises
        ------
        CapacityError
            A limit of this process does not allow it.
        """
        try:
            if reserve:
                require_file_size(size_bytes)
                if size_bytes >= _NOTED_BYTES:
                    require_memory(size_bytes, f"a segment of {format_bytes(size_bytes)}")
            fd = self.directory.open_segment(segment, writable=writable and not private)
            try:
                if (
                    file_size(syscalls.fstat(fd).st_size) < size_bytes
                ):  # mapped beyond its end, it would be a SIGBUS to read
                    raise FileNotFoundError(errno.ENOENT, f"segment {segment} has no {size_bytes} bytes")
                mapping = map_segment(fd, size_bytes, writable=writable, private=private)
                if reserve:
                    reserve_pages(fd, mapping)
                return mapping
            finally:
                syscalls.close(fd)
        except OSError as error:
            if error.errno in _LIMITS and not is_from_handler(error):
                size = format_bytes(size_bytes)
                why = f"a segment of {size} cannot be mapped: {explained(error)}"
                raise CapacityError(why, requested_bytes=size_bytes) from error
            raise
