"""The simulated kernel: puts its system calls in place of the real ones under the code of shmlease, which is run unchanged.

What runs on it is the registry process with its loop, takeover included, and clients with their links: all but the
interpreter that `shmlease.system.launch` would start. While it is installed, nothing else in this Python process may use
shmlease.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final

from shmlease.client import endpoint
from shmlease.core.model import Identity
from shmlease.core.settings import Settings
from shmlease.errors import LeaseWarning, RegistryUnavailableError
from shmlease.registry import loop
from shmlease.registry import process as registry_process
from shmlease.system import directory, ledger, mapping, notice_log, owned_descriptor, registry_lock, safe_open, work_log
from simulation.files import Disk, Files, LockCalls, PunchCalls, ignore
from simulation.scheduler import FOR_EVER, Killed, Machine, Process, Stopped
from simulation.sockets import Pidfd, SelectCalls, SocketCalls

__all__ = ["Kernel"]

_MODULES: Final = {"notice_log": notice_log, "ledger": ledger, "loop": loop}
# A registry takes some 40 ms to start: Python, and what it imports.
_START_S: Final = (0.02, 0.08)


class _NoSignals:
    """Stands in for the module `signal`: processes die here, they are not asked to."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Kernel:
    """The system calls of one simulated machine, its files under `root`."""

    def __init__(self, machine: Machine, root: str) -> None:
        self.machine = machine
        self.disk = Disk(root)
        self.files = Files(machine, self.disk)
        self.sockets = SocketCalls(machine, self.files)
        self.registry: Process | None = None
        self.life_of_registry: Callable[[], int] = lambda: FOR_EVER
        self.on_failed_start: Callable[[], None] = ignore
        self.started = 0
        self.limits: dict[str, int] = {}  # "module.NAME" -> value in place of the real one

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Run the code of shmlease on this kernel."""
        select = SelectCalls(self.machine, self.files)
        replaced: list[tuple[Any, str, Any]] = [
            *(
                (module, "os", self.files)
                for module in (
                    directory,
                    endpoint,
                    notice_log,
                    ledger,
                    loop,
                    mapping,
                    owned_descriptor,
                    registry_process,
                    registry_lock,
                    safe_open,
                    work_log,
                )
            ),
            *((module, "socket", self.sockets) for module in (endpoint, registry_process)),
            (registry_lock, "_no_fork", contextlib.nullcontext()),  # each process has its own, and one thread
            (registry_lock, "_held", {}),
            *((module, "fcntl", LockCalls(self.machine)) for module in (directory, registry_lock)),
            (directory, "_libc", PunchCalls(self.machine, directory._libc)),
            (notice_log, "_stores_of", self.files.stores_of),
            (endpoint, "launch", self.launch),
            (endpoint, "complete", lambda work: work()),
            (endpoint, "peer_of", lambda connected: (connected.peer.owner.identity.pid, os.geteuid())),
            (loop, "select", select),
            (loop, "signal", _NoSignals()),
            (loop, "peer_of", lambda accepted: (accepted.peer.owner.identity.pid, os.geteuid())),
            (loop, "pidfd_of_peer", lambda accepted, _: self.files.register(Pidfd(accepted.peer.owner))),
            (loop, "identify", self._identify),
            (loop, "watch", self._watch),
            (registry_process, "own_identity", lambda: self.machine.current.process.identity),
            (registry_process, "SystemClock", lambda: self.machine),
            *((_MODULES[name.partition(".")[0]], name.partition(".")[2], value) for name, value in self.limits.items()),
        ]
        replaced.append((sys, "unraisablehook", self._unraisable))
        real = [(module, name, getattr(module, name)) for module, name, _ in replaced]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeaseWarning)
            try:
                for module, name, replacement in replaced:
                    setattr(module, name, replacement)
                yield
            finally:
                for module, name, value in real:
                    setattr(module, name, value)

    def _unraisable(self, unraisable: Any) -> None:
        """An exception in a finalizer; Python drops one that the user or the simulation raised."""
        if not isinstance(unraisable.exc_value, Killed | Stopped | KeyboardInterrupt):
            self.machine.report(unraisable.exc_value)

    def _identify(self, pid: int) -> Identity:
        self.machine.step()
        process = self.machine.find(pid)
        if process is None:
            raise ProcessLookupError(f"there is no process {pid}")
        return process.identity

    def _watch(self, identity: Identity) -> int | None:
        self.machine.step()
        process = self.machine.find(identity.pid, identity.start_ticks)
        return None if process is None else self.files.register(Pidfd(process))

    def launch(self, settings: Settings, lock_fd: int) -> None:
        """Start a registry process, as `shmlease.system.launch` does."""
        machine = self.machine
        self.started += 1
        process = machine.process(f"registry {self.started}", self.life_of_registry())
        inherited = self.files.dup_for(process, lock_fd)
        state = SimpleNamespace(ready=False, words="it said nothing")

        def ready() -> None:
            machine.step()
            state.ready = True
            self.registry = process

        def body() -> None:
            machine.wait_s(machine.random.uniform(*_START_S))
            try:
                registry_process.serve(settings, inherited, ready)
            except RegistryUnavailableError as error:
                state.words = str(error)
            except OSError as error:
                if error.errno != errno.ENOSPC or not self.disk.is_tight:
                    raise
                state.words = str(error)

        machine.start(process, body)
        machine.wait(lambda: state.ready or not process.alive, 30_000_000_000)
        if not state.ready:
            self.on_failed_start()
            raise RegistryUnavailableError(f"the registry process did not start: {state.words}")
