"""The registry process: takes the lock, restores or begins the table, serves, and leaves nothing behind.

It is started by `shmlease.system.launch`, in a session of its own, without numpy; or runs in the foreground for
`shmlease serve`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from shmlease.core.limits import Limits
from shmlease.core.model import ClientState, EventKind, EventRow, RegistryRow
from shmlease.core.settings import Settings
from shmlease.core.snapshot import Snapshot
from shmlease.core.table import Table
from shmlease.errors import LeaseError, RegistryFaultError, RegistryUnavailableError
from shmlease.registry.file_store import FileStore
from shmlease.registry.log import ENVIRONMENT as LOG_ENVIRONMENT
from shmlease.registry.log import SILENT, RegistryLog, SilentLog
from shmlease.registry.loop import ACCEPT_WITH, Loop
from shmlease.registry.quarantine import Quarantine, is_suspect
from shmlease.registry.server import DESCRIPTORS_OF_CLIENT, RESERVED_DESCRIPTORS, Server
from shmlease.system import syscalls
from shmlease.system.clock import Clock, SystemClock
from shmlease.system.descriptors import descriptors_of
from shmlease.system.directory import RegistryDirectory
from shmlease.system.identity import own_identity
from shmlease.system.launch import LOCK_FD, REPORT_FD
from shmlease.system.ledger import Ledger
from shmlease.system.safe_open import FILE_MODE
from shmlease.system.shm_shortage import explained
from shmlease.system.surroundings import settle_in
from shmlease.system.work_log import WorkLog

__all__ = ["main", "serve"]

ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def serve(
    settings: Settings,
    lock_fd: int,
    ready: Callable[[], None],
    settle: Callable[[RegistryRow | None], Limits | None] = lambda _: None,
    log: SilentLog = SILENT,
    clock: Clock | None = None,
    ends_on: Sequence[int] = ENDING_SIGNALS,
) -> None:
    """Serve the registry `settings.id` until it is closed, stopped by a signal, or no longer needed.

    Parameters
    ----------
    settings : Settings
        How to run.
    lock_fd : int
        The registry's lock, held.
    ready : callable
        Called when clients can connect.
    settle : callable
        Called with what the predecessor left, or None: makes this process fit to serve, and tells what it may use.
    log : SilentLog
        Where it is told what goes on.
    clock : Clock
        The machine's if not given.
    ends_on : sequence of int
        Signals that end it in order.

    Raises
    ------
    OSError
        The socket or ledger could not be made.
    RegistryUnavailableError
        There is nothing to go on from, or the directory was removed: before the start, or while it served.
    RegistryFaultError
        It failed through a fault of its own, which is recorded; everything is left to a successor.
    """
    store = FileStore(settings.id, settings.root)
    if not store.is_locked_by(lock_fd):
        raise RegistryUnavailableError(f"{store.path} was removed before registry {settings.id} began; start it again")
    clock = clock or SystemClock()
    snapshot = _inheritance(store)
    previous = None if snapshot is None else snapshot.registry
    _require_a_beginning(store, settings, previous)
    row = _registry_row(settings, previous, settle(previous), clock.now_ns())
    serving = _Serving(store, row, snapshot, clock, log)
    if ends_on:
        serving.loop.stop_on(*ends_on)
    serving.loop.end_unless(lambda: store.is_locked_by(lock_fd))
    serving.run(ready)
    was_there = True
    try:
        if not serving.server.is_handed_over:
            serving.free_everything()
            was_there = store.is_locked_by(lock_fd)
            _remove(store, lock_fd)  # before the connections: a client that sees its connection end finds nothing left
    finally:
        serving.close()
        syscalls.close(lock_fd)
    if not was_there:
        raise RegistryUnavailableError(
            f"{store.path} was removed under registry {settings.id}, which has ended: its segments are gone but for what "
            "is mapped already. Find out who removes it (a cleaner of /dev/shm, or systemd-logind with RemoveIPC=yes when "
            "the user has logged out), and start it again"
        )


class _Serving:
    """The parts of a registry process put together, on what its predecessor left."""

    def __init__(self, store: FileStore, row: RegistryRow, snapshot: Snapshot | None, clock: Clock, log: SilentLog) -> None:
        self._store = store
        self._clock = clock
        self._log = log
        self._is_ready = False
        crash = log.watch_for_crashes()
        with store.entered() as directory:
            self._work = work = WorkLog(directory, is_suspect, has_crashed=bool(crash))
        inherited = f", the last one was at work on {work.last[-1]}" if work.last else ""
        self._quarantine = Quarantine(work, clock)
        self._table = Table(row, snapshot, clock.now_ns(), inherited)
        if crash:
            self._table.rows.record(clock.now_ns(), EventKind.FAULT, detail=crash)
        self.loop = Loop(_listen(store), clock)
        self._ledger = Ledger(store.ledger_path, self._table.rows.all_rows())
        log.committed(self._table.rows.take_changes())
        self.server = Server(self._table, store, self._ledger, self.loop, clock, self._quarantine, log.committed)
        self.loop.server = self.server

    def run(self, ready: Callable[[], None]) -> None:
        """Catch up with what was left, and serve until stopped; a fault of the registry's own is recorded."""
        try:
            self._recover()
            ready()
            self._is_ready = True
            self.loop.run()
        except Exception as error:
            if isinstance(error, LeaseError | OSError) and not self._is_ready:
                raise  # there was no room to start, or the like
            detail = self._record(error)
            raise RegistryFaultError(f"registry {self._table.rows.registry.id} failed: {detail}") from error

    def free_everything(self) -> None:
        """Give all names and memory back."""
        if not self._table.rows.registry.closing:
            self._table.ending.close(self._clock.now_ns())
        self.server.settle()

    def close(self) -> None:
        """Let go of everything that is open."""
        self.loop.close()
        self._ledger.close()
        self._store.close()
        self._log.close()

    def _recover(self) -> None:
        registry = self._table.rows.registry
        clients = [c for c in self._table.rows.clients.values() if c.state is not ClientState.ENDED]
        self.server.recover([c.id for c in clients if not self.loop.watch_client(c.id, c.identity)])
        if registry.limits is not None:
            _require_descriptors(registry, len(clients))
        if registry.owner is not None:
            self.loop.watch_owner(registry.owner)

    def _record(self, error: Exception) -> str:
        """Keep the traceback of `error` as an event, and nothing of what was being done; its first line."""
        self._work.failed()
        detail = self._log.fault(error, self._quarantine.last)
        event = EventRow(self._table.rows.next_event, self._clock.now_ns(), EventKind.FAULT, detail=detail)
        with contextlib.suppress(OSError):
            self._ledger.commit([event])
        self._log.changed(event)
        return detail.partition("\n")[0]


