"""Where the model, the lease table, the directory and the processes disagree.

The table is read from its ledger, as any auditor would; the directory with `os.scandir`; what a process maps from its own
/proc/self/maps. Nothing here asks the registry.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator

from shmlease.core.model import ClientState, SegmentRow, SegmentState, client_of
from shmlease.core.snapshot import Snapshot
from shmlease.system.ledger import read_ledger
from shmlease.testing.model import Holding, Model, Row
from shmlease.testing.worker import Sight

__all__ = ["SHM", "differences", "directory_of", "sight_differences", "sizes_by_inode"]

SHM = "/dev/shm"
_LIVE = (SegmentState.FILLING, SegmentState.PUBLISHED)
_UNDER_WAY = (SegmentState.CREATING, SegmentState.RETIRING)


def directory_of(registry: str) -> str:
    """Where a registry keeps its files."""
    return f"{SHM}/shmlease-{registry}"


def sizes_by_inode(registry: str) -> dict[int, int]:
    """Bytes of each segment's file."""
    sizes = {}
    for name in os.listdir(directory_of(registry)):
        if name[0] == "s" and name != "socket":
            with contextlib.suppress(FileNotFoundError):  # an idle one was just given back
                status = os.stat(f"{directory_of(registry)}/{name}")
                sizes[status.st_ino] = status.st_size
    return sizes


def differences(model: Model, registry: str) -> list[str]:
    """What is not as the model says, in words; empty if all is."""
    directory = directory_of(registry)
    snapshot = read_ledger(f"{directory}/ledger")
    try:
        seen = Counter(_row(snapshot, segment, directory) for segment in _live(snapshot))
        files = list(_files(model, snapshot, registry))
    except FileNotFoundError as error:  # it went between two looks, or a live segment has no file
        return [f"{error.filename} is missing"]
    believed = model.rows()
    found = [f"not in the lease table: {_words(row)}" for row in (believed - seen).elements()]
    found += [f"only in the lease table: {_words(row)}" for row in (seen - believed).elements()]
    return found + files


def sight_differences(holding: Holding, sight: Sight) -> Iterator[str]:
    """What a process sees of one of its arrays that it should not."""
    content = holding.content
    if sight.checksum != content.checksum:
        yield f"{holding} reads {sight.checksum:08x}, its writer wrote {content.checksum:08x}"
    if sight.inode and content.inode and sight.inode != content.inode:
        yield f"{holding} lies on inode {sight.inode}, another lease on the same content on {content.inode}"
    if sight.is_unlinked:
        yield f"{holding} lies on a file that was unlinked"
    if sight.protection and sight.protection != ("rw-s" if holding.is_writer else "r--s"):
        yield f"{holding} is mapped {sight.protection}"


def _live(snapshot: Snapshot) -> list[SegmentRow]:
    return [segment for segment in snapshot.segments.values() if segment.state in _LIVE]


def _row(snapshot: Snapshot, segment: SegmentRow, directory: str) -> Row:
    holders = sorted(
        (snapshot.clients[client_of(lease.id)].identity.pid, str(lease.mode), str(lease.state))
        for lease in snapshot.leases.values()
        if lease.segment == segment.number
    )
    with open(f"{directory}/s{segment.number}", "rb") as file:
        checksum = zlib.crc32(file.read(segment.nbytes))
    tickets = sum(ticket.segment == segment.number for ticket in snapshot.tickets.values())
    is_published = segment.state is SegmentState.PUBLISHED
    return segment.name, segment.nbytes, is_published, tuple(holders), tickets, segment.readers_expected, checksum


def _words(row: Row) -> str:
    name, nbytes, is_published, holders, tickets, readers, checksum = row
    return (
        f"{name or 'unnamed'}, {nbytes} bytes, {'published' if is_published else 'being written'}, held by {list(holders)}, "
        f"{tickets} tickets, {readers} readers expected, checksum {checksum:08x}"
    )


def _files(model: Model, snapshot: Snapshot, registry: str) -> Iterator[str]:
    """The directory against the lease table, and against what must never come back."""
    registry_row = snapshot.registry
    assert registry_row is not None
    directory = directory_of(registry)
    entries = {name: os.stat(f"{directory}/{name}", follow_symlinks=False) for name in os.listdir(directory)}
    if stat.S_IMODE(os.stat(directory).st_mode) != 0o700:
        yield f"{directory} may be entered by others"
    yield from (f"{name} is open to others" for name, status in entries.items() if status.st_mode & 0o077)

    segments = {f"s{segment.number}": segment for segment in snapshot.segments.values() if segment.state not in _UNDER_WAY}
    tickets = {f"t{ticket}" for ticket in snapshot.tickets}
    notice_logs = {f"j{client.id}" for client in snapshot.clients.values() if client.state is not ClientState.ENDED}
    expected = {*segments, *tickets, *notice_logs, "lock", "ledger", "socket", "work", "crash"}
    unknown = entries.keys() - expected - {"log"}  # which is there when there was something to say
    yield from (f"{directory}/{name} is in no row of the lease table" for name in sorted(unknown))
    yield from (f"{directory}/{name} is missing" for name in sorted(expected - entries.keys()))

    for name, segment in segments.items():
        status = entries.get(name)
        if status is None:
            continue
        if status.st_size != segment.size_bytes:
            yield f"{name} has {status.st_size} bytes, its row says {segment.size_bytes}"
        if segment.state in _LIVE and status.st_blocks * 512 < status.st_size:
            yield f"{name} has {status.st_blocks * 512} of {status.st_size} bytes reserved"
        if status.st_ino in model.never_again:
            yield f"{name} is {segment.state}, on memory whose use ended otherwise than in order: {model.never_again[status.st_ino]}"
    used_bytes = sum(segment.size_bytes for segment in snapshot.segments.values())
    if used_bytes > registry_row.capacity_bytes:
        yield f"{used_bytes} bytes are in use, the capacity is {registry_row.capacity_bytes}"

    aliases = {name for name in os.listdir(SHM) if name.startswith(f"shmlease-{registry}-")}
    named = {content.os_name for content in model.contents if content.os_name}
    if aliases != named:
        yield f"names in {SHM}: {sorted(aliases)}, expected {sorted(named)}"
