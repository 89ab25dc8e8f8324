"""Detectors that compare a registry's lease table with reality: its process, its files, its clients.

A client counts as alive until its death is proved, and a registry that is changing hands is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shmlease.auditor.judge.evidence import Hold, LockState, RegistryFacts
from shmlease.auditor.judge.findings import Confidence, Fact, Finding, Process
from shmlease.auditor.judge.indexed_evidence import HeldLease, IndexedEvidence, RegistryHealth, subject_of_file
from shmlease.auditor.judge.rules import RULES, Severity
from shmlease.core.model import ClientState, EventKind, Identity, LeaseState, SegmentRow, SegmentState
from shmlease.units import format_bytes, format_count, format_duration

__all__ = [
    "dead_registry",
    "expired_ticket",
    "held_without_lease",
    "leases_outlive_scope",
    "lingering_view",
    "overdue_lease",
    "premature_unlink",
    "registry_fault",
    "stale_lease",
]

_IN_USE = (LeaseState.HELD, LeaseState.DETACHED)
# The registry's timers run once a second, so it may not have noticed a ticket that has expired since.
_TICKET_GRACE_NS = 2_000_000_000
_LEASED = frozenset({SegmentState.RESERVED, SegmentState.FILLING, SegmentState.PUBLISHED})
_FAULTS_SHOWN = 2  # what comes again is the same
_MAX_ANCESTORS = 64  # a bound: parents are read while processes come and go


def held_without_lease(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH002: a process has a registry's segment open or mapped, and is not a client of that registry.

    A client may keep mappings of segments that it has released: that is how it finds them warm again. A child that a client
    forked has its parent's mappings, which is harmless while the segment is leased; afterwards it is not. Opening a leased
    segment by the OS name that its holder asked for is only a note.
    """
    for registry in indexed.evidence.registries:
        members = indexed.members(registry)
        if registry.snapshot is None or members is None or indexed.health(registry) is not RegistryHealth.ALIVE:
            continue
        for file, number in indexed.files_of(registry):
            segment = registry.snapshot.segments.get(number) if number is not None else None
            if segment is None:
                continue
            holds = indexed.evidence.holds.get(file.key, ())
            strangers = [hold for hold in holds if not _is_entitled(indexed, members, segment, hold, holds)]
            if not strangers:
                continue
            holders = tuple(indexed.process(hold.pid) for hold in strangers)
            is_invited = segment.exposed and segment.state in _LEASED
            yield _of_segment(
                indexed,
                "LH002",
                f"{registry.segment_name(segment)} is held by {holders[0]}, which has no lease on it",
                registry,
                segment,
                subject=subject_of_file(file.key),
                severity=Severity.NOTE if is_invited else Severity.WARNING,
                holders=holders,
                evidence=(
                    *indexed.hold_facts(strangers),
                    Fact(f"segment {number} is {segment.state}; none of its leases is theirs", registry.ledger),
                ),
            )


def _is_entitled(
    indexed: IndexedEvidence, members: frozenset[tuple[int, int]], segment: SegmentRow, hold: Hold, holds: Sequence[Hold]
) -> bool:
    """Whether a holder is the registry or a client, or was forked by one that has the same mapping under a lease."""
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
        for held in indexed.leases(registry):
            identity = held.client.identity
            if indexed.evidence.is_dead(identity):
                later = indexed.evidence.processes.get(identity.pid)
                reused = f"; pid {later.pid} is another process now ({later.command})" if later else ""
                fact = Fact(f"no process with that pid and start time is alive{reused}", "/proc")
                message = f"{held.name} is leased to {indexed.holder(identity)}, which is dead"
                yield _of_lease(indexed, "LH006", message, held, fact)


