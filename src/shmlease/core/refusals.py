"""Why a request is refused, in words and in figures: the subject, what was seen, what to do."""

from __future__ import annotations

from difflib import get_close_matches
from itertools import islice
from typing import Final

from shmlease.core.messages import Attach, AttachMode, Lease, RefusalCode
from shmlease.core.model import (
    AbandonedRow,
    ClientState,
    EventKind,
    LeaseMode,
    LeaseRow,
    LeaseState,
    RegistryRow,
    SegmentRow,
    SegmentState,
    client_of,
)
from shmlease.core.queues import Waiter
from shmlease.core.rows import Rows
from shmlease.core.work_units import Unit
from shmlease.units import format_bytes, format_count, format_duration

__all__ = [
    "Facts",
    "Refusal",
    "abandoned_refusal",
    "capacity_refusal",
    "closing_refusal",
    "descriptors_refusal",
    "exists_refusal",
    "fault_refusal",
    "gone_refusal",
    "mode_refusal",
    "not_found_refusal",
    "not_held_refusal",
    "reused_id_refusal",
    "running_refusal",
    "ticket_refusal",
]

# Comparing takes some 20 us a name, in which the registry does nothing else.
_NAMES_COMPARED: Final = 200

# Who asks without waiting is answered in less, and is not told for how long it waited.
_NOTICED_NS: Final = 1_000_000

# More would not be read.
_HOLDERS_NAMED: Final = 3

Facts = dict[str, int | str | list[int] | None]


