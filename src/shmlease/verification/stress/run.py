"""A stress run: clients at work under injected faults, and every few seconds a rest at which nothing may be left.

The run owns one registry and its clients. All it knows is what the clients write down, what the oracle sees in /dev/shm and
/proc, and how processes end. At a rest the fault injector pauses and every client releases all that it has; then the oracle
must see nothing, and the histories must show no broken promise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Final

import shmlease
from shmlease.system.forkserver import ForkServer, Process
from shmlease.verification.faults import Fault, FaultInjector, FaultKind
from shmlease.verification.history import read_history
from shmlease.verification.oracle import Oracle
from shmlease.verification.promises import Violation
from shmlease.verification.stress.client import TTL_S
from shmlease.verification.stress.clients import Clients, Ranges
from shmlease.verification.stress.generator import Schedule, fault
from shmlease.verification.stress.record import Record
from shmlease.verification.stress.verdict import Verdict

__all__ = ["Options", "Progress", "Run", "run"]

_TICK_S: Final = 0.005
_SAMPLE_EVERY_S: Final = 0.1
# How long anything may take that must happen at once: machines are loaded, and faults overlap.
_PATIENCE_S: Final = 20.0
_ALL: Final = 2**40  # operations, more than any run has
# The largest array is this share of the capacity: small enough that several fit, large enough that room is scarce.
_LARGEST_SHARE: Final = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    Attributes
    ----------
    seed, clients, capacity_bytes
        Of the workload.
    seconds, operations
        When to end: after a time, or after so many operations of each client.
    chaos : tuple of FaultKind
        Which faults are injected, one every `fault_every_s` seconds on average.
    rest_every_s : float
        How often everything is let go of, and looked at.
    is_private : bool
        Whether this /dev/shm is the run's alone: then it may be filled, and is accounted for to the byte.
    preload : tuple of str
        Modules that clients import first.
    replay : Schedule, optional
        Run this schedule: its seed, capacity, operations and faults instead of those above.
    """

    seed: int
    clients: int = 4
    capacity_bytes: int = 64 << 20
    seconds: float | None = 30.0
    operations: int | None = None
    chaos: tuple[FaultKind, ...] = ()
    fault_every_s: float = 0.25
    rest_every_s: float = 5.0
    is_private: bool = False
    preload: tuple[str, ...] = ()
    replay: Schedule | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """What a live display shows."""

    elapsed_s: float
    operations: int
    faults: int
    last_fault: str
    segments: int
    segment_bytes: int
    findings: int


