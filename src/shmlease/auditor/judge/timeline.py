"""The lives of segments and leases as events on one clock, for the timeline of the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from shmlease.auditor.judge.evidence import RegistryFacts
from shmlease.auditor.judge.findings import Event, Finding
from shmlease.auditor.judge.indexed_evidence import IndexedEvidence
from shmlease.core.model import EventKind, LeaseMode, LeaseState
from shmlease.core.snapshot import Snapshot

__all__ = ["events_of"]

# What the log of a registry calls it -> what the timeline calls it
_KINDS: Final = {
    EventKind.HOLDER_DIED: "exit",
    EventKind.TICKET_EXPIRED: "expire",
    EventKind.READERS_EXPIRED: "expire",
    EventKind.VIEW_LINGERED: "linger",
    EventKind.VIEW_DIED: "release",
    EventKind.WRITER_ABANDONED: "retire",
    EventKind.RECEIVER_DIED: "expire",
    EventKind.NAME_WITHDRAWN: "release",
    EventKind.CLIENT_DROPPED: "exit",
    EventKind.REQUEST_REFUSED: "refuse",
    EventKind.SEGMENT_MISSING: "unlink",
    EventKind.RETIRE_FAILED: "retire",
    EventKind.TAKEOVER: "takeover",
    EventKind.FAULT: "exit",
    EventKind.HANDED_OVER: "takeover",
    EventKind.CLOSED_WITH_HOLDERS: "exit",
}


def events_of(indexed: IndexedEvidence, findings: Iterable[Finding]) -> tuple[Event, ...]:
    """What is known of the registries' segments and of the files in `findings`, in the order in which it happened."""
    events = [event for registry in indexed.evidence.registries for event in _of_registry(indexed, registry)]
    for finding in findings:
        born_ns = finding.identity.born_ns if finding.identity else None
        if born_ns is not None and not finding.registry:
            pid = finding.creator.pid if finding.creator else None
            events.append(Event(born_ns, "create", finding.name, pid=pid))
    return tuple(sorted(events, key=lambda event: event.at_ns))


def _of_registry(indexed: IndexedEvidence, registry: RegistryFacts) -> Iterator[Event]:
    snapshot = registry.snapshot
    if snapshot is None:
        return
    wall_ns = indexed.evidence.wall_ns
    for row in snapshot.segments.values():
        name = f"shmlease-{registry.id}/s{row.number}"
        creator = indexed.creator_of_segment(registry, row)
        if row.created_ns:
            yield Event(wall_ns(row.created_ns), "create", name, row.name or "", creator.pid)
        if row.published_ns:
            yield Event(wall_ns(row.published_ns), "publish", name, row.name or "", creator.pid)
    for lease in snapshot.leases.values():
        if lease.state is not LeaseState.RESERVED:
            client = indexed.client(registry, lease.id)
            pid = client.identity.pid if client else None
            kind = "attach" if lease.mode is LeaseMode.READ else "grant"
            name = f"shmlease-{registry.id}/s{lease.segment}"
            yield Event(wall_ns(lease.granted_ns), kind, name, lease.site, pid, f"{registry.id}:{lease.id:x}")
    for event in snapshot.events:
        name = f"shmlease-{registry.id}/s{event.segment}" if event.segment else ""
        lease_id = f"{registry.id}:{event.lease:x}" if event.lease else ""
        said = event.detail.partition("\n")[0]  # below it may be a traceback
        text = f"{event.kind}: {said}" if said else str(event.kind)
        yield Event(
            wall_ns(event.at_ns), _KINDS.get(event.kind, "note"), name, text, _pid(snapshot, event.client), lease_id
        )


def _pid(snapshot: Snapshot, client: int) -> int | None:
    row = snapshot.clients.get(client)
    return row.identity.pid if row else None