class Refusal(Exception):  # noqa: N818 - not an error of the registry: it is an answer
    """The answer no; `recorded` if the event log should have it."""

    def __init__(self, code: RefusalCode, message: str, facts: Facts | None = None, *, recorded: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.facts: Facts = facts or {}
        self.recorded = recorded


def capacity_refusal(rows: Rows, waiter: Waiter[Lease], shm_free_bytes: int, now_ns: int) -> Refusal:
    """No room for a lease within its timeout."""
    capacity, wanted = rows.registry.capacity_bytes, waiter.request.size_bytes
    facts: Facts = {
        "requested_bytes": wanted,
        "capacity_bytes": capacity,
        "used_bytes": rows.used_bytes,
        "warm_bytes": rows.warm.total_bytes,
        "shm_free_bytes": shm_free_bytes,
        "waited_ns": now_ns - waiter.since_ns,
    }
    subject = "an unnamed segment" if waiter.request.name is None else f"segment {waiter.request.name!r}"
    asked = f"{subject} of {format_bytes(wanted)} does not fit"
    if wanted > capacity:
        return Refusal(
            RefusalCode.CAPACITY, f"{asked}: the registry's whole capacity is {format_bytes(capacity)}; raise it", facts
        )
    waited_ns = now_ns - waiter.since_ns
    waited = f" after waiting {format_duration(waited_ns / 1e9)}" if waited_ns >= _NOTICED_NS else ""
    where = waiter.shortage or (
        f"{format_bytes(rows.used_bytes)} of the registry's {format_bytes(capacity)} are in use by "
        f"{format_count(len(rows.segments), 'segment')}; release some, wait longer, or raise the capacity"
    )
    return Refusal(RefusalCode.CAPACITY, f"{asked}{waited}: {where}", facts)


def not_found_refusal(rows: Rows, waiter: Waiter[Attach], now_ns: int) -> Refusal:
    """No published segment of that name within the timeout."""
    name = waiter.request.name
    waited_ns = now_ns - waiter.since_ns
    has_waited = waited_ns >= _NOTICED_NS
    within = f"was not published within {format_duration(waited_ns / 1e9)}" if has_waited else "is not published"
    number = rows.by_name.get(name)
    if number is None:
        near = get_close_matches(name, islice(rows.by_name, _NAMES_COMPARED), 1)
        nearest = f" (the nearest is {near[0]!r})" if near else ""
        seen = f"no segment has that name{nearest}; check the name, or wait for its producer"
    else:
        writers = [
            f"pid {rows.clients[client_of(lease)].identity.pid}"
            for lease in rows.leases_on[number]
            if rows.leases[lease].mode is LeaseMode.WRITE
        ]
        seen = f"it is still being written by {', '.join(writers) or 'nobody'}; its producer must publish() it"
    return Refusal(
        RefusalCode.NOT_FOUND,
        f"segment {name!r} {within}: {seen}",
        {"name": name, "waited_ns": waited_ns},
    )


def abandoned_refusal(row: AbandonedRow, now_ns: int) -> Refusal:
    """The writer of that name has ended, and nobody writes it anew."""
    ago = format_duration(max(now_ns - row.at_ns, 0) / 1e9)
    ended = "ended" if row.died else "released its lease"
    where = f" (lease taken at {row.site})" if row.site else ""
    return Refusal(
        RefusalCode.ABANDONED,
        f"segment {row.name!r} will not be published: its writer, pid {row.pid}{where}, {ended} without publish() "
        f"{ago} ago; start its producer again, or wait for another one with abandoned='wait'",
        {"name": row.name, "pid": row.pid, "site": row.site, "at_ns": row.at_ns},
    )


def gone_refusal(number: int, generation: int, segment: SegmentRow | None) -> Refusal:
    """An address leads to no published segment."""
    if segment is not None and (segment.generation, segment.state) == (generation, SegmentState.FILLING):
        seen = "it is still being written; its writer must publish() it"
    else:
        seen = "its last lease has ended; an address keeps nothing alive"
    return Refusal(
        RefusalCode.NOT_FOUND, f"segment {number}, generation {generation}, cannot be attached: {seen}", {"segment": number}
    )


def mode_refusal(segment: SegmentRow, mode: AttachMode) -> Refusal:
    """A segment that is not for that mode."""
    subject = f"segment {segment.number}" if segment.name is None else f"segment {segment.name!r}"
    if mode is AttachMode.READ_WRITE:
        why = "is not mutable; lease it with mutable=True, or attach with mode='c' to change a copy of your own"
    else:
        why = "is mutable, and a copy-on-write mapping of it is no snapshot; attach with mode='r' and copy the array"
    return Refusal(RefusalCode.MODE, f"{subject} {why}", {"name": segment.name, "mode": mode})


def exists_refusal(rows: Rows, name: str, now_ns: int) -> Refusal:
    """The name is taken."""
    segment = rows.segments[rows.by_name[name]]
    leases = [rows.leases[lease] for lease in sorted(rows.leases_on[segment.number])]
    pids = [rows.clients[client_of(lease.id)].identity.pid for lease in leases]
    holders = [_holding(lease, pid) for lease, pid in zip(leases, pids, strict=True)]
    until_ns = [segment.readers_deadline_ns] if segment.readers_expected else []
    kept = [rows.tickets[ticket] for ticket in rows.tickets_on[segment.number]]
    tickets = [ticket for ticket in kept if not ticket.keeps]
    keepers = [f"pid {ticket.receiver.pid}" if ticket.receiver else "its registry" for ticket in kept if ticket.keeps]
    until_ns += [ticket.deadline_ns for ticket in tickets]
    waiting_s = max((deadline_ns - now_ns for deadline_ns in until_ns), default=0) / 1e9
    if segment.readers_expected:
        holders.append(_counted(segment.readers_expected, "announced reader", "yet to come"))
    if tickets:
        holders.append(_counted(len(tickets), "ticket", "not redeemed yet"))
    held = "; ".join(holders[:_HOLDERS_NAMED]) + ("; and others" if len(holders) > _HOLDERS_NAMED else "")
    if not holders and not keepers:
        until = "it is just being made"
    elif keepers:
        until = f"its name is kept by {', '.join(keepers)}, until it is withdrawn"
    elif leases:
        until = f"it is held by {held}, until they let go"
    else:
        until = f"it is kept for {held}, for {format_duration(max(waiting_s, 0))} more at most"
    return Refusal(
        RefusalCode.EXISTS,
        f"segment {name!r} exists already ({segment.state}{_made_by(rows, segment)}): {until}; choose another name, or "
        "wait for its end",
        {"name": name, "pid": pids[0] if pids else None, "pids": pids, "site": segment.site},
    )


_THROUGH: Final = {
    LeaseState.LINGERING: ", through views that outlived the lease",
    LeaseState.DETACHED: ", through a detached array",
}


def _counted(number: int, what: str, that: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'} {that}"


def _holding(lease: LeaseRow, pid: int) -> str:
    """Who holds a lease, and how."""
    does = "has it for writing" if lease.mode is LeaseMode.WRITE else "reads it"
    late = _THROUGH.get(lease.state, "")
    return f"pid {pid}, which {does}{f' (lease taken at {lease.site})' if lease.site else ''}{late}"


def _made_by(rows: Rows, segment: SegmentRow) -> str:
    """Who made a segment, and whether that one is still there."""
    creator = rows.clients.get(segment.creator)
    if creator is None:
        return ""
    ended = ", which has ended" if creator.state is ClientState.ENDED else ""
    return f", made by pid {creator.identity.pid}{f' at {segment.site}' if segment.site else ''}{ended}"


def not_held_refusal(lease: int, why: str) -> Refusal:
    """The lease is not one that this may be done with."""
    return Refusal(RefusalCode.NOT_HELD, f"lease {lease:#x}: {why}", {"lease": lease})


def ticket_refusal(ticket: int, outcome: str | None) -> Refusal:
    """The ticket is not live."""
    why = outcome or "is not known here: it was redeemed or expired long ago, or its segment is gone"
    return Refusal(
        RefusalCode.TICKET, f"ticket {ticket:#x} {why}; ask its sender for a new one", {"ticket": ticket}, recorded=True
    )


def reused_id_refusal(identifier: int) -> Refusal:
    """The id is in use."""
    return Refusal(RefusalCode.PROTOCOL, f"id {identifier:#x} is that of another lease or ticket already", recorded=True)


def descriptors_refusal(rows: Rows, in_use: int, limit: int, reserved: int) -> Refusal:
    """No descriptors for another client."""
    present = sum(client.state is not ClientState.ENDED for client in rows.clients.values())
    return Refusal(
        RefusalCode.CAPACITY,
        f"registry {rows.registry.id} takes no more clients: {in_use} of its {limit} descriptors are in use for {present} "
        f"clients, and {reserved} are kept for its own work; end some clients, or start it under a higher `ulimit -n`",
        {"descriptors": in_use, "descriptors_limit": limit, "clients": present},
    )


def fault_refusal(rows: Rows, unit: Unit) -> Refusal:
    """Two registries have died of it."""
    faults = [event for event in rows.events.values() if event.kind is EventKind.FAULT]
    if faults:
        seen = max(faults, key=lambda event: event.number).detail.partition("\n")[0]
    else:
        seen = "they were killed, or ran out of memory, and left no traceback"
    return Refusal(
        RefusalCode.FAULT,
        f"two processes of registry {rows.registry.id} have ended while they worked on {unit}, so it is not tried again: "
        f"{seen}. `shmlease status` shows what was recorded; please report it",
        {"unit": str(unit), "seen": seen},
        recorded=True,
    )


def running_refusal(rows: Rows) -> Refusal:
    """It is served where its user has put it, or for the process that has started it."""
    registry = rows.registry
    return Refusal(
        RefusalCode.PERMISSION,
        f"registry {registry.id} is running already, pid {registry.identity.pid}; see `shmlease status`",
        {"registry": registry.id, "pid": registry.identity.pid},
    )


def closing_refusal(registry: RegistryRow) -> Refusal:
    """The registry is being closed."""
    return Refusal(
        RefusalCode.CLOSING, f"registry {registry.id} is closing and grants no new leases", {"registry": registry.id}
    )
