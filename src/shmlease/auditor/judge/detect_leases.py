"""Detectors that hold a registry's lease table against what there is: its process, its files, its clients.

A client counts as alive until its death is proved, and a registry that is changing hands is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shmlease.auditor.judge.evidence import Hold, LockState, RegistryFacts
from shmlease.auditor.judge.findings import Confidence, Fact, Finding, Process
from shmlease.auditor.judge.indexed_evidence import IndexedEvidence, RegistryHealth, place_of, subject_of_file
from shmlease.auditor.judge.rules import RULES, Severity
from shmlease.core.model import (
    ClientRow,
    ClientState,
    EventKind,
    Identity,
    LeaseRow,
    LeaseState,
    SegmentRow,
    SegmentState,
)
from shmlease.units import format_bytes, format_duration

__all__ = [
    "dead_registry",
    "expired_ticket",
    "held_without_lease",
    "leases_outlive_scope",
    "lingering_view",
    "overdue_lease",
    "premature_unlink",
    "stale_lease",
]

# The registry's timers run once a second; a ticket that ran out since has not been seen yet.
_TICKET_GRACE_NS = 2_000_000_000
_LEASED = frozenset({SegmentState.RESERVED, SegmentState.FILLING, SegmentState.PUBLISHED})
_MAX_ANCESTORS = 64  # a bound: parents are read while processes come and go


def held_without_lease(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH002: a process has a registry's segment open or mapped, and is no client of that registry.

    A client may keep mappings of segments that it has released: that is how they are found warm again. A child that a
    client forked has its parent's mappings, which is harmless while the segment is leased; afterwards it is retired. Who
    opens a leased segment by the OS name that its holder asked for is told in a note.
    """
    for registry in indexed.evidence.registries:
        members = indexed.members(registry)
        if registry.snapshot is None or members is None or indexed.health(registry) is not RegistryHealth.ALIVE:
            continue
        for file, number in indexed.files_of(registry):
            segment = registry.snapshot.segments.get(number) if number is not None else None
            holds = indexed.evidence.holds.get(file.key, ())
            strangers = [h for h in holds if segment and not _is_entitled(indexed, members, segment, h, holds)]
            if not strangers or segment is None:
                continue
            holders = tuple(indexed.process(hold.pid) for hold in strangers)
            state = Fact(f"segment {number} is {segment.state}; none of its leases is theirs", f"{registry.path}/ledger")
            is_invited = segment.exposed and segment.state in _LEASED
            yield _of_segment(
                indexed,
                "LH002",
                f"{_named(segment, registry)} is held by {holders[0]}, which has no lease on it",
                registry,
                segment,
                subject=subject_of_file(file.key),
                severity=Severity.NOTE if is_invited else Severity.WARNING,
                holders=holders,
                evidence=(*indexed.hold_facts(strangers), state),
            )


def _is_entitled(
    indexed: IndexedEvidence, members: frozenset[tuple[int, int]], segment: SegmentRow, hold: Hold, holds: Sequence[Hold]
) -> bool:
    """Whether a holder is the registry or a client of it, or has by a fork what its parent has mapped under a lease."""
    processes = indexed.evidence.processes
    process = processes.get(hold.pid)
    if process is None or (process.pid, process.start_ticks) in members:
        return True  # or it has ended since
    if segment.state not in _LEASED:
        return False
    mapped_at = {one.pid: set(one.mapped_at) for one in holds}
    for _ in range(_MAX_ANCESTORS):
        process = processes.get(process.parent)
        if process is None or mapped_at.get(process.pid, set()).isdisjoint(hold.mapped_at):
            return False
        if (process.pid, process.start_ticks) in members:
            return True
    return False