def _require_a_beginning(store: RegistryDirectory, settings: Settings, previous: RegistryRow | None) -> None:
    """Remove what cannot be gone on from.

    Raises
    ------
    RegistryUnavailableError
        There is nothing else.
    """
    if previous is None and settings.new is None:
        store.remove()
        raise RegistryUnavailableError(f"registry {settings.id} was killed before it began; what it left is removed now")
    if previous is not None and previous.closing:
        store.remove()
        raise RegistryUnavailableError(f"registry {settings.id} was closed; what it had left is removed now")


def _registry_row(settings: Settings, previous: RegistryRow | None, limits: Limits | None, now_ns: int) -> RegistryRow:
    row = previous or _row_to_begin_with(settings, now_ns)
    wanted = None if settings.in_foreground else row.wanted
    return replace(
        row,
        identity=own_identity(),
        epoch=row.epoch + 1,
        started_ns=now_ns,
        limits=limits,
        wanted=wanted or limits,
        cpus=row.cpus or tuple(os.sched_getaffinity(0)),
        ends_when_idle=row.owner is None and not settings.in_foreground,
    )


def _row_to_begin_with(settings: Settings, now_ns: int) -> RegistryRow:
    """The row of the predecessor that the first registry has not got."""
    new = settings.new
    assert new is not None
    return RegistryRow(
        settings.id,
        own_identity(),
        new.capacity_bytes,
        new.warm_limit_bytes,
        int(new.warm_idle_s * 1e9),
        0,
        now_ns,
        new.owner,
        name_key=os.urandom(16),
    )


