"""What is done to clients and registries: they are killed or stopped, /dev/shm is filled, rogues connect.

Each fault takes as long as its fault says, or until what it measures has happened, and leaves everything as it was but for
the dead.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec

from shmlease.system.forkserver import Process

__all__ = ["FAULTS", "Fault", "FaultInjector", "FaultKind", "Target", "stopped"]

_BALLAST: Final = "shmlease-stress-ballast"
# What is left when /dev/shm is "full": some small segments, no large one.
_LEFT_BYTES: Final = 128 * 1024


class FaultKind(enum.StrEnum):
    """What the fault injector may do."""

    KILL = "kill"  # SIGKILL a client; another takes its place
    STOP = "stop"  # SIGSTOP a client for a while
    REGISTRY = "registry"  # SIGKILL the registry, or stop it for a while
    SHM_FULL = "shm-full"  # fill /dev/shm for a while
    FORK = "fork"  # have a client fork under load
    SLOW_CLIENT = "slow-client"  # connections that are silent, send garbage, or never read
    CLOCK = "clock"  # stop everything, so that time passes for all at once


FAULTS: Final = tuple(FaultKind)


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """One fault: due `at_s` into the run, or, replayed, `after_operations` of all clients together."""

    kind: FaultKind
    target: int
    variant: int
    lasts_s: float
    at_s: float
    after_operations: int = 0


class Target(Protocol):
    """What the fault injector may touch; see `shmlease.verification.stress.run.Run`."""

    def rogue(self, variant: int) -> Process: ...
    def victim(self, target: int) -> Process: ...
    def registry_processes(self) -> list[Process]: ...
    def bystanders(self) -> list[Process]: ...
    def kill_client(self, target: int) -> None: ...
    def have_forked(self, target: int, variant: int) -> None: ...
    def wait_for_takeover(self, since_ns: int) -> None: ...
    def let_pass(self, seconds: float) -> None: ...


class FaultInjector:
    """Carries out faults on `target`.

    Parameters
    ----------
    target : Target
        The run.
    root : str
        The /dev/shm to be filled.
    """

    def __init__(self, target: Target, root: str = "/dev/shm") -> None:
        self._target = target
        self._root = root

    def strike(self, fault: Fault) -> None:
        """Carry out a fault."""
        _ACTIONS[fault.kind](self, fault)

    def _kill(self, fault: Fault) -> None:
        self._target.kill_client(fault.target)

    def _stop(self, fault: Fault) -> None:
        with stopped([self._target.victim(fault.target)]):
            self._target.let_pass(fault.lasts_s)

    def _registry(self, fault: Fault) -> None:
        processes = self._target.registry_processes()
        if fault.variant % 3 == 0:
            with stopped(processes):
                self._target.let_pass(fault.lasts_s)
            return
        since_ns = time.monotonic_ns()
        for process in processes:
            process.kill()
        self._target.wait_for_takeover(since_ns)
        if fault.variant % 3 == 1:  # and its successor at once
            for process in self._target.registry_processes():
                process.kill()
            self._target.wait_for_takeover(time.monotonic_ns())

    def _shm_full(self, fault: Fault) -> None:
        path = f"{self._root}/{_BALLAST}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # others may be quicker: then it is full already
                status = os.fstatvfs(fd)
                os.posix_fallocate(fd, 0, max(status.f_bavail * status.f_frsize - _LEFT_BYTES, 1))
            self._target.let_pass(fault.lasts_s)
        finally:
            os.unlink(path)
            os.close(fd)

    def _fork(self, fault: Fault) -> None:
        self._target.have_forked(fault.target, fault.variant)

    def _slow_client(self, fault: Fault) -> None:
        rogue = self._target.rogue(fault.variant)
        try:
            self._target.let_pass(fault.lasts_s)
        finally:
            rogue.close()

    def _clock(self, fault: Fault) -> None:
        """As on a machine that was suspended: deadlines pass while nobody runs."""
        with stopped([*self._target.bystanders(), *self._target.registry_processes()]):
            time.sleep(fault.lasts_s)


@contextlib.contextmanager
def stopped(processes: list[Process]) -> Iterator[None]:
    for process in processes:
        process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.signal(signal.SIGCONT)


_ACTIONS: Final[dict[FaultKind, Callable[[FaultInjector, Fault], None]]] = {
    FaultKind.KILL: FaultInjector._kill,
    FaultKind.STOP: FaultInjector._stop,
    FaultKind.REGISTRY: FaultInjector._registry,
    FaultKind.SHM_FULL: FaultInjector._shm_full,
    FaultKind.FORK: FaultInjector._fork,
    FaultKind.SLOW_CLIENT: FaultInjector._slow_client,
    FaultKind.CLOCK: FaultInjector._clock,
}
