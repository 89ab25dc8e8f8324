"""Lease tables as metrics: what `status --prometheus` writes, for the textfile collector of a node exporter.

Everything is read from the ledger; the registry is not asked. What only its process knows, how many requests wait just now,
is not there; how many had to is.

Source: "Exposition formats", text-based format, version 0.0.4, in the documentation of Prometheus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from shmlease.cli.tables import Look, descriptors_seen
from shmlease.core.model import ClientState, EventKind, LeaseMode, Mark
from shmlease.core.snapshot import EVENTS_KEPT, Snapshot
from shmlease.core.transitions import LeaseState, SegmentState

__all__ = ["as_prometheus"]

_Sample = tuple[dict[str, str], float]
# name without its prefix -> type and help; the order is that of the output
_METRICS: Final = {
    "up": ("gauge", "1 if the registry is served, 0 if its process is dead."),
    "uptime_seconds": ("gauge", "Seconds since the table was begun."),
    "takeovers_total": ("counter", "Registry processes that have succeeded the first one."),
    "capacity_bytes": ("gauge", "The most that all segments together may take."),
    "segments": ("gauge", "Segments by state."),
    "segment_bytes": ("gauge", "Bytes of segments by state."),
    "segments_created_total": ("counter", "Segment files made so far."),
    "leases": ("gauge", "Leases by mode and state."),
    "tickets": ("gauge", "Tickets not yet redeemed."),
    "waits_total": ("counter", "Requests that had to wait until others gave up room, so far."),
    "reclaims_total": ("counter", "Leases that ended because their holder had died, so far."),
    "clients": ("gauge", "Clients by state; those that have ended are not counted."),
    "clients_total": ("counter", "Clients that have joined so far."),
    "events_total": ("counter", "Entries of the event log so far, of any kind."),
    "recent_events": ("gauge", f"Entries by kind among the last {EVENTS_KEPT} of the event log."),
    "open_descriptors": ("gauge", "Descriptors that the registry process has open."),
    "max_descriptors": ("gauge", "Descriptors that the registry process may have open."),
}


def as_prometheus(looks: Iterable[Look]) -> str:
    """The figures of all registries, in the text format; nothing for a registry whose table cannot be read."""
    samples: dict[str, list[_Sample]] = {name: [] for name in _METRICS}
    for look in looks:
        if look.snapshot is None or look.snapshot.registry is None:
            continue
        for name, labels, value in _figures(look, look.snapshot):
            samples[name].append(({"registry": look.directory.id, **labels}, value))
    return "".join(line for name, rows in samples.items() if rows for line in _lines(name, rows))


def _figures(look: Look, snapshot: Snapshot) -> Iterator[tuple[str, dict[str, str], float]]:
    row = snapshot.registry
    assert row is not None
    yield "up", {}, look.is_served
    yield "uptime_seconds", {}, (look.at_ns - row.started_ns) / 1e9
    yield "takeovers_total", {}, row.epoch - 1
    yield "capacity_bytes", {}, row.capacity_bytes
    segments = list(snapshot.segments.values())
    for state in SegmentState:
        sizes = [segment.size_bytes for segment in segments if segment.state is state]
        yield "segments", {"state": state}, len(sizes)
        yield "segment_bytes", {"state": state}, sum(sizes)
    yield "segments_created_total", {}, snapshot.marks.get(Mark.SEGMENT, 0)
    leases = Counter((lease.mode, lease.state) for lease in snapshot.leases.values())
    for mode in LeaseMode:
        for lease_state in LeaseState:
            yield "leases", {"mode": mode, "state": lease_state}, leases[mode, lease_state]
    yield "tickets", {}, sum(not ticket.keeps for ticket in snapshot.tickets.values())
    yield "waits_total", {}, snapshot.marks.get(Mark.WAIT, 0)
    yield "reclaims_total", {}, snapshot.marks.get(Mark.RECLAIM, 0)
    clients = Counter(client.state for client in snapshot.clients.values())
    for present in (ClientState.CONNECTED, ClientState.DETACHED):
        yield "clients", {"state": present}, clients[present]
    yield "clients_total", {}, snapshot.marks.get(Mark.CLIENT, 0)
    yield "events_total", {}, max((event.number for event in snapshot.events), default=0)
    kinds = Counter(event.kind for event in snapshot.events)
    for kind in EventKind:
        yield "recent_events", {"kind": kind}, kinds[kind]
    descriptors = descriptors_seen(look)
    if descriptors is not None:
        yield "open_descriptors", {}, descriptors.in_use
        yield "max_descriptors", {}, descriptors.limit


def _lines(name: str, samples: list[_Sample]) -> Iterator[str]:
    kind, text = _METRICS[name]
    yield f"# HELP shmlease_{name} {text}\n"
    yield f"# TYPE shmlease_{name} {kind}\n"
    for labels, value in samples:
        shown = ",".join(f'{label}="{_escaped(each)}"' for label, each in labels.items())
        yield f"shmlease_{name}{{{shown}}} {_number(value)}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
