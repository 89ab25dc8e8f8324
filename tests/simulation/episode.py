"""One registry from its start to its end: clients at work while things go wrong, then calm, then nothing left."""

from __future__ import annotations

import dataclasses
import os
import traceback
from collections import Counter
from typing import Final

from shmlease.client.handle import RegistryHandle
from shmlease.core import messages as m
from shmlease.core.model import client_of
from shmlease.core.settings import NewRegistry, Settings
from shmlease.system.directory import RegistryDirectory
from shmlease.verification.promises import Violation
from simulation.actors import Client
from simulation.fairness import Queue
from simulation.fault_injector import FaultInjector
from simulation.kernel import Kernel
from simulation.oracle import Oracle
from simulation.rogue import Rogue
from simulation.scheduler import FOR_EVER, Machine, Process
from simulation.world import World

__all__ = ["Episode", "Outcome"]

_PAGE: Final = 4096
_ID: Final = "sim"
_WARM_IDLE_S: Final = 0.2
# Longer than any ticket is good, any reader is waited for and any warm segment kept.
_LONG_S: Final = 2.0
_AT_REST_WITHIN_S: Final = 120.0


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one episode; `violation` says which promise was broken, `trace` what happened before."""

    steps: int
    simulated_s: float
    counts: Counter[str]
    violation: str = ""
    trace: tuple[str, ...] = ()


class Episode:
    """The life of one registry on a machine of its own.

    Parameters
    ----------
    seed : str
        Decides everything.
    steps : int
        System calls after which calm begins.
    root : str
        An empty directory for its files.
    """

    def __init__(self, seed: str, steps: int, root: str) -> None:
        machine = self.machine = Machine(seed)
        choice = machine.random.choice
        self.steps = steps
        machine.most_steps = 20 * steps + 100_000
        self.root = root
        self.capacity_bytes = choice((6, 9, 14, 24)) * _PAGE
        self.directory = RegistryDirectory(_ID, root)
        self.oracle = Oracle(machine, self.directory.path, self.capacity_bytes)
        self.queue = Queue(machine)
        self.kernel = Kernel(machine, root)
        # some episodes are quiet, so that what takes many steps in peace happens as well
        self.registry_life = choice((150, 600, 2_000, 6_000, FOR_EVER))
        self.client_life = choice((600, 3_000, 10_000, FOR_EVER))
        self.world = World(machine, self.oracle, _ID, root, self._life_of_client, self.kernel.launch)
        self.injector = FaultInjector(machine, self.kernel, self.world)
        self.population = machine.random.randrange(2, 7)
        self.has_rogue = not machine.random.randrange(6)
        self.clients: list[Process] = []
        self.counts: Counter[str] = Counter()
        self._watch()

    def run(self) -> Outcome:
        """Live through it."""
        machine = self.machine
        machine.start(machine.process("conductor"), self._conduct)
        with self.kernel.installed():
            machine.run()
        why = machine.failure
        violation = f"{type(why).__name__}: {why}" if isinstance(why, BaseException) else why or ""
        trace = [f"{step:>7} {at_ns / 1e6:>12.3f} ms  {who:<20} {what}" for step, at_ns, who, what in machine.trace]
        if isinstance(why, BaseException):
            trace += traceback.format_exception(why)
        self.counts["registry processes"] = self.kernel.started
        self.counts.update({fault.replace("_", " "): count for fault, count in self.injector.counts.items()})
        return Outcome(machine.steps, machine.elapsed_s(), self.counts, violation, tuple(trace) if violation else ())

    # --- the course of events -----------------------------------------------------------------------------------------

    def _conduct(self) -> None:
        machine, world = self.machine, self.world
        owner = machine.process("owner") if machine.random.getrandbits(1) else None
        if owner is not None:
            machine.start(owner, lambda: machine.wait(lambda: world.over))
        self._begin(owner)
        machine.start(machine.process("fault injector"), self.injector.run)
        if self.has_rogue:
            process = machine.process("rogue")
            machine.start(process, Rogue(self.world, process).live)
        while machine.steps < self.steps:
            self._populate()
            machine.wait_s(0.003)
        sudden = owner is None and not machine.random.getrandbits(2)
        self._stop_faults()
        if not sudden:
            self._calm_down()
        link = world.link(machine.current.process)
        if owner is None:
            self.oracle.closing = True
            link.request(m.Closed, m.Close)
            link.end()
            world.over = True
        else:
            world.over = True
        machine.wait(lambda: not os.path.exists(self.directory.path), 10_000_000_000)
        self._expect_nothing(self.root)
        machine.wait(lambda: not any(process.alive for process in self.clients), 60_000_000_000)
        machine.stop()

    def _begin(self, owner: Process | None) -> None:
        self.directory.create()
        lock_fd = self.directory.lock()
        assert lock_fd is not None
        warm_bytes = self.machine.random.choice((self.capacity_bytes // 2, self.capacity_bytes))
        new = NewRegistry(self.capacity_bytes, warm_bytes, _WARM_IDLE_S, None if owner is None else owner.identity)
        self.kernel.launch(Settings(_ID, self.root, new), lock_fd)
        self.directory.unlock(lock_fd)

    def _populate(self) -> None:
        self.clients = [process for process in self.clients if process.alive]
        while len(self.clients) < self.population:
            self.counts["clients"] += 1
            process = self.machine.process(f"client {self.counts['clients']}", self._life_of_client())
            client = Client(self.world, process)
            self.machine.start(process, client.live)
            self.clients.append(process)

    def _stop_faults(self) -> None:
        """From now on nothing goes wrong."""
        self.injector.stop()
        self.registry_life = self.client_life = FOR_EVER
        for process in self.machine.processes():
            process.life = FOR_EVER

    def _calm_down(self) -> None:
        """Everybody lets go: then nothing may be left."""
        machine, world = self.machine, self.world
        world.calm = True
        busy = [process for process in machine.processes() if process.name.startswith(("client", "child"))]
        machine.wait(
            lambda: not any(process.alive and process not in world.resting for process in busy),
            int(_AT_REST_WITHIN_S * 1e9),
        )
        late = [process for process in busy if process.alive and process not in world.resting]
        if late:
            machine.fail(
                f"promise broken: {Violation.STUCK}: {late} still wait {_AT_REST_WITHIN_S:.0f} s after the last fault"
            )
        handle = RegistryHandle(world.link(machine.current.process))
        handle.statistics()  # if the registry is dead, this sees to a successor
        machine.wait_s(_LONG_S)
        figures = handle.statistics()
        used = self.oracle.in_use()
        if used:
            machine.fail(f"the simulation is wrong: at rest, and still in use: {used}")
        if any(figures.segments.values()) or figures.tickets or any(figures.leases.values()) or figures.waiting:
            machine.fail(f"promise broken: {Violation.LEAK}: nobody holds anything, and the table has {figures}")
        notice_logs = [f"j{number}" for number in world.client_ids()]
        self._expect_nothing(self.directory.path, ("lock", "ledger", "socket", "work", *notice_logs))
        handle._link.close()

    def _expect_nothing(self, path: str, but: tuple[str, ...] = ()) -> None:
        """Fail if there is more in `path` than `but`.

        An empty token whose maker was killed before it had said so stays until the registry ends; it holds nothing.
        """
        if not os.path.isdir(path):
            return
        living = self.world.client_ids()
        left = [
            name
            for name in sorted(os.listdir(path))
            if name not in but and not (name.startswith("t") and client_of(int(name[1:].partition(".")[0])) not in living)
        ]
        if left:
            self.machine.fail(f"promise broken: {Violation.LEAK}: nobody holds anything, and {path} has {left}")

    # --- parts --------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        files, sockets = self.kernel.files, self.kernel.sockets
        files.on_segment_made = self.oracle.segment_made
        files.on_segment_unlinked = self.oracle.segment_unlinked
        files.on_renamed = self.oracle.renamed
        sockets.on_read = self.queue.was_read
        sockets.on_sent = self.queue.was_sent
        sockets.on_hung_up = self.queue.hung_up
        self.machine.when_idle = self._idle
        self.kernel.life_of_registry = self._life_of_registry

    def _idle(self) -> None:
        """Everybody waits: if that is for room, there must be none."""
        registry = self.kernel.registry
        if registry is None or not registry.alive or self.machine.is_stalled(registry) or self.injector.is_filling():
            return
        self.queue.judge()
        if self.has_rogue:  # who may be first in line, and want too much
            return
        first, used = self.queue.first(), sum(self.oracle.files.values())
        if first is not None and used + first.size_bytes <= self.capacity_bytes:
            self.machine.report(
                f"promise broken: {Violation.UNFAIR}: {first.client} waits for {first.size_bytes} bytes, first in line, "
                f"and {used} of {self.capacity_bytes} are in use"
            )

    def _life_of_registry(self) -> int:
        if self.registry_life == FOR_EVER:
            return FOR_EVER
        mean = self.registry_life if self.machine.random.randrange(6) else 60  # some die while they take over
        return int(self.machine.random.expovariate(1 / mean)) + (300 if self.kernel.started == 1 else 1)

    def _life_of_client(self) -> int:
        if self.client_life == FOR_EVER:
            return FOR_EVER
        return 1 + int(self.machine.random.expovariate(1 / self.client_life))