def stale_lease(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH006: the registry runs, and counts a lease of a process that is dead."""
    for registry in indexed.evidence.registries:
        if registry.lock is not LockState.HELD:
            continue
        for lease, segment, client in indexed.leases(registry):
            if indexed.evidence.is_dead(client.identity):
                holder = indexed.holder(client.identity)
                later = indexed.evidence.processes.get(client.identity.pid)
                reused = f"; pid {later.pid} is another process now ({later.command})" if later else ""
                yield _of_lease(
                    indexed, "LH006", f"{_named(segment, registry)} is leased to {holder}, which is dead", registry, lease,
                    segment, client, Fact(f"no process of that pid and start time lives{reused}", "/proc"),
                )  # fmt: skip


def dead_registry(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH007: nobody holds the lock of a registry's directory, and its process is dead.

    Likely rather than proved while one of its clients lives, for that one may yet start a successor.
    """
    for registry in indexed.evidence.registries:
        if indexed.health(registry) is not RegistryHealth.DEAD:
            continue
        files = indexed.files_of(registry)
        row = registry.snapshot.registry if registry.snapshot else None
        living = tuple(
            indexed.holder(identity)
            for identity in _possible_successors(registry)
            if not indexed.evidence.is_dead(identity)
        )
        facts = [Fact("nobody holds its lock", f"flock {registry.path}/lock")]
        if row is not None:
            facts.append(Fact(f"it was served by {indexed.holder(row.identity)}, which is dead", f"{registry.path}/ledger"))
        if registry.problem:
            facts.append(Fact(registry.problem, f"{registry.path}/ledger"))
        facts.extend(Fact(f"{process} is still a client", f"{registry.path}/ledger") for process in living)
        resident_bytes = sum(file.resident_bytes for file, _ in files)
        segments = sum(number is not None for _, number in files)
        yield Finding.of(
            "LH007",
            f"registry {registry.id} is dead and has left {segments} segments ({format_bytes(resident_bytes)})",
            name=f"shmlease-{registry.id}",
            subject=f"registry:{registry.id}",
            path=registry.path,
            confidence=Confidence.LIKELY if living else Confidence.PROVED,
            identity=registry.directory,
            size_bytes=sum(file.size_bytes for file, _ in files),
            resident_bytes=resident_bytes,
            holders=living,
            registry=registry.id,
            evidence=tuple(facts),
        )


def _possible_successors(registry: RegistryFacts) -> Iterator[Identity]:
    """Those whose next call would start a registry again: its clients, and the process that it was started for."""
    if registry.snapshot is None:
        return
    yield from (c.identity for c in registry.snapshot.clients.values() if c.state is not ClientState.ENDED)
    row = registry.snapshot.registry
    if row is not None and row.owner is not None:
        yield row.owner


def premature_unlink(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH008: a live process holds a lease on a segment whose file is gone, or the registry noticed that it was."""
    for registry in indexed.evidence.registries:
        row = registry.snapshot.registry if registry.snapshot else None
        if row is not None and row.closing:
            continue  # a registry that closes unlinks what its last holders still map
        for lease, segment, client in indexed.leases(registry):
            if segment.number in registry.absent and not indexed.evidence.is_dead(client.identity):
                holder = indexed.holder(client.identity)
                fact = Fact(f"{registry.path}/s{segment.number} is not there", f"stat {registry.path}/s{segment.number}")
                yield _of_lease(
                    indexed, "LH008", f"{_named(segment, registry)} was unlinked under the lease of {holder}", registry,
                    lease, segment, client, fact,
                )  # fmt: skip
    yield from _past(indexed, EventKind.SEGMENT_MISSING, "LH008", "the registry found the file of a segment missing")


def overdue_lease(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH010: its holder said it would be done by now, or it is older than the user allows."""
    now, allowed = indexed.evidence.monotonic_ns, indexed.limits.overdue_after_ns
    for registry, lease, segment, client in _live_leases(indexed):
        if lease.state is not LeaseState.HELD:
            continue
        deadlines = [lease.due_ns] if lease.due_ns else []
        if allowed is not None:
            deadlines.append(lease.granted_ns + allowed)
        if deadlines and min(deadlines) < now:
            late = format_duration((now - min(deadlines)) / 1e9)
            held = format_duration((now - lease.granted_ns) / 1e9)
            yield _of_lease(
                indexed, "LH010", f"the lease of {indexed.holder(client.identity)} on {_named(segment, registry)} is "
                f"{late} overdue", registry, lease, segment, client, Fact(f"held for {held}", f"{registry.path}/ledger"),
            )  # fmt: skip


def lingering_view(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH011: a lease was released while numpy views of it were alive, and they are still."""
    for registry, lease, segment, client in _live_leases(indexed):
        if lease.state is LeaseState.LINGERING:
            yield _of_lease(
                indexed, "LH011", f"views of {_named(segment, registry)} outlive its lease in "
                f"{indexed.holder(client.identity)}", registry, lease, segment, client,
                Fact("the lease was released and its holder still has views", f"{registry.path}/ledger"),
            )  # fmt: skip


def expired_ticket(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH012: a ticket ran out; a note where its registry has ended it, a warning where it still keeps its segment."""
    now = indexed.evidence.monotonic_ns
    for registry in indexed.evidence.registries:
        if registry.snapshot is None or indexed.health(registry) is RegistryHealth.DEAD:
            continue
        for ticket in registry.snapshot.tickets.values():
            segment = registry.snapshot.segments.get(ticket.segment)
            if segment is not None and ticket.deadline_ns + _TICKET_GRACE_NS < now:
                late = format_duration((now - ticket.deadline_ns) / 1e9)
                yield _of_segment(
                    indexed, "LH012", f"a ticket on {_named(segment, registry)} ran out {late} ago and still keeps it",
                    registry, segment, subject=f"ticket:{registry.id}:{ticket.id}",
                    evidence=(Fact(f"made at {ticket.site or 'an unknown place'}", f"{registry.path}/ledger"),),
                )  # fmt: skip
    yield from _past(indexed, EventKind.TICKET_EXPIRED, "LH012", "a ticket ran out before anyone redeemed it")
    yield from _past(indexed, EventKind.READERS_EXPIRED, "LH012", "readers that were expected did not come in time")


def leases_outlive_scope(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH009: a lease that was taken within the scope is still held."""
    scope = indexed.limits.scope
    if scope is None:
        return
    for registry, lease, segment, client in _live_leases(indexed):
        if lease.state is LeaseState.HELD:
            holder = indexed.holder(client.identity)
            taken = indexed.when(indexed.evidence.wall_ns(lease.granted_ns))
            yield _of_lease(
                indexed, "LH009", f"{_named(segment, registry)} is still leased by {holder} after {scope.name}", registry,
                lease, segment, client, Fact(f"granted {taken}", f"{registry.path}/ledger"),
            )  # fmt: skip


def _live_leases(indexed: IndexedEvidence) -> Iterator[tuple[RegistryFacts, LeaseRow, SegmentRow, ClientRow]]:
    for registry in indexed.evidence.registries:
        if indexed.health(registry) is RegistryHealth.DEAD:
            continue
        for lease, segment, client in indexed.leases(registry):
            if not indexed.evidence.is_dead(client.identity):
                yield registry, lease, segment, client


def _past(indexed: IndexedEvidence, kind: EventKind, rule: str, message: str) -> Iterator[Finding]:
    """What the event logs of the registries have of `kind`: it is over, so a note."""
    for registry in indexed.evidence.registries:
        for event in registry.snapshot.events if registry.snapshot else ():
            if event.kind is kind:
                when = indexed.when(indexed.evidence.wall_ns(event.at_ns))
                yield Finding.of(
                    rule,
                    f"{message}: segment {event.segment} of registry {registry.id}",
                    name=f"shmlease-{registry.id}/s{event.segment}",
                    subject=f"event:{registry.id}:{event.number}",
                    severity=Severity.NOTE,
                    registry=registry.id,
                    evidence=(Fact(f"{event.detail or kind}, {when}", f"{registry.path}/ledger"),),
                )


def _of_lease(
    indexed: IndexedEvidence,
    rule: str,
    message: str,
    registry: RegistryFacts,
    lease: LeaseRow,
    segment: SegmentRow,
    client: ClientRow,
    *facts: Fact,
) -> Finding:
    place = place_of(lease.site)
    taken = (Fact(f"lease {lease.id:#x} ({lease.mode}) was taken at {lease.site}", f"{registry.path}/ledger"),)
    return _of_segment(
        indexed,
        rule,
        message,
        registry,
        segment,
        subject=f"lease:{registry.id}:{lease.id}",
        holders=(indexed.holder(client.identity),),
        evidence=(*facts, *(taken if place or lease.site else ())),
    )


def _of_segment(
    indexed: IndexedEvidence,
    rule: str,
    message: str,
    registry: RegistryFacts,
    segment: SegmentRow,
    *,
    subject: str,
    evidence: tuple[Fact, ...],
    holders: tuple[Process, ...] = (),
    severity: Severity | None = None,
) -> Finding:
    path = f"{registry.path}/s{segment.number}"
    file = indexed.segment_file(registry, segment.number)
    return Finding.of(
        rule,
        message,
        name=segment.alias or f"shmlease-{registry.id}/s{segment.number}",
        label=segment.name or "",
        subject=subject,
        path=path,
        identity=file.identity if file else None,
        size_bytes=segment.size_bytes,
        resident_bytes=file.resident_bytes if file else 0,
        creator=indexed.creator_of_segment(registry, segment),
        severity=severity or RULES[rule].severity,
        holders=holders,
        registry=registry.id,
        evidence=evidence,
    )


def _named(segment: SegmentRow, registry: RegistryFacts) -> str:
    return f"segment {segment.name!r}" if segment.name else f"segment {segment.number} of registry {registry.id}"
