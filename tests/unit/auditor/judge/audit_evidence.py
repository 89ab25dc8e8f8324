"""Evidence made by hand, for tests of the auditor's core: a small system, described in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from shmlease.auditor.judge.evidence import (
    Evidence,
    File,
    Hold,
    LockState,
    Probe,
    ProcessFacts,
    RegistryFacts,
    Root,
    Usage,
)
from shmlease.auditor.judge.findings import FileIdentity, Finding
from shmlease.auditor.judge.indexed_evidence import IndexedEvidence, Limits
from shmlease.auditor.judge.reconcile import reconcile
from shmlease.core.model import (
    NUMBER_BITS,
    ClientRow,
    ClientState,
    EventRow,
    Identity,
    LeaseMode,
    LeaseRow,
    LeaseState,
    RegistryRow,
    SegmentRow,
    SegmentState,
    TicketRow,
)
from shmlease.core.snapshot import Snapshot

DEVICE = 27
SHM = Root("/dev/shm", DEVICE)
NOW_NS = 1_800_000_000_000_000_000
UPTIME_NS = 1_000_000_000_000
PAGE = 4096
BOOT, NAMESPACE = "this-boot", 4026531836


def process(pid: int, *, start: int = 100, parent: int = 1, command: str = "python job.py") -> ProcessFacts:
    return ProcessFacts(pid, start, parent, 1000, command, 1)


def identity(pid: int, *, start: int = 100, boot: str = BOOT, namespace: int = NAMESPACE) -> Identity:
    return Identity(pid, start, boot, namespace, 1000, f"python {pid}.py")


class System:
    """What there is, gathered step by step; `findings` reconciles it."""

    def __init__(self) -> None:
        self.evidence = Evidence(
            NOW_NS,
            UPTIME_NS,
            BOOT,
            NAMESPACE,
            1000,
            boot_time_ns=NOW_NS - UPTIME_NS,
            roots=(SHM,),
            files={},
            holds={},
            processes={1: process(1, command="init")},
            probes={},
        )
        self._inodes = iter(range(1000, 10_000))

    def file(
        self,
        name: str,
        *,
        size: int = PAGE,
        resident: int | None = None,
        probe: Probe | None = None,
        root: Root = SHM,
        aliases: tuple[str, ...] = (),
        uid: int = 1000,
    ) -> tuple[int, int]:
        """A named file; returns its key."""
        key = (root.device, next(self._inodes))
        resident = size if resident is None else resident
        born_ns = NOW_NS - 5_000_000_000
        files = {**self.evidence.files, key: File(key, born_ns, root, name, size, resident, uid, born_ns, aliases)}
        probes = {**self.evidence.probes, **({key: (probe, "")} if probe else {})}
        roots = self.evidence.roots if root in self.evidence.roots else (*self.evidence.roots, root)
        self.evidence = replace(self.evidence, files=files, probes=probes, roots=roots)
        return key

    def hold(
        self,
        key: tuple[int, int],
        pid: int,
        *,
        unlinked: bool = False,
        path: str = "/dev/shm/gone",
        resident: int | None = PAGE,
        exact: bool = True,
        at: tuple[int, ...] = (0x7000,),
    ) -> None:
        """Process `pid` has that file mapped."""
        one = Hold(pid, "mapped", f"/proc/{pid}/maps", path, unlinked, PAGE, resident, exact, None, at)
        holds = {**self.evidence.holds, key: (*self.evidence.holds.get(key, ()), one)}
        self.evidence = replace(self.evidence, holds=holds)

    def unlinked(self, pid: int, **options: object) -> tuple[int, int]:
        """Process `pid` has a file mapped that has no name; returns its key."""
        key = (DEVICE, next(self._inodes))
        self.hold(key, pid, unlinked=True, **options)  # type: ignore[arg-type]
        return key

    def run(self, *processes: ProcessFacts) -> None:
        """Those processes live."""
        self.evidence = replace(self.evidence, processes={**self.evidence.processes, **{one.pid: one for one in processes}})

    def usage(self, used: int, *, whole: bool = True, steady: bool = True) -> None:
        """What statvfs counts in /dev/shm."""
        self.evidence = replace(self.evidence, usage=(Usage(SHM, used, None, 0, whole, steady),))

    def registry(
        self,
        *,
        id: str = "abc",
        served_by: int = 50,
        lock: LockState = LockState.HELD,
        segments: Iterable[SegmentRow] = (),
        leases: Iterable[LeaseRow] = (),
        clients: Iterable[ClientRow] = (),
        tickets: Iterable[TicketRow] = (),
        events: Iterable[EventRow] = (),
        absent: Iterable[int] = (),
        owner: int | None = None,
        **changes: object,
    ) -> None:
        """A registry with that lease table."""
        row = RegistryRow(id, identity(served_by), 1 << 20, 0, 0, 1, 0, identity(owner) if owner else None)
        snapshot = Snapshot(
            registry=row,
            clients={client.id: client for client in clients},
            segments={segment.number: segment for segment in segments},
            leases={lease.id: lease for lease in leases},
            tickets={ticket.id: ticket for ticket in tickets},
            events=tuple(events),
        )
        facts = RegistryFacts(
            id, f"/dev/shm/shmlease-{id}", SHM, FileIdentity(DEVICE, 9), 1000, lock, snapshot, absent=frozenset(absent)
        )
        facts = msgspec.structs.replace(facts, **changes)
        self.evidence = replace(self.evidence, registries=(*self.evidence.registries, facts))

    def change(self, **changes: object) -> None:
        """Replace fields of the evidence."""
        self.evidence = replace(self.evidence, **changes)  # type: ignore[arg-type]

    def indexed(self, limits: Limits | None = None) -> IndexedEvidence:
        return IndexedEvidence(self.evidence, limits)

    def findings(self, limits: Limits | None = None) -> list[Finding]:
        return list(reconcile(self.indexed(limits)))

    def rules(self, limits: Limits | None = None) -> list[str]:
        return [finding.rule for finding in self.findings(limits)]


def client(number: int, pid: int, **options: object) -> ClientRow:
    state = options.pop("state", ClientState.CONNECTED)
    return ClientRow(number, identity(pid, **options), b"", state, 0)  # type: ignore[arg-type]


def segment(number: int, *, state: SegmentState = SegmentState.FILLING, **options: object) -> SegmentRow:
    return SegmentRow(number, 1, PAGE, state, site="app/job.py:12 in main", **options)  # type: ignore[arg-type]


def lease(
    number: int,
    of: int,
    client_id: int,
    *,
    mode: LeaseMode = LeaseMode.WRITE,
    state: LeaseState = LeaseState.HELD,
    due_ns: int = 0,
    granted_ns: int = UPTIME_NS - 60_000_000_000,
) -> LeaseRow:
    return LeaseRow((client_id << NUMBER_BITS) | number, of, mode, state, granted_ns, 1, "app/job.py:12 in main", due_ns)
