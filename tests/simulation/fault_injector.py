"""What goes wrong besides processes that die in the middle of a system call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from simulation.kernel import Kernel
from simulation.scheduler import Machine, Process
from simulation.world import World

__all__ = ["FaultInjector"]

_PAGE: Final = 4096
_MS: Final = 1_000_000
# A registry that is stopped for longer than a link bears with it makes calls fail; then, and a while after, they may.
_LONG_STALL_NS: Final = 12_000 * _MS
_FAILED_START_NS: Final = 1_000 * _MS


class FaultInjector:
    """A task that kills, stops, severs and fills up."""

    def __init__(self, machine: Machine, kernel: Kernel, world: World) -> None:
        self.machine = machine
        self.kernel = kernel
        self.world = world
        self.counts: Counter[str] = Counter()
        self._random = random = machine.random
        self._stopped_ns = 0
        self._pause_s = random.choice((0.002, 0.02, 0.2))
        self._faults: list[Callable[[], None]] = [
            fault
            for fault in (
                self.kill_client,
                self.kill_registry,
                self.kill_many,
                self.stall_client,
                self.stall_registry,
                self.sever,
            )
            if random.getrandbits(1)
        ]
        if not random.randrange(4):
            kernel.disk.size_bytes = 2 * 2**20
            self._faults.append(self.fill)
        self._interrupts = random.choice((0, 0, 200, 40))
        kernel.sockets.queue_packets = random.choice((4, 16, 256))
        kernel.sockets.after_wait = self._interrupt
        kernel.on_failed_start = lambda: world.excuse(_FAILED_START_NS)
        for module_limit, choices in _LIMITS.items():
            kernel.limits[module_limit] = random.choice(choices)

    def run(self) -> None:
        """Cause one fault after another until `stop`."""
        while self._faults:
            self.machine.wait_s(self._random.expovariate(1 / self._pause_s))
            if self._faults:
                fault = self._random.choice(self._faults)
                self.counts[fault.__name__] += 1
                self.machine.note(fault.__name__)
                fault()

    def stop(self) -> None:
        """Cause no more, and undo what lasts."""
        self._faults.clear()
        if self.kernel.disk.is_tight:
            self._stopped_ns = self.machine.now_ns()
        self._interrupts = 0
        self.kernel.disk.others_bytes = 0
        self.kernel.disk.size_bytes = 2**40
        self.machine.resume_all()

    def is_filling(self) -> bool:
        """Whether /dev/shm may be full, or was just now: who waits for room there looks again after a while."""
        return self.kernel.disk.is_tight or self.machine.now_ns() < self._stopped_ns + 100 * _MS

    # --- faults -----------------------------------------------------------------------------------------------------------

    def kill_client(self) -> None:
        """SIGKILL one of them."""
        victims = self._clients()
        if victims:
            self.machine.kill(self._random.choice(victims))

    def kill_registry(self) -> None:
        """SIGKILL."""
        if self.kernel.registry is not None:
            self.machine.kill(self.kernel.registry)

    def kill_many(self) -> None:
        """The registry and some of its clients at once."""
        self.kill_registry()
        for victim in self._clients():
            if self._random.getrandbits(1):
                self.machine.kill(victim)

    def stall_client(self) -> None:
        """SIGSTOP one for a while."""
        victims = self._clients()
        if victims:
            self.machine.stall(self._random.choice(victims), self._random.choice((1, 15, 80, 700)) * _MS)

    def stall_registry(self) -> None:
        """SIGSTOP it for a while."""
        registry = self.kernel.registry
        if registry is not None and registry.alive:
            for_ns = self._random.choice((1, 15, 80, 1_500, 4_000)) * _MS
            if not self._random.randrange(12):
                for_ns = _LONG_STALL_NS
                self.world.excuse(2 * _LONG_STALL_NS)
            self.machine.stall(registry, for_ns)

    def sever(self) -> None:
        """End a connection under both ends."""
        connections = [end for end in self.kernel.sockets.connections if end.descriptor >= 0]
        if connections:
            self.kernel.sockets.sever(self._random.choice(connections))

    def fill(self) -> None:
        """Others fill up /dev/shm, and free some of it again."""
        disk = self.kernel.disk
        disk.others_bytes = 0
        if self._random.randrange(3):
            disk.others_bytes = max(disk.free_bytes() - self._random.randrange(12) * _PAGE, 0)

    def _interrupt(self) -> None:
        """Ctrl-C while a client waits."""
        process = self.machine.current.process
        if self._interrupts and process.name.startswith("client") and not self._random.randrange(self._interrupts):
            raise KeyboardInterrupt

    def _clients(self) -> list[Process]:
        return [process for process in self.machine.processes() if process.name.startswith(("client", "child"))]


# Limits that are rarely met in practice, and often here.
_LIMITS: Final[dict[str, tuple[int, ...]]] = {
    "notice_log.NOTICE_LOG_BYTES": (63 * 1024, 512),
    "ledger.COMPACT_FLOOR_BYTES": (256 * 1024, 2048),
    "loop._BACKLOG": (256, 3),
    "spares.KEEP_AFTER": (8, 0),
}