def settle_as_successor(previous: RegistryRow | None) -> Limits:
    """What `serve` has a process do that a client has started."""
    return settle_in(None if previous is None else previous.wanted, () if previous is None else previous.cpus)


def _require_descriptors(row: RegistryRow, clients: int) -> None:
    """Refuse to serve without descriptors for a client; leave it to a process that may have more, if there are clients
    already.

    Raises
    ------
    RegistryUnavailableError
        It may not.
    """
    in_use, limit = descriptors_of()
    needed = in_use + RESERVED_DESCRIPTORS + DESCRIPTORS_OF_CLIENT
    if clients == 0 and needed > limit:
        raise RegistryUnavailableError(
            f"it may have {limit} descriptors open, and needs {needed} to serve a client (RLIMIT_NOFILE); raise `ulimit -n`"
        )
    is_short = in_use + clients + ACCEPT_WITH > limit
    if is_short and row.limits is not None and row.wanted is not None and row.limits.open_files < row.wanted.open_files:
        raise RegistryUnavailableError(
            f"{in_use} descriptors are in use and one is missing for each of {clients} clients, but the hard limit of what "
            f"this process starts is {limit} (RLIMIT_NOFILE)"
        )


def _inheritance(store: RegistryDirectory) -> Snapshot | None:
    """What a predecessor left; None if there is nothing to go on from."""
    try:
        snapshot = store.read_ledger()
    except FileNotFoundError:
        return None
    return snapshot if snapshot.registry is not None else None


def _remove(store: RegistryDirectory, lock_fd: int) -> None:
    """Remove the directory, unless a successor has begun in it since somebody removed the lock."""
    if store.is_locked_by(lock_fd):
        store.remove()
    elif (taken := store.lock()) is not None:
        store.remove()
        store.unlock(taken)


def _listen(store: RegistryDirectory) -> socket.socket:
    listener = syscalls.server_socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    beside = f"{store.socket_path}.new"
    try:
        syscalls.unlink(beside)  # of a predecessor that was killed here
    except FileNotFoundError:
        pass
    listener.bind(beside)
    syscalls.chmod(beside, FILE_MODE)
    listener.listen(512)
    syscalls.rename(beside, store.socket_path)  # whoever finds the socket finds it listening
    return listener


def main(settings: str) -> None:
    """Run as the process that `shmlease.system.launch` starts: settings as JSON, and its two descriptors."""
    report_fd = REPORT_FD
    os.umask(0o077)
    os.chdir("/")
    # the rest was blocked for the start; these are when there is something to end in order
    signal.pthread_sigmask(signal.SIG_SETMASK, ENDING_SIGNALS)

    def ready() -> None:
        nonlocal report_fd
        with contextlib.suppress(BrokenPipeError):  # who has started it was killed: as if it had been a moment later
            os.write(report_fd, b"ready")
        report_fd = -1
        null = syscalls.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        syscalls.close(null)

    try:
        decoded = msgspec.json.decode(settings, type=Settings)
        log = RegistryLog(RegistryDirectory(decoded.id, decoded.root), os.environ.get(LOG_ENVIRONMENT, ""))
        serve(decoded, LOCK_FD, ready, settle_as_successor, log)
    except Exception as error:
        if report_fd >= 0:
            why = explained(error, "it") if type(error) is OSError else str(error)
            with contextlib.suppress(BrokenPipeError):  # who has started it was killed, and nobody reads why it ends
                os.write(report_fd, f"{type(error).__name__}: {why}".encode())
        sys.exit(1)
