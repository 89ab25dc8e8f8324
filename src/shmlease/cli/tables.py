"""The lease table as people and machines read it: what `status` and `top` show."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shmlease.core.model import ClientState, EventKind, LeaseMode, RegistryRow, client_of
from shmlease.core.snapshot import Snapshot
from shmlease.errors import ProtocolError
from shmlease.system.clock import SystemClock
from shmlease.system.descriptors import Descriptors, descriptors_of
from shmlease.system.directory import RegistryDirectory
from shmlease.system.identity import is_dead, own_pid_namespace
from shmlease.system.registries import registry_directories
from shmlease.units import format_bytes, format_duration

__all__ = ["Look", "as_json", "as_text", "look"]

Look = tuple[RegistryDirectory, bool, Snapshot | None]

# What a person can take in; --json has everything.
_MOST_ROWS = 30


def look(registry: str | None) -> list[Look]:
    """This user's registries (or the one named), whether each is served, and its table."""
    looks: list[Look] = []
    snapshot: Snapshot | None
    for directory in sorted(registry_directories(), key=lambda directory: directory.id):
        if registry not in (None, directory.id):
            continue
        try:
            is_served, snapshot = directory.is_served(), directory.read_ledger()
        except (OSError, ProtocolError):  # it has ended meanwhile, or what lies there is none
            is_served, snapshot = False, None
        looks.append((directory, is_served, snapshot))
    return looks


def as_json(looks: list[Look]) -> list[dict[str, Any]]:
    """Everything, in plain values."""
    now_ns = SystemClock().now_ns()
    return [_registry_as_json(directory, served, snapshot, now_ns) for directory, served, snapshot in looks]


def _registry_as_json(directory: RegistryDirectory, served: bool, snapshot: Snapshot | None, now_ns: int) -> dict[str, Any]:
    if snapshot is None or snapshot.registry is None:
        return {"id": directory.id, "path": directory.path, "state": "unreadable"}
    row = snapshot.registry
    descriptors = _descriptors(row) if served else None
    return {
        "id": directory.id,
        "path": directory.path,
        "state": "serving" if served else "dead",
        "pid": row.identity.pid,
        "epoch": row.epoch,
        "uptime_s": (now_ns - row.started_ns) / 1e9,
        "descriptors": None if descriptors is None else descriptors.in_use,
        "descriptors_limit": None if descriptors is None else descriptors.limit,
        "capacity_bytes": row.capacity_bytes,
        "used_bytes": sum(segment.size_bytes for segment in snapshot.segments.values()),
        "clients": [
            {"id": c.id, "pid": c.identity.pid, "state": str(c.state), "command": c.identity.command}
            for c in snapshot.clients.values()
        ],
        "segments": [
            {
                "number": s.number,
                "name": s.name,
                "state": str(s.state),
                "size_bytes": s.size_bytes,
                "nbytes": s.nbytes,
                "generation": s.generation,
                "age_s": (now_ns - s.created_ns) / 1e9,
                "site": s.site,
                "tainted": s.tainted,
                "exposed": s.exposed,
                "alias": s.alias or None,
                "leases": [
                    {
                        "id": lease.id,
                        "pid": _pid(snapshot, lease.id),
                        "mode": str(lease.mode),
                        "state": str(lease.state),
                        "held_s": (now_ns - lease.granted_ns) / 1e9,
                        "site": lease.site,
                    }
                    for lease in snapshot.leases.values()
                    if lease.segment == s.number
                ],
                "tickets": [
                    {"id": t.id, "expires_in_s": (t.deadline_ns - now_ns) / 1e9, "site": t.site}
                    for t in snapshot.tickets.values()
                    if t.segment == s.number
                ],
            }
            for s in snapshot.segments.values()
        ],
        "events": [
            {
                "number": e.number,
                "age_s": (now_ns - e.at_ns) / 1e9,
                "kind": str(e.kind),
                "segment": e.segment,
                "lease": e.lease,
                "client": e.client,
                "detail": e.detail,
            }
            for e in snapshot.events
        ],
    }


def as_text(looks: list[Look], registry: str | None = None) -> RenderableType:
    """For people: a summary of each registry (only `registry` was looked for, if given), its segments, and the
    last events.
    """
    now_ns = SystemClock().now_ns()
    parts: list[RenderableType] = []
    for directory, served, snapshot in looks:
        if snapshot is None or snapshot.registry is None:
            parts.append(Text(f"registry {directory.id}: its ledger cannot be read", style="red"))
            continue
        parts += [_headline(directory, served, snapshot, now_ns), _segments(snapshot, now_ns)]
        if snapshot.events:
            parts.append(_events(snapshot, now_ns))
    if parts:
        return Group(*parts)
    if registry is not None:
        return Text(f"no registry {registry} of this user is running; `shmlease status` without --id shows those that are")
    return Text("no registry of this user is running; start one with `shmlease serve`")


