"""The simulated kernel: puts its system calls in place of the real ones under the code of shmlease, which is run unchanged.

What runs on it is the registry process with its loop, takeover included, and clients with their links: all but the
interpreter that `shmlease.system.launch` would start. While it is installed, nothing else in this Python process may use
shmlease.
"""

from __future__ import annotations

import contextlib
import errno
import sys
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final

from shmlease.client import spares
from shmlease.core.settings import Settings
from shmlease.errors import LeaseWarning, RegistryUnavailableError
from shmlease.registry import loop
from shmlease.registry import process as registry_process
from shmlease.system import ledger, notice_log, syscalls
from simulation.files import Disk, Files, ignore
from simulation.scheduler import FOR_EVER, Killed, Machine, Process, Stopped
from simulation.sockets import SocketCalls

__all__ = ["Kernel"]

_MODULES: Final = {"notice_log": notice_log, "ledger": ledger, "loop": loop, "spares": spares}
# A registry takes some 40 ms to start: Python, and what it imports.
_START_S: Final = (0.02, 0.08)


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

    def calls(self) -> dict[str, Any]:
        """What takes the place of `shmlease.system.syscalls`, by name; what decides nothing is left to the real ones."""
        simulated = {
            name: getattr(part, name)
            for part in (self.files, self.sockets)
            for name in syscalls.__all__
            if hasattr(part, name)
        }
        # each process has one thread, and forks nothing
        return {**simulated, "fork_lock": contextlib.nullcontext()}

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Run the code of shmlease on this kernel."""
        calls = self.calls()
        replaced: list[tuple[Any, str, Any]] = [
            *((syscalls, name, call) for name, call in calls.items()),
            *((_MODULES[name.partition(".")[0]], name.partition(".")[2], value) for name, value in self.limits.items()),
            (sys, "unraisablehook", self._unraisable),
        ]
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
                registry_process.serve(settings, inherited, ready, clock=machine, ends_on=())
            except RegistryUnavailableError as error:
                state.words = str(error)
            except OSError as error:
                if error.errno != errno.ENOSPC:  # nor does the disk have to be tight still
                    raise
                state.words = str(error)

        machine.start(process, body)
        machine.wait(lambda: state.ready or not process.alive, 30_000_000_000)
        if not state.ready:
            self.on_failed_start()
            raise RegistryUnavailableError(f"the registry process did not start: {state.words}")