class Run:
    """One run, from the first client to the verdict."""

    def __init__(self, options: Options, watch: Callable[[Progress], None] | None = None) -> None:
        self._options = options
        self._watch = watch
        replay = options.replay
        self._seed = replay.seed if replay else options.seed
        self._capacity_bytes = replay.capacity_bytes if replay else options.capacity_bytes
        everything = [(0, options.operations or _ALL)]
        ranges: Ranges = replay.ranges if replay else dict.fromkeys(range(options.clients), everything)
        self._directory = tempfile.mkdtemp(prefix="shmlease-stress-")
        self._registry = shmlease.Registry(self._capacity_bytes)
        self.registry_id = self._registry.id
        self._oracle = Oracle(self.registry_id, is_private=options.is_private)
        self._forkserver = ForkServer(
            ["shmlease.verification.stress.client_process", "shmlease.verification.rogues", *options.preload]
        )
        most_words = max(self._capacity_bytes // _LARGEST_SHARE // 8, 64)
        self._clients = Clients(self._forkserver, self._directory, self.registry_id, self._seed, most_words, ranges)
        self._injector = FaultInjector(self)
        self._registries: dict[int, Process] = {}
        self._record = Record()
        self._sampled_s = 0.0

    # --- the whole -----------------------------------------------------------------------------------------------------

    def run(self) -> Verdict:
        """Work, rest, work; then close, and look once more."""
        record = self._record
        try:
            self._clients.open_epoch()
            self._clients.start_all()
            if not self.registry_processes():  # then no fault would ever strike it
                raise shmlease.LeaseError(
                    f"no process of registry {self.registry_id} can be found among those of this system"
                )
            record.registry_bytes[0] = self._registry_memory()
            record.begin()
            try:
                self._work_and_rest()
            except (shmlease.RegistryFaultError, shmlease.RegistryUnavailableError) as error:
                record.find(Violation.UNEXPECTED_ERROR, "the coordinator", f"{type(error).__name__}: {error}")
            duration_s = record.now_s()
            record.registry_bytes[1] = self._registry_memory()
            self._end_clients()
            self._close_registry()
            schedule = Schedule(self._seed, self._capacity_bytes, self._clients.done(), record.struck)
            shared = [] if self._options.is_private else ["memory in use by no file: others use this /dev/shm too"]
            return record.verdict(schedule, duration_s, shared)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of everything, also after an interruption."""
        self._forkserver.close()
        self._clients.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", shmlease.LeaseWarning)
            with contextlib.suppress(shmlease.LeaseError):
                self._registry.close()
        for process in self._registries.values():
            process.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    # --- what the fault injector may do: see `faults.Target` ---

    def rogue(self, variant: int) -> Process:
        """A process that misbehaves at the registry's socket until it is closed."""
        return self._forkserver.fork(
            "shmlease.verification.rogues:run", f"/dev/shm/shmlease-{self.registry_id}/socket", variant
        )

    def victim(self, target: int) -> Process:
        """The client that `target` means."""
        return self._clients.target(target).child

    def registry_processes(self) -> list[Process]:
        """Who serves the registry now."""
        for pid in self._oracle.registry_pids() - self._registries.keys():
            with contextlib.suppress(ProcessLookupError):
                self._registries[pid] = Process(pid)
        return [process for process in self._registries.values() if process.is_alive]

    def bystanders(self) -> list[Process]:
        """Every client."""
        return [worker.child for worker in self._clients.all()]

    def kill_client(self, target: int) -> None:
        """SIGKILL; the time until its beacon is gone is the time to reclaim; then another goes on with its operations."""
        worker = self._clients.target(target)
        since_s = self._record.now_s()
        worker.child.kill()
        while worker.beacon_inode and self._oracle.has_inode(worker.beacon_inode):
            waited_s = self._record.now_s() - since_s
            if waited_s > _PATIENCE_S:
                self._record.find(
                    Violation.LEAK, str(worker), f"its segments were not reclaimed {waited_s:.1f} s after SIGKILL"
                )
                break
            if waited_s > 0.01:  # the registry may have been killed as well: somebody has to call it
                self._registry.statistics()
            time.sleep(0.0002)
        else:
            self._record.reclaims_s.append((since_s, self._record.now_s() - since_s))
        self._clients.replace(worker)

    def have_forked(self, target: int, variant: int) -> None:
        """Order a client to fork."""
        self._clients.order(self._clients.target(target), "fork", variant)

    def wait_for_takeover(self, since_ns: int) -> None:
        """Until a successor of a registry that was killed at `since_ns` has answered."""
        self._registry.statistics()
        self._record.takeovers_s.append((self._record.now_s(), (time.monotonic_ns() - since_ns) / 1e9))

    def let_pass(self, seconds: float) -> None:
        """Time passes, and the clients go on."""
        end_s = self._record.now_s() + seconds
        while self._record.now_s() < end_s:
            self._attend()

    def _work_and_rest(self) -> None:
        """Until the run is over, or has failed: to go on would only make its schedule longer."""
        while True:
            is_over = self._work()
            self._rest()
            if is_over or self._record.findings:
                return
            self._clients.open_epoch()
            self._tell_all("go", self._clients.epoch)

    # --- work ----------------------------------------------------------------------------------------------------------

    def _work(self) -> bool:
        """Until the next rest; whether the run is over."""
        options, record = self._options, self._record
        rest_at_s = record.now_s() + options.rest_every_s
        ends_s = options.seconds if options.replay is None else None
        while not self._clients.is_through and (ends_s is None or record.now_s() < ends_s):
            due = self._due_fault()
            if due is not None:
                record.strike(due, self._clients.operations())
                self._injector.strike(due)
            elif record.now_s() >= rest_at_s:
                return False
            self._attend()
        return True

    def _due_fault(self) -> Fault | None:
        options, struck = self._options, self._record.struck
        if options.replay is not None:
            left = options.replay.faults[len(struck) :]
            return left[0] if left and left[0].after_operations <= self._clients.operations() else None
        if not options.chaos:
            return None
        previous_s = struck[-1].at_s if struck else 0.0
        due = fault(options.seed, len(struck), options.chaos, previous_s, options.fault_every_s)
        return due if due.at_s <= self._record.now_s() else None

    def _attend(self) -> None:
        """Hear what clients say, notice who has died, take samples."""
        for worker in self._clients.hear(_TICK_S):
            worker.child.wait_end(_PATIENCE_S)
            self._record.find(Violation.DEATH, str(worker), f"it ended with code {self._clients.replace(worker)}")
        now_s = self._record.now_s()
        if now_s - self._sampled_s < _SAMPLE_EVERY_S:
            return
        self._sampled_s = now_s
        seen, operations, struck = self._oracle.sample(), self._clients.operations(), self._record.struck
        self._record.sample(seen, operations)
        if seen.segment_bytes > self._capacity_bytes:
            self._record.find(Violation.CAPACITY, "the registry", f"{seen.segment_bytes} bytes in use")
        if self._watch is not None:
            last = struck[-1].kind if struck else ""
            findings = len(self._record.findings)
            self._watch(Progress(now_s, operations, len(struck), last, seen.segments, seen.segment_bytes, findings))

    # --- rest and end ----------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Everybody lets go; nothing may be left, and nothing may have gone wrong."""
        self._tell_all("quiet")
        self._tell_all("rest")
        self._record.rests += 1
        deadline_s = self._record.now_s() + TTL_S + _PATIENCE_S  # tickets whose readers were killed have to expire
        while True:
            self._registry.trim()
            self._tell_all("call")
            leaks = self._oracle.leaks_at_rest(len(self._clients) + 1)
            if not leaks or self._record.now_s() > deadline_s:
                break
            time.sleep(0.02)
        for leak in leaks:
            self._record.find(Violation.LEAK, "at rest", leak)
        self._record.history(read_history(self._clients.history))
        shutil.rmtree(self._clients.history)

    def _tell_all(self, order: str, *rest: int) -> None:
        """Give an order, and wait until all have obeyed; who does not is stuck, and killed."""
        self._clients.order_all(order, *rest)
        deadline_s = self._record.now_s() + _PATIENCE_S + TTL_S
        while self._clients.late() and self._record.now_s() < deadline_s:
            self._attend()
        for worker in self._clients.late():
            self._record.find(Violation.STUCK, str(worker), f"it did not answer to {order!r} and was killed")
            worker.child.kill()
            self._clients.reap(worker)

    def _end_clients(self) -> None:
        for worker in self._clients.all():
            worker.connection.send(("end",))
        for worker in self._clients.all():
            if not worker.child.wait_end(_PATIENCE_S):
                self._record.find(Violation.STUCK, str(worker), f"it did not end within {_PATIENCE_S:g} s")
                worker.child.kill()
            code = self._clients.reap(worker)
            if code not in (0, -signal.SIGKILL):
                self._record.find(Violation.DEATH, str(worker), f"it ended with code {code}")

    def _close_registry(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", shmlease.LeaseWarning)
            try:
                self._registry.close()
            except shmlease.LeaseWarning as held:
                self._record.find(Violation.LEAK, "at the end", str(held))
            except shmlease.LeaseError as error:  # of a registry that cannot even close: the verdict has that, too
                self._record.find(Violation.UNEXPECTED_ERROR, "at the end", f"{type(error).__name__}: {error}")
        deadline_s = self._record.now_s() + _PATIENCE_S
        while (left := self._oracle.leaks_after_end(set(self._registries))) and self._record.now_s() < deadline_s:
            time.sleep(0.01)
        for leak in left:
            self._record.find(Violation.LEAK, "after the end", leak)

    def _registry_memory(self) -> int:
        return max((self._oracle.resident_bytes(process.pid) for process in self.registry_processes()), default=0)


def run(options: Options, watch: Callable[[Progress], None] | None = None) -> Verdict:
    """Run, and judge."""
    return Run(options, watch).run()