def dead_registry(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH007: nobody holds the lock of a registry's directory, and its process is dead.

    A note while one of its clients lives, or who it was started for: the next call of that one starts a successor.
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
            facts.append(Fact(f"it was served by {indexed.holder(row.identity)}, which is dead", registry.ledger))
        if registry.problem:
            facts.append(Fact(registry.problem, registry.ledger))
        facts.extend(Fact(f"{process} is still a client", registry.ledger) for process in living)
        resident_bytes = sum(file.resident_bytes for file, _ in files)
        segments = sum(number is not None for _, number in files)
        yield Finding.of(
            "LH007",
            f"registry {registry.id} is dead and has left {format_count(segments, 'segment')} "
            f"({format_bytes(resident_bytes)})"
            + (f"; {living[0]} lives and will start a successor when it uses them" if living else ""),
            name=f"shmlease-{registry.id}",
            subject=f"registry:{registry.id}",
            path=registry.path,
            confidence=Confidence.LIKELY if living else Confidence.PROVED,
            severity=Severity.NOTE if living else Severity.ERROR,
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
        for held in indexed.leases(registry):
            if held.segment.number in registry.absent and not indexed.evidence.is_dead(held.client.identity):
                path = f"{registry.path}/s{held.segment.number}"
                message = f"{held.name} was unlinked under the lease of {indexed.holder(held.client.identity)}"
                yield _of_lease(indexed, "LH008", message, held, Fact(f"{path} does not exist", f"stat {path}"))
    yield from _logged(indexed, EventKind.SEGMENT_MISSING, "LH008", "the registry found the file of a segment missing")


def overdue_lease(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH010: its holder said it would be done by now, or it is older than the user allows."""
    now, allowed = indexed.evidence.monotonic_ns, indexed.limits.overdue_after_ns
    for held in _live_leases(indexed):
        lease = held.lease
        if lease.state not in _IN_USE:
            continue
        deadlines = [lease.due_ns] if lease.due_ns else []
        if allowed is not None:
            deadlines.append(lease.granted_ns + allowed)
        if deadlines and min(deadlines) < now:
            late = format_duration((now - min(deadlines)) / 1e9)
            age = format_duration((now - lease.granted_ns) / 1e9)
            message = f"the lease of {indexed.holder(held.client.identity)} on {held.name} is {late} overdue"
            yield _of_lease(indexed, "LH010", message, held, Fact(f"held for {age}", held.registry.ledger))


def lingering_view(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH011: a lease was released while numpy views of it were alive, and they still are."""
    for held in _live_leases(indexed):
        if held.lease.state is LeaseState.LINGERING:
            message = f"views of {held.name} outlive its lease in {indexed.holder(held.client.identity)}"
            fact = Fact("the lease was released and its holder still has views", held.registry.ledger)
            yield _of_lease(indexed, "LH011", message, held, fact)


def expired_ticket(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH012: a ticket has expired; a note where its registry has ended it, a warning where it still keeps its segment."""
    now = indexed.evidence.monotonic_ns
    for registry in indexed.evidence.registries:
        if registry.snapshot is None or indexed.health(registry) is RegistryHealth.DEAD:
            continue
        for ticket in registry.snapshot.tickets.values():
            segment = registry.snapshot.segments.get(ticket.segment)
            if segment is not None and not ticket.keeps and ticket.deadline_ns + _TICKET_GRACE_NS < now:
                late = format_duration((now - ticket.deadline_ns) / 1e9)
                yield _of_segment(
                    indexed,
                    "LH012",
                    f"a ticket on {registry.segment_name(segment)} expired {late} ago and still keeps it",
                    registry,
                    segment,
                    subject=f"ticket:{registry.id}:{ticket.id}",
                    evidence=(Fact(f"created at {ticket.site or 'an unknown place'}", registry.ledger),),
                )
    yield from _logged(indexed, EventKind.TICKET_EXPIRED, "LH012", "a ticket expired before anyone redeemed it")
    yield from _logged(indexed, EventKind.READERS_EXPIRED, "LH012", "readers that were expected did not come in time")


def registry_fault(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH018: the event log has a fault of the registry's own."""
    for registry in indexed.evidence.registries:
        faults = [e for e in (registry.snapshot.events if registry.snapshot else ()) if e.kind is EventKind.FAULT]
        if faults:
            times = "once" if len(faults) == 1 else f"{len(faults)} times"
            yield Finding.of(
                "LH018",
                f"registry {registry.id} failed {times}: {faults[-1].detail.partition(chr(10))[0]}",
                name=f"shmlease-{registry.id}",
                subject=f"fault:{registry.id}",
                registry=registry.id,
                evidence=tuple(
                    Fact(
                        f"{indexed.when(indexed.evidence.wall_ns(event.at_ns))}: {event.detail}", f"{registry.path}/ledger"
                    )
                    for event in faults[-_FAULTS_SHOWN:]
                ),
            )


def leases_outlive_scope(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH009: a lease that was taken within the scope is still held."""
    scope = indexed.limits.scope
    if scope is None:
        return
    for held in _live_leases(indexed):
        if held.lease.state in _IN_USE:
            how = "held by a detached array of" if held.lease.state is LeaseState.DETACHED else "leased by"
            message = f"{held.name} is still {how} {indexed.holder(held.client.identity)} after {scope.name}"
            taken = indexed.when(indexed.evidence.wall_ns(held.lease.granted_ns))
            yield _of_lease(indexed, "LH009", message, held, Fact(f"granted {taken}", held.registry.ledger))


def _live_leases(indexed: IndexedEvidence) -> Iterator[HeldLease]:
    for registry in indexed.evidence.registries:
        if indexed.health(registry) is not RegistryHealth.DEAD:
            yield from (held for held in indexed.leases(registry) if not indexed.evidence.is_dead(held.client.identity))


def _logged(indexed: IndexedEvidence, kind: EventKind, rule: str, message: str) -> Iterator[Finding]:
    """The events of `kind` in the logs of the registries: they are over, so each is a note."""
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
                    evidence=(Fact(f"{event.detail or kind}, {when}", registry.ledger),),
                )


def _of_lease(indexed: IndexedEvidence, rule: str, message: str, held: HeldLease, fact: Fact) -> Finding:
    lease = held.lease
    taken = (Fact(f"lease {lease.id:#x} ({lease.mode}) was taken at {lease.site}", held.registry.ledger),)
    return _of_segment(
        indexed,
        rule,
        message,
        held.registry,
        held.segment,
        subject=f"lease:{held.registry.id}:{lease.id}",
        holders=(indexed.holder(held.client.identity),),
        evidence=(fact, *(taken if lease.site else ())),
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
