"""The implementations of each seam, real and fake, that the same behaviour is asked of."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator

from simulation.kernel import Kernel
from simulation.scheduler import Machine

__all__ = ["RealSystem", "SimulatedSystem", "System", "real_system", "simulated_system"]


class System:
    """The system that `shmlease.system.syscalls` calls, and a directory on it."""

    def __init__(self, root: str) -> None:
        self.root = root

    def start_process(self) -> int:
        """The pid of another process, which does nothing."""
        raise NotImplementedError

    def kill(self, pid: int) -> None:
        """Let it die."""
        raise NotImplementedError


class RealSystem(System):
    """Linux."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._started: dict[int, subprocess.Popen[bytes]] = {}

    def start_process(self) -> int:
        process = subprocess.Popen(["sleep", "600"])
        self._started[process.pid] = process
        return process.pid

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self._started.pop(pid).wait()

    def end(self) -> None:
        """Kill those that are left."""
        for pid in list(self._started):
            self.kill(pid)


class SimulatedSystem(System):
    """The simulation's kernel, with the process of the test running on it."""

    def __init__(self, root: str, machine: Machine) -> None:
        super().__init__(root)
        self.machine = machine
        self.kernel = Kernel(machine, root)

    def start_process(self) -> int:
        process = self.machine.process("another")
        self.machine.start(process, lambda: self.machine.wait(lambda: False))
        return process.identity.pid

    def kill(self, pid: int) -> None:
        process = self.machine.find(pid)
        assert process is not None
        self.machine.kill(process)


@contextlib.contextmanager
def _directory() -> Iterator[str]:
    root = tempfile.mkdtemp(prefix="conformance-", dir="/dev/shm")
    try:
        yield root
    finally:
        shutil.rmtree(root)


@contextlib.contextmanager
def real_system() -> Iterator[System]:
    """A directory on this machine."""
    with _directory() as root:
        system = RealSystem(root)
        try:
            yield system
        finally:
            system.end()


@contextlib.contextmanager
def simulated_system() -> Iterator[SimulatedSystem]:
    """A simulated machine, on which what is in the block runs as a process."""
    with _directory() as root:
        machine = Machine("conformance")
        system = SimulatedSystem(root, machine)
        with system.kernel.installed(), machine.entered(machine.process("test")):
            yield system
