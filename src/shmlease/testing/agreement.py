"""Where the model, the lease table, the directory and the processes disagree.

The table is read from its ledger, as any auditor would; the directory with `os.listdir`; what a process maps from its own
/proc/self/maps. Nothing here asks the registry.
"""

from __future__ import annotations

import os
import stat
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

from shmlease.core.model import ClientState, SegmentRow, SegmentState, client_of
from shmlease.core.sizes import file_size
from shmlease.core.snapshot import Snapshot
from shmlease.system.forkserver import Process
from shmlease.system.ledger import read_ledger
from shmlease.testing.model import Content, Holding, Model, Row
from shmlease.testing.worker import Sight, look
from shmlease.verification.oracle import Oracle

__all__ = ["Agreement"]

_SHM: Final = "/dev/shm"
_LIVE: Final = (SegmentState.FILLING, SegmentState.PUBLISHED)
_PROTECTIONS: Final = {"r": "r--s", "c": "rw-p", "r+": "rw-s"}
_UNDER_WAY: Final = (SegmentState.CREATING, SegmentState.RETIRING)


class Agreement:
    """The four accounts of one registry, which must agree after every step.

    Parameters
    ----------
    model : Model
        What is believed.
    registry : str
        The registry's id.
    """

    def __init__(self, model: Model, registry: str) -> None:
        self._model = model
        self._oracle = Oracle(registry, is_private=False)
        self._directory = f"{_SHM}/shmlease-{registry}"
        self._prefix = f"shmlease-{registry}"

    def wait(self, within_s: float) -> None:
        """Fail unless table and directory agree with the model in time, and then the processes."""
        deadline = time.monotonic() + within_s
        while found := self.differences():
            assert time.monotonic() < deadline, "\n".join(found)
            time.sleep(0.001)
        self.look()

    def look(self, *, are_linked: bool = True) -> None:
        """Fail unless every process that listens sees its arrays as it should; `are_linked` if their files must
        have names.
        """
        for worker in self._model.workers:
            if worker.is_stopped:
                continue
            sights = worker.call(look)
            for holding in self._model.holdings:
                if holding.worker is worker:
                    sight = sights[holding.key]
                    holding.content.inode = holding.content.inode or sight.inode
                    found = list(_sight_differences(holding, sight, are_linked=are_linked))
                    assert not found, "\n".join(found)

    def differences(self) -> list[str]:
        """What is not as the model says, in words; empty if all is."""
        snapshot = read_ledger(f"{self._directory}/ledger")
        try:
            seen = Counter(_row(snapshot, segment, self._directory) for segment in _live(snapshot))
            files = list(self._files(snapshot))
        except FileNotFoundError as error:  # it went between two looks, or a live segment has no file
            return [f"{error.filename} is missing"]
        believed = self._model.rows()
        found = [f"not in the lease table: {_words(row)}" for row in (believed - seen).elements()]
        found += [f"only in the lease table: {_words(row)}" for row in (seen - believed).elements()]
        return found + files

    def live_bytes(self, but: Content | None = None) -> int:
        """The size of what is in use, without one content."""
        sizes = self._oracle.sizes_by_inode()
        # an empty array, whose inode nothing shows, takes a page
        return sum(
            sizes[content.inode] if content.inode else file_size(0)
            for content in self._model.contents
            if content is not but
        )

    def registry_process(self) -> Process:
        """The process that serves the registry."""
        registry = read_ledger(f"{self._directory}/ledger").registry
        assert registry is not None
        return Process(registry.identity.pid)

    def left(self) -> list[str]:
        """What is in /dev/shm under the registry's name."""
        return [name for name in os.listdir(_SHM) if name.startswith(self._prefix)]

    def _files(self, snapshot: Snapshot) -> Iterator[str]:
        """The directory against the lease table, and against what must never come back."""
        registry_row = snapshot.registry
        assert registry_row is not None
        directory = self._directory
        entries = {name: os.stat(f"{directory}/{name}", follow_symlinks=False) for name in os.listdir(directory)}
        if stat.S_IMODE(os.stat(directory).st_mode) != 0o700:
            yield f"{directory} may be entered by others"
        yield from (f"{name} is open to others" for name, status in entries.items() if status.st_mode & 0o077)

        segments = {
            f"s{segment.number}": segment for segment in snapshot.segments.values() if segment.state not in _UNDER_WAY
        }
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
            if why := self._model.never_again.get(status.st_ino):
                yield f"{name} is {segment.state}, on memory whose use did not end in order: {why}"
        used_bytes = sum(segment.size_bytes for segment in snapshot.segments.values())
        if used_bytes > registry_row.capacity_bytes:
            yield f"{used_bytes} bytes are in use, the capacity is {registry_row.capacity_bytes}"

        names = {content.os_name for content in self._model.contents if content.os_name}
        if set(self._oracle.names()) != names:
            yield f"names in {_SHM}: {self._oracle.names()}, expected {sorted(names)}"


def _sight_differences(holding: Holding, sight: Sight, *, are_linked: bool) -> Iterator[str]:
    """What a process sees of one of its arrays that it should not."""
    content = holding.content
    if sight.checksum != holding.checksum:
        yield f"{holding} reads {sight.checksum:08x}, its writer wrote {holding.checksum:08x}"
    if sight.inode and content.inode and sight.inode != content.inode:
        yield f"{holding} lies on inode {sight.inode}, another lease on the same content on {content.inode}"
    if sight.is_unlinked and are_linked:
        yield f"{holding} lies on a file that was unlinked"
    if sight.protection and sight.protection != (_PROTECTIONS["r+"] if holding.is_writer else _PROTECTIONS[holding.mode]):
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
        f"{name or 'unnamed'}, {nbytes} bytes, {'published' if is_published else 'being written'}, held by "
        f"{list(holders)}, "
        f"{tickets} tickets, {readers} readers expected, checksum {checksum:08x}"
    )
