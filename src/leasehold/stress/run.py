"""A stress run: clients at work, a nemesis among them, and every few seconds a rest in which nothing may be left.

The run owns one registry and a nursery of clients. It hears of nothing but what its clients write down, what the oracle sees in
/dev/shm and /proc, and how processes end. At a rest the nemesis pauses, every client lets go of all it has, and then what the
oracle sees must be nothing, and what the judge finds in the histories no broken promise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
import shutil
import signal
import struct
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from multiprocessing.connection import Listener, wait
from typing import Any, Final

import msgspec
import numpy as np

import leasehold
from leasehold.stress.client import TTL_S, Assignment
from leasehold.stress.history import read_history
from leasehold.stress.judge import Finding, judge
from leasehold.stress.nemesis import Nemesis
from leasehold.stress.nursery import Child, Nursery, Process
from leasehold.stress.oracle import Oracle
from leasehold.stress.plan import Fault, FaultKind, Schedule, fault
from leasehold.stress.verdict import Broken, Latency, Moment, Verdict, latency_of

__all__ = ["Options", "Progress", "Run", "run"]

_COUNT: Final = struct.Struct("<Q")
_TICK_S: Final = 0.005
_SAMPLE_EVERY_S: Final = 0.1
# How long anything may take that must happen at once: machines are loaded, and faults overlap.
_PATIENCE_S: Final = 20.0
_ALL: Final = 2**40  # operations, more than any run has


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
        What the nemesis does, one deed every `fault_every_s` seconds on average.
    rest_every_s : float
        How often everything is let go of, and looked at.
    is_private : bool
        Whether this /dev/shm is the run's alone: then it may be filled, and is accounted for to the byte.
    preload : tuple of str
        Modules that clients import first.
    replay : Schedule, optional
        Run this schedule instead of what the seed says.
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


@dataclasses.dataclass(slots=True)
class _Client:
    """One client as its coordinator knows it."""

    number: int
    incarnation: int
    child: Child
    connection: Any
    beacon_inode: int
    is_through: bool = False
    owes: int = 0  # answers to orders


class Run:
    """One run, from the first client to the verdict."""

    def __init__(self, options: Options, watch: Callable[[Progress], None] | None = None) -> None:
        self.options = options
        self._watch = watch
        self._ground = tempfile.mkdtemp(prefix="leasehold-stress-")
        self._registry = leasehold.Registry(options.capacity_bytes)
        self.registry_id = self._registry.id
        self._directory = f"/dev/shm/lh-{self.registry_id}"
        self._oracle = Oracle(self._registry.id, is_private=options.is_private)
        self._nursery = Nursery(["leasehold.stress.client", "leasehold.stress.strangers", *options.preload])
        self._listener = Listener(f"{self._ground}/coordinator", "AF_UNIX", backlog=64)
        self._nemesis = Nemesis(self)
        self._clients: dict[int, _Client] = {}
        self._epoch = 0
        self._registries: dict[int, Process] = {}
        self._begin_ns = time.monotonic_ns()
        self._findings: list[Finding] = []
        self._outcomes: Counter[str] = Counter()
        self._durations: defaultdict[str, list[np.ndarray[Any, Any]]] = defaultdict(list)
        self._struck: list[Fault] = []
        self._reclaims: list[tuple[float, float]] = []
        self._takeovers: list[tuple[float, float]] = []
        self._moments: list[Moment] = []
        self._peak_bytes = 0
        self._rests = 0
        self._sampled_s = self._shown_s = 0.0
        self._registry_bytes = (0, 0)
        replay = options.replay
        everything = [(0, options.operations or _ALL)]
        self._ranges = replay.ranges if replay else dict.fromkeys(range(options.clients), everything)
        for box in self._ranges:
            os.makedirs(f"{self._ground}/mail/{box}")
        with open(f"{self._ground}/progress", "wb") as file:
            file.write(bytes(_COUNT.size * (max(self._ranges) + 1)))
        with open(f"{self._ground}/progress", "r+b") as file:
            self._progress = mmap.mmap(file.fileno(), 0)

    # --- the whole -----------------------------------------------------------------------------------------------------

    def run(self) -> Verdict:
        """Work, rest, work; then close, and look once more."""
        try:
            self._open_epoch()
            for number in self._ranges:
                self._start(number, 0)
            self._know_registries()
            first = self._registry_memory()
            self._begin_ns = time.monotonic_ns()
            while True:
                is_over = self._work()
                self._rest()
                if is_over or self._is_hopeless():
                    break
                self._go_on()
            duration_s = self._now_s()
            self._registry_bytes = (first, self._registry_memory())
            self._end_clients()
            self._close_registry()
            return self._verdict(duration_s)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of everything, also after an interruption."""
        self._nursery.close()
        for client in self._clients.values():
            client.connection.close()
        self._clients.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", leasehold.LeaseholdWarning)
            with contextlib.suppress(leasehold.LeaseholdError):
                self._registry.close()
        for process in self._registries.values():
            process.close()
        self._listener.close()
        self._progress.close()
        shutil.rmtree(self._ground, ignore_errors=True)

    # --- what the nemesis may do: see `leasehold.stress.nemesis.Scene` ----------------------------------------------------

    def stranger(self, variant: int) -> Process:
        """A process that misbehaves at the registry's socket until it is closed."""
        return self._nursery.fork("leasehold.stress.strangers:run", f"{self._directory}/socket", variant)

    def victim(self, target: int) -> Process:
        """The client that `target` means."""
        return self._target(target).child

    def registry_processes(self) -> list[Process]:
        """Who serves the registry now."""
        self._know_registries()
        return [process for process in self._registries.values() if process.is_alive]

    def bystanders(self) -> list[Process]:
        """Every client."""
        return [client.child for client in self._clients.values()]

    def kill_client(self, target: int) -> None:
        """SIGKILL; the time until its beacon is gone is the time to reclaim; then another goes on with its operations."""
        client = self._target(target)
        since_ns = time.monotonic_ns()
        client.child.kill()
        while client.beacon_inode and self._oracle.has_inode(client.beacon_inode):
            waited_s = (time.monotonic_ns() - since_ns) / 1e9
            if waited_s > _PATIENCE_S:
                self._find(
                    "leak", f"client {client.number}", f"its segments were not reclaimed {waited_s:.1f} s after SIGKILL"
                )
                break
            if waited_s > 0.01:  # also the registry may have been killed: somebody has to call it
                self._registry.statistics()
            time.sleep(0.0002)
        else:
            self._reclaims.append((self._now_s(), (time.monotonic_ns() - since_ns) / 1e9))
        self._bury(client)
        self._start(client.number, client.incarnation + 1)

    def have_forked(self, target: int, variant: int) -> None:
        """Order a client to fork."""
        self._order(self._target(target), "fork", variant)

    def wait_for_takeover(self, since_ns: int) -> None:
        """Until a successor of a registry that was killed at `since_ns` has answered."""
        self._registry.statistics()
        self._takeovers.append((self._now_s(), (time.monotonic_ns() - since_ns) / 1e9))
        self._know_registries()

    def let_pass(self, seconds: float) -> None:
        """Time passes, and the clients go on."""
        end_s = self._now_s() + seconds
        while self._now_s() < end_s:
            self._attend()

    # --- work ----------------------------------------------------------------------------------------------------------

    def _work(self) -> bool:
        """Until the next rest; whether the run is over."""
        rest_at_s = self._now_s() + self.options.rest_every_s
        while True:
            now_s = self._now_s()
            if all(client.is_through for client in self._clients.values()):
                return True
            if self.options.seconds is not None and now_s >= self.options.seconds and self.options.replay is None:
                return True
            due = self._due_fault()
            if due is not None:
                self._struck.append(msgspec.structs.replace(due, at_s=now_s, after_operations=self._operations()))
                self._nemesis.strike(due)
            elif now_s >= rest_at_s:
                return False
            self._attend()

    def _due_fault(self) -> Fault | None:
        options, done = self.options, len(self._struck)
        if options.replay is not None:
            faults = options.replay.faults
            return faults[done] if done < len(faults) and faults[done].after_operations <= self._operations() else None
        if not options.chaos:
            return None
        previous_s = self._struck[-1].at_s if self._struck else 0.0
        due = fault(options.seed, done, options.chaos, previous_s, options.fault_every_s)
        return due if due.at_s <= self._now_s() else None

    def _attend(self) -> None:
        """Hear what clients say, notice who has died, take samples."""
        for connection in wait([client.connection for client in self._clients.values()], _TICK_S):
            client = next(client for client in self._clients.values() if client.connection is connection)
            self._hear(client)
        now_s = self._now_s()
        if now_s - self._sampled_s >= _SAMPLE_EVERY_S:
            self._sampled_s = now_s
            seen = self._oracle.sample()
            self._peak_bytes = max(self._peak_bytes, seen.segment_bytes)
            self._moments.append(Moment(round(now_s, 3), self._operations(), seen.segment_bytes, seen.segments))
            if seen.segment_bytes > self.options.capacity_bytes:
                self._find("leak", "the registry", f"{seen.segment_bytes} bytes in use, beyond its capacity")
            self._show(seen.segments, seen.segment_bytes)

    def _hear(self, client: _Client) -> None:
        try:
            said, inode = client.connection.recv()
        except (EOFError, ConnectionResetError):
            client.child.wait_end(_PATIENCE_S)
            code = self._bury(client)
            self._find("death", f"client {client.number}", f"it ended with code {code}")
            self._start(client.number, client.incarnation + 1)
            return
        if said == "through":
            client.is_through = True
            return
        client.owes -= 1
        client.beacon_inode = inode or client.beacon_inode

    # --- rest ----------------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Everybody lets go; nothing may be left, and nothing may have gone wrong."""
        self._order_all("quiet")
        self._order_all("rest")
        self._rests += 1
        deadline_s = self._now_s() + TTL_S + _PATIENCE_S
        while True:
            self._registry.trim()
            self._order_all("call")
            leaks = self._oracle.leaks_at_rest(len(self._clients) + 1)
            if not leaks or self._now_s() > deadline_s:
                break
            time.sleep(0.02)
        for leak in leaks:
            self._find("leak", "at rest", leak)
        self._judge()

    def _judge(self) -> None:
        events = list(read_history(f"{self._ground}/history/{self._epoch}"))
        durations: defaultdict[str, list[int]] = defaultdict(list)
        for event in events:
            act = event.act
            if event.is_finished:
                self._outcomes[act.what + (f": {act.outcome}" if act.outcome else "")] += 1
                if not act.outcome:
                    durations[act.what].append(act.end_ns - act.begin_ns)
            else:
                self._outcomes[f"{act.what}: cut short"] += 1
        for what, nanoseconds in durations.items():
            self._durations[what].append(np.array(nanoseconds) / 1e9)
        self._findings += judge(events)
        shutil.rmtree(f"{self._ground}/history/{self._epoch}")

    def _is_hopeless(self) -> bool:
        """A run that has failed is not gone on with: what comes after is of no use, and its schedule only longer."""
        return bool(self._findings)

    def _go_on(self) -> None:
        self._open_epoch()
        self._order_all("go", self._epoch)

    def _open_epoch(self) -> None:
        self._epoch += 1
        os.makedirs(f"{self._ground}/history/{self._epoch}")

    def _end_clients(self) -> None:
        for client in self._clients.values():
            client.connection.send(("end",))
        for client in list(self._clients.values()):
            if not client.child.wait_end(_PATIENCE_S):
                self._find("death", f"client {client.number}", f"it did not end within {_PATIENCE_S:g} s")
                client.child.kill()
            code = self._bury(client)
            if code not in (0, -signal.SIGKILL):
                self._find("death", f"client {client.number}", f"it ended with code {code}")

    def _close_registry(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", leasehold.LeaseholdWarning)
            try:
                self._registry.close()
            except leasehold.LeaseholdWarning as held:
                self._find("leak", "at the end", str(held))
        deadline_s = self._now_s() + _PATIENCE_S
        while (left := self._oracle.leaks_after_end(set(self._registries))) and self._now_s() < deadline_s:
            time.sleep(0.01)
        for leak in left:
            self._find("leak", "after the end", leak)

    # --- parts ---------------------------------------------------------------------------------------------------------

    def _start(self, number: int, incarnation: int) -> None:
        done = _COUNT.unpack_from(self._progress, number * _COUNT.size)[0]
        # the operation that its predecessor died in is not done again
        ranges = _after(self._ranges[number], done + 1 if incarnation else 0)
        assignment = Assignment(
            number,
            incarnation,
            max(self._ranges) + 1,
            self._seed(),
            self._most_words(),
            self._ground,
            self._registry.id,
            ranges,
        )
        child = self._nursery.fork(
            "leasehold.stress.client:run",
            str(self._listener.address),
            msgspec.json.encode(assignment).decode(),
            self._epoch,
        )
        connection = self._listener.accept()
        _, _, pid, inode = connection.recv()
        assert pid == child.pid
        self._clients[number] = _Client(number, incarnation, child, connection, inode)

    def _bury(self, client: _Client) -> int:
        client.connection.close()
        del self._clients[client.number]
        return client.child.bury()

    def _target(self, target: int) -> _Client:
        clients = list(self._clients.values())
        return clients[target % len(clients)]

    def _order(self, client: _Client, order: str, *rest: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # its death is heard of in a moment
            client.connection.send((order, *rest))
            client.owes += 1

    def _order_all(self, order: str, *rest: int) -> None:
        for client in list(self._clients.values()):
            self._order(client, order, *rest)
        deadline_s = self._now_s() + _PATIENCE_S + TTL_S
        while (late := [client for client in self._clients.values() if client.owes > 0]) and self._now_s() < deadline_s:
            self._attend()
        for client in late:
            self._find("stuck", f"client {client.number}", f"it did not answer to {order!r} and was killed")
            client.child.kill()
            self._bury(client)

    def _know_registries(self) -> None:
        for pid in self._oracle.registry_pids() - self._registries.keys():
            with contextlib.suppress(ProcessLookupError):
                self._registries[pid] = Process(pid)

    def _registry_memory(self) -> int:
        self._know_registries()
        return max(
            (self._oracle.resident_bytes(pid) for pid, process in self._registries.items() if process.is_alive), default=0
        )

    def _find(self, kind: str, process: str, detail: str) -> None:
        self._findings.append(Finding(kind, process, detail, time.monotonic_ns()))

    def _operations(self) -> int:
        """Of all clients together, by the numbers they have got to."""
        total = 0
        for number, ranges in self._ranges.items():
            done = _COUNT.unpack_from(self._progress, number * _COUNT.size)[0]
            total += sum(max(min(end, done) - start, 0) for start, end in ranges)
        return total

    def _most_words(self) -> int:
        capacity_bytes = self.options.replay.capacity_bytes if self.options.replay else self.options.capacity_bytes
        return max(capacity_bytes // 32 // 8, 64)

    def _seed(self) -> int:
        return self.options.replay.seed if self.options.replay else self.options.seed

    def _now_s(self) -> float:
        return (time.monotonic_ns() - self._begin_ns) / 1e9

    def _show(self, segments: int, segment_bytes: int) -> None:
        last = self._struck[-1].kind if self._struck else ""
        if self._watch is not None:
            self._watch(
                Progress(
                    self._now_s(), self._operations(), len(self._struck), last, segments, segment_bytes, len(self._findings)
                )
            )

    def _verdict(self, duration_s: float) -> Verdict:
        options = self.options
        coverage = []
        if not options.is_private:
            coverage.append("memory in use by no file: others use this /dev/shm too")
        done = {
            number: _until(ranges, _COUNT.unpack_from(self._progress, number * _COUNT.size)[0])
            for number, ranges in self._ranges.items()
        }
        latencies: dict[str, Latency] = {}
        for what, pieces in self._durations.items():
            latency = latency_of(np.concatenate(pieces))
            if latency is not None and what not in ("read", "child"):
                latencies[what] = latency
        return Verdict(
            seed=self._seed(),
            clients=len(self._ranges),
            capacity_bytes=options.capacity_bytes,
            duration_s=duration_s,
            operations=self._operations(),
            outcomes=dict(self._outcomes),
            latencies=latencies,
            faults=dict(Counter(str(fault.kind) for fault in self._struck)),
            reclaim=latency_of([taken_s for _, taken_s in self._reclaims]),
            takeover=latency_of([taken_s for _, taken_s in self._takeovers]),
            peak_bytes=self._peak_bytes,
            registry_bytes=self._registry_bytes,
            rests=self._rests,
            findings=[
                Broken(f.kind, f.process, f.detail, round((f.at_ns - self._begin_ns) / 1e9, 6)) for f in self._findings
            ],
            coverage=coverage,
            moments=self._moments,
            reclaims_s=self._reclaims,
            takeovers_s=self._takeovers,
            schedule=Schedule(self._seed(), options.capacity_bytes, done, self._struck),
        )


def run(options: Options, watch: Callable[[Progress], None] | None = None) -> Verdict:
    """Run, and judge."""
    return Run(options, watch).run()


def _after(ranges: Sequence[tuple[int, int]], number: int) -> list[tuple[int, int]]:
    """What is left of `ranges` from `number` on."""
    return [(max(start, number), end) for start, end in ranges if end > number]


def _until(ranges: Sequence[tuple[int, int]], number: int) -> list[tuple[int, int]]:
    """What is done of `ranges` up to `number`."""
    return [(start, min(end, number)) for start, end in ranges if start < number]