def _headline(directory: RegistryDirectory, served: bool, snapshot: Snapshot, now_ns: int) -> RenderableType:
    row = snapshot.registry
    assert row is not None
    used = sum(segment.size_bytes for segment in snapshot.segments.values())
    warm = sum(segment.size_bytes for segment in snapshot.segments.values() if segment.state == "warm")
    present = sum(client.state is not ClientState.ENDED for client in snapshot.clients.values())
    modes = Counter(lease.mode for lease in snapshot.leases.values())
    line = Text.assemble(
        ("registry ", "bold"),
        (directory.id, "bold cyan"),
        "  ",
        (f"pid {row.identity.pid}", "") if served else (f"DEAD (was pid {row.identity.pid})", "bold red"),
        f"  up {format_duration((now_ns - row.started_ns) / 1e9)}",
        f"  epoch {row.epoch}" if row.epoch > 1 else "",
    )
    figures = Text(
        f"  {format_bytes(used)} of {format_bytes(row.capacity_bytes)} in {len(snapshot.segments)} segments "
        f"({format_bytes(warm)} warm), {modes[LeaseMode.WRITE]} writers, {modes[LeaseMode.READ]} readers, "
        f"{_counted(len(snapshot.tickets), 'ticket')}, {_counted(present, 'client')}"
    )
    descriptors = _descriptors(row) if served else None
    if descriptors is not None:
        figures.append(f", {descriptors.in_use} of {descriptors.limit} descriptors in use")
    faults = [event for event in snapshot.events if event.kind is EventKind.FAULT]
    if not faults:
        return Group(line, figures)
    times = "once" if len(faults) == 1 else f"{len(faults)} times"
    ago = format_duration((now_ns - faults[-1].at_ns) / 1e9)
    said = faults[-1].detail.partition("\n")[0]
    return Group(line, figures, Text(f"  failed {times} through a fault of its own, {ago} ago: {said}", style="red"))


def _descriptors(row: RegistryRow) -> Descriptors | None:
    """Those of a registry that runs; None if they cannot be seen from here."""
    if is_dead(row.identity) or row.identity.pid_namespace != own_pid_namespace():
        return None
    try:
        return descriptors_of(row.identity.pid)
    except OSError:
        return None


def _segments(snapshot: Snapshot, now_ns: int) -> RenderableType:
    if not snapshot.segments:
        return Text("  no segments")
    table = Table(box=None, pad_edge=True, header_style="bold")
    for title, justify in (
        ("segment", "right"),
        ("name", "left"),
        ("state", "left"),
        ("size", "right"),
        ("age", "right"),
        ("held by", "left"),
        ("taken at", "left"),
    ):
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    rows = sorted(snapshot.segments.values(), key=lambda segment: segment.number)
    for segment in rows[:_MOST_ROWS]:
        holders = Counter(
            f"pid {_pid(snapshot, lease.id)} {lease.mode}" + (" (lingering)" if lease.state == "lingering" else "")
            for lease in snapshot.leases.values()
            if lease.segment == segment.number
        )
        tickets = sum(ticket.segment == segment.number for ticket in snapshot.tickets.values())
        held = [name if count == 1 else f"{name} x{count}" for name, count in holders.items()]
        held += [_counted(tickets, "ticket")] if tickets else []
        table.add_row(
            str(segment.number),
            segment.name or "-",
            str(segment.state),
            format_bytes(segment.size_bytes),
            format_duration((now_ns - segment.created_ns) / 1e9),
            ", ".join(held) or "-",
            segment.site,
        )
    if len(rows) > _MOST_ROWS:
        table.add_row("", f"... and {len(rows) - _MOST_ROWS} more")
    return table


def _events(snapshot: Snapshot, now_ns: int) -> RenderableType:
    lines = [
        Text(
            f"  {format_duration((now_ns - event.at_ns) / 1e9)} ago: "
            f"{event.kind} {event.detail.partition(chr(10))[0]}".rstrip(),
            style="dim",
        )
        for event in snapshot.events[-5:]
    ]
    return Group(*lines)


def _pid(snapshot: Snapshot, identifier: int) -> int | None:
    client = snapshot.clients.get(client_of(identifier))
    return None if client is None else client.identity.pid


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)
