"""This user's registries and their lease tables, read from shared memory: what `status` and `top` show.

What a user holds comes first, a row for each segment; what the registry keeps for the next lease is summed up in a line.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from shmlease.core.model import ClientState, EventKind, LeaseMode, LeaseRow, LeaseState, SegmentRow, client_of
from shmlease.core.snapshot import Snapshot
from shmlease.core.transitions import SegmentState
from shmlease.errors import ProtocolError
from shmlease.system.clock import SystemClock
from shmlease.system.descriptors import Descriptors, descriptors_of
from shmlease.system.directory import RegistryDirectory
from shmlease.system.identity import is_dead, own_pid_namespace
from shmlease.system.registries import registry_directories
from shmlease.units import format_bytes, format_count, format_duration

__all__ = ["Look", "as_text", "console_for_tables", "descriptors_seen", "look", "pid_of"]

# What a person can take in; --json has everything.
_MOST_ROWS: Final = 30
# Where nothing says how wide a line may be, in a pipe or a file, none is cut or wrapped.
_UNLIMITED_COLUMNS: Final = 100_000
# What the registry keeps for the next lease, in the words of the summary.
_KEPT: Final = {SegmentState.RESERVED: "spare", SegmentState.WARM: "warm"}


@dataclass(frozen=True, slots=True)
class Look:
    """A registry's directory at one moment, whether it was served, and its table if that could be read."""

    directory: RegistryDirectory
    is_served: bool
    snapshot: Snapshot | None
    at_ns: int


def look(registry: str | None) -> list[Look]:
    """This user's registries, or the one named."""
    looks: list[Look] = []
    snapshot: Snapshot | None
    for directory in sorted(registry_directories(), key=lambda directory: directory.id):
        if registry not in (None, directory.id):
            continue
        try:
            is_served, snapshot = directory.is_served(), directory.read_ledger()
        except (OSError, ProtocolError):  # it has ended meanwhile, or what lies there is none
            is_served, snapshot = False, None
        looks.append(Look(directory, is_served, snapshot, SystemClock().now_ns()))
    return looks


