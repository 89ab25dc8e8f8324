"""What the state machine believes: a naive account of who holds what, which shares no code with the lease table.

A content is what one writer put into one segment. It ends when nobody holds it, no ticket is out and no reader is expected.
There are no segment numbers here, no warm pool, no spares: which file serves a content is the registry's business, as long
as the promises hold.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

from shmlease import Address
from shmlease.client.handle import Mode
from shmlease.testing.worker_pool import WorkerProcess

__all__ = ["Content", "Holding", "IssuedTicket", "Model", "Row"]


@dataclasses.dataclass(eq=False)
class Content:
    """What one writer put into one segment."""

    name: str | None
    nbytes: int
    stamp: int
    checksum: int
    is_published: bool = False
    is_mutable: bool = False
    is_object: bool = False  # it was put: its bytes are a pickled object and its buffers
    readers_expected: int = 0
    disturbed: str = ""  # why its memory must not be used again
    inode: int = 0
    os_name: str = ""


@dataclasses.dataclass(eq=False)
class Holding:
    """One process's lease on a content, or a view that outlived it."""

    key: int
    worker: WorkerProcess
    content: Content
    is_writer: bool
    mode: Mode = "r"  # of a reader
    own_checksum: int | None = None  # of what it wrote, copy-on-write, for itself alone
    has_view: bool = False
    is_released: bool = False  # and the view is what still holds the segment
    is_detached: bool = False  # the view carries the lease, which then ends in order

    @property
    def may_write(self) -> bool:
        """Whether what it writes is seen by others."""
        return self.is_writer or self.mode == "r+"

    @property
    def checksum(self) -> int:
        """Of what its process must see."""
        return self.content.checksum if self.own_checksum is None else self.own_checksum

    def __repr__(self) -> str:
        return f"{self.worker}'s {'write' if self.is_writer else 'read'} lease on {self.content.name or 'unnamed'}"


@dataclasses.dataclass(eq=False)
class IssuedTicket:
    """A ticket."""

    text: str
    content: Content
    is_used: bool = False  # or taken back, or void
    receiver: WorkerProcess | None = None  # with whose end it ends


Row = tuple[str | None, int, bool, tuple[tuple[int, str, str], ...], int, int, int]


class Model:
    """Who holds what."""

    def __init__(self) -> None:
        self.workers: list[WorkerProcess] = []
        self.contents: list[Content] = []
        self.holdings: list[Holding] = []
        self.tickets: list[IssuedTicket] = []
        self.addresses: list[tuple[Address, Content]] = []
        self.inherited: list[tuple[WorkerProcess, Holding]] = []  # what a forked child may take a lease on
        self.never_again: dict[int, str] = {}  # inode of a content that ended otherwise than in order -> how

    def rows(self) -> Counter[Row]:
        """What the lease table must hold: for each content its name, size, state, holders, tickets, readers and
        checksum.
        """
        return Counter(
            (
                content.name,
                content.nbytes,
                content.is_published,
                tuple(sorted(self._holder(holding) for holding in self.holders_of(content))),
                sum(issued.content is content and not issued.is_used for issued in self.tickets),
                content.readers_expected,
                content.checksum,
            )
            for content in self.contents
        )

    def holders_of(self, content: Content) -> list[Holding]:
        """Who holds a content."""
        return [holding for holding in self.holdings if holding.content is content]

    def has_ticket(self, content: Content) -> bool:
        """Whether a ticket for a content is out."""
        return any(issued.content is content and not issued.is_used for issued in self.tickets)

    def named(self, name: str) -> Content | None:
        """The content of that name."""
        return next((content for content in self.contents if content.name == name), None)

    def leases(self, worker: WorkerProcess | None = None) -> Iterator[Holding]:
        """Leases that are not released, of workers that listen."""
        for holding in self.holdings:
            if not holding.is_released and not holding.worker.is_stopped and worker in (None, holding.worker):
                yield holding

    def add(self, content: Content) -> None:
        """A content begins."""
        self.contents.append(content)

    def end(self, holding: Holding, disturbed: str = "") -> None:
        """A holding is over."""
        self.holdings.remove(holding)
        self.disturb(holding.content, disturbed)
        self.end_if_unused(holding.content)

    def end_worker(self, worker: WorkerProcess, disturbed: str) -> None:
        """A process is over, and with it all it held."""
        self.workers.remove(worker)
        self.inherited = [(child, holding) for child, holding in self.inherited if child is not worker]
        for holding in [holding for holding in self.holdings if holding.worker is worker]:
            self.end(holding, disturbed)
        for issued in [issued for issued in self.tickets if issued.receiver is worker]:
            self.end_ticket(issued, "the receiver of a ticket ended")

    def end_ticket(self, issued: IssuedTicket, disturbed: str = "") -> None:
        """A ticket is over, and was not redeemed."""
        if not issued.is_used:
            issued.is_used = True
            self.disturb(issued.content, disturbed)
            self.end_if_unused(issued.content)

    def disturb(self, content: Content, why: str) -> None:
        """Something happened to a content after which its memory must not be used for another."""
        content.disturbed = content.disturbed or why

    def end_if_unused(self, content: Content) -> None:
        """End a content that nobody holds, is promised or waits for."""
        if content.readers_expected or self.has_ticket(content) or self.holders_of(content):
            return
        self.contents.remove(content)
        if content.disturbed and content.inode:
            self.never_again[content.inode] = content.disturbed

    def _holder(self, holding: Holding) -> tuple[int, str, str]:
        state = "detached" if holding.is_detached else "lingering" if holding.is_released else "held"
        return holding.worker.process.pid, "write" if holding.may_write else "read", state
