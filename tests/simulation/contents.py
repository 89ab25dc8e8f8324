"""What the oracle knows of contents: what was written where, who counts on it, and which tickets are out."""

from __future__ import annotations

from shmlease.client.ticket import Ticket
from simulation.scheduler import Process

__all__ = ["Content", "Holding", "IssuedTicket"]


class Content:
    """What one writer put into a segment, and who counts on it."""

    __slots__ = (
        "disturbed",
        "has_name",
        "holdings",
        "inode",
        "is_mutable",
        "is_said",
        "name",
        "nameless_since_ns",
        "number",
        "published",
        "readers",
        "readers_certain",
        "readers_deadline_ns",
        "stamp",
        "tickets",
    )

    def __init__(self, number: int, inode: int, stamp: int, name: str | None) -> None:
        self.number = number
        self.inode = inode
        self.stamp = stamp
        self.name = name
        self.has_name = name is not None  # for certain: nobody has begun to withdraw it
        self.nameless_since_ns: int | None = None  # its name was withdrawn by then, and may be another's
        self.is_mutable = False
        self.published = False  # perhaps: others may read it
        self.is_said = False  # for certain: the call that published it has returned
        self.disturbed = ""  # why this memory must not be used again
        self.holdings: list[Holding] = []
        self.tickets: list[IssuedTicket] = []
        self.readers = 0
        self.readers_certain = True
        self.readers_deadline_ns = 0

    def __repr__(self) -> str:
        return f"content {self.stamp} ({self.name or 'unnamed'}) in s{self.number}"


class Holding:
    """One process's use of a content.

    `counts` while the registry must keep the segment for it; `maps` while the process may look at the memory.
    """

    __slots__ = ("content", "counts", "maps", "process")

    def __init__(self, content: Content, process: Process, *, counts: bool = True) -> None:
        self.content = content
        self.process = process
        self.counts = counts
        self.maps = True
        content.holdings.append(self)
        process.at_death.append(self._died)

    def end(self) -> None:
        """Nobody counts on it any more."""
        self.counts = self.maps = False
        if self in self.content.holdings:
            self.content.holdings.remove(self)

    def _died(self) -> None:
        if self.counts:
            self.content.disturbed = f"{self.process} died with it"
        self.end()

    def __repr__(self) -> str:
        return f"{self.process} on {self.content}"


class IssuedTicket:
    """A ticket that was handed out."""

    __slots__ = ("content", "receiver", "redeemer", "revokers", "ticket", "used")

    def __init__(self, content: Content, ticket: Ticket, receiver: Process | None) -> None:
        self.content = content
        self.ticket = ticket
        self.receiver = receiver  # with whom it ends
        self.redeemer: Process | None = None
        self.revokers: set[Process] = set()  # who took it back, or tried to
        self.used = False

    def is_good(self, now_ns: int) -> bool:
        """Whether its segment must be there."""
        if self.used:
            return False
        if self.redeemer is not None:
            return self.redeemer.alive and self.redeemer not in self.revokers
        if self.receiver is not None and not self.receiver.alive:
            return False
        return now_ns < self.ticket.deadline_ns

    def __repr__(self) -> str:
        return f"ticket {self.ticket.id:#x} on {self.content}"