def console_for_tables() -> Console:
    """A console on stdout: lines are cut at the edge of a terminal, and neither cut nor wrapped elsewhere."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_UNLIMITED_COLUMNS)


def descriptors_seen(look: Look) -> Descriptors | None:
    """Those of a registry that runs; None if they cannot be seen from here."""
    if not look.is_served or look.snapshot is None or look.snapshot.registry is None:
        return None
    identity = look.snapshot.registry.identity
    if is_dead(identity) or identity.pid_namespace != own_pid_namespace():
        return None
    try:
        return descriptors_of(identity.pid)
    except OSError:
        return None


def pid_of(snapshot: Snapshot, identifier: int) -> int | None:
    """The process whose lease or ticket `identifier` is."""
    client = snapshot.clients.get(client_of(identifier))
    return None if client is None else client.identity.pid


def as_text(
    looks: list[Look],
    registry: str | None = None,
    *,
    has_all: bool = False,
    before: list[Look] | None = None,
    is_wide: bool = False,
) -> RenderableType:
    """For people: a summary of each registry, its segments, and the last events.

    Parameters
    ----------
    looks : list of Look
        What was seen.
    registry : str, optional
        The only one that was looked for.
    has_all : bool
        Whether spares and warm segments have rows of their own.
    before : list of Look, optional
        What was seen a while ago: rates since then are shown.
    is_wide : bool
        Whether the table takes all of the width.
    """
    earlier = {each.directory.id: each for each in before or ()}
    parts: list[RenderableType] = []
    for each in looks:
        snapshot = each.snapshot
        if snapshot is None or snapshot.registry is None:
            parts.append(Text(f"registry {each.directory.id}: its ledger cannot be read", style="red"))
            continue
        parts += _headline(each, snapshot, earlier.get(each.directory.id))
        parts += _segments(snapshot, each.at_ns, has_all=has_all, is_wide=is_wide)
        parts += _events(snapshot, each.at_ns)
    if parts:
        return Group(*parts)
    if registry is not None:
        return Text(f"no registry {registry} of this user is running; `shmlease status` without --id shows those that are")
    return Text("no registry of this user is running; start one with `shmlease serve`")


def _headline(look: Look, snapshot: Snapshot, before: Look | None) -> Iterator[RenderableType]:
    row = snapshot.registry
    assert row is not None
    yield _line(
        ("registry ", "bold"),
        (look.directory.id, "bold cyan"),
        "  ",
        f"pid {row.identity.pid}" if look.is_served else (f"DEAD (was pid {row.identity.pid})", "bold red"),
        f"  up {format_duration((look.at_ns - row.started_ns) / 1e9)}",
        f"  epoch {row.epoch}" if row.epoch > 1 else "",
    )
    held = [segment for segment in snapshot.segments.values() if segment.state not in _KEPT]
    modes = Counter(lease.mode for lease in snapshot.leases.values() if lease.state is not LeaseState.RESERVED)
    present = sum(client.state is not ClientState.ENDED for client in snapshot.clients.values())
    figures = [
        f"{_size(held)} in {format_count(len(held), 'segment')}, capacity {format_bytes(row.capacity_bytes)}",
        format_count(modes[LeaseMode.WRITE], "writer"),
        format_count(modes[LeaseMode.READ], "reader"),
        format_count(len(snapshot.tickets), "ticket"),
        format_count(present, "client"),
    ]
    descriptors = descriptors_seen(look)
    if descriptors is not None:
        figures.append(f"{descriptors.in_use} of {descriptors.limit} descriptors in use")
    yield _line("  " + ", ".join(figures))
    if before is not None and before.snapshot is not None and look.at_ns > before.at_ns:
        yield _line("  " + _rates(before.snapshot, snapshot, (look.at_ns - before.at_ns) / 1e9))
    faults = [event for event in snapshot.events if event.kind is EventKind.FAULT]
    if faults:
        times = "once" if len(faults) == 1 else f"{len(faults)} times"
        ago = format_duration((look.at_ns - faults[-1].at_ns) / 1e9)
        said = faults[-1].detail.partition("\n")[0]
        yield _line((f"  failed {times} through a fault of its own, {ago} ago: {said}", "red"))


def _rates(before: Snapshot, now: Snapshot, elapsed_s: float) -> str:
    """What was done each second: commands that clients have sent, and segments made (others were taken from the warm)."""
    applied = sum(max(count - before.applied.get(client, 0), 0) for client, count in now.applied.items())
    made = sum(number not in before.segments for number in now.segments)
    return f"{applied / elapsed_s:,.0f} commands/s, {made / elapsed_s:,.0f} new segments/s"


def _segments(snapshot: Snapshot, now_ns: int, *, has_all: bool, is_wide: bool) -> Iterator[RenderableType]:
    segments = sorted(snapshot.segments.values(), key=lambda segment: (segment.state in _KEPT, segment.number))
    kept = [segment for segment in segments if segment.state in _KEPT and not has_all]
    rows = segments[: len(segments) - len(kept)]
    if rows:
        yield _table(snapshot, rows[:_MOST_ROWS], now_ns, is_wide=is_wide)
        if len(rows) > _MOST_ROWS:
            yield _line(f"  and {format_count(len(rows) - _MOST_ROWS, 'more', 'more')}; --json shows them all")
    if kept:
        parts = []
        for state, word in _KEPT.items():
            some = [segment for segment in kept if segment.state is state]
            parts += [f"{len(some)} {word}{'s' * (word == 'spare' and len(some) != 1)} ({_size(some)})"] if some else []
        yield _line((f"  kept for the next lease: {', '.join(parts)}; --all shows them", "dim"))
    if not segments:
        yield _line("  no segments")


def _table(snapshot: Snapshot, segments: list[SegmentRow], now_ns: int, *, is_wide: bool) -> Table:
    table = Table(box=None, pad_edge=True, header_style="bold", expand=is_wide)
    table.add_column("segment", justify="right", no_wrap=True)
    table.add_column(_cut("name"))
    table.add_column("state", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column(_cut("held by"))
    table.add_column(_cut("taken at"), ratio=1 if is_wide else None)
    leases: dict[int, list[LeaseRow]] = {}
    for lease in snapshot.leases.values():
        leases.setdefault(lease.segment, []).append(lease)
    tickets = Counter(ticket.segment for ticket in snapshot.tickets.values())
    for segment in segments:
        table.add_row(
            str(segment.number),
            _cut(segment.name or "-"),
            str(segment.state),
            format_bytes(segment.size_bytes),
            format_duration((now_ns - segment.created_ns) / 1e9),
            _cut(_held_by(snapshot, leases.get(segment.number, ()), tickets[segment.number])),
            _cut(_short(segment.site)),
        )
    return table


def _held_by(snapshot: Snapshot, leases: Iterable[LeaseRow], tickets: int) -> str:
    holders = Counter(
        f"pid {pid_of(snapshot, lease.id)} {lease.mode}"
        + (f" ({lease.state})" if lease.state in {LeaseState.LINGERING, LeaseState.DETACHED} else "")
        for lease in leases
    )
    held = [name if count == 1 else f"{name} x{count}" for name, count in holders.items()]
    return ", ".join([*held, *([format_count(tickets, "ticket")] if tickets else [])]) or "-"


def _events(snapshot: Snapshot, now_ns: int) -> Iterator[RenderableType]:
    for event in snapshot.events[-5:]:
        said = f"{event.kind} {event.detail.partition(chr(10))[0]}".rstrip()
        yield _line((f"  {format_duration((now_ns - event.at_ns) / 1e9)} ago: {said}", "dim"))


def _size(segments: Iterable[SegmentRow]) -> str:
    return format_bytes(sum(segment.size_bytes for segment in segments))


def _short(site: str) -> str:
    """A place in code, from the working directory if it lies beneath it."""
    return site.removeprefix(f"{os.getcwd()}/")


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _line(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
