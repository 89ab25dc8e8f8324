"""What a server is given: a transport to its clients, a store for its files, a log for its table.

Each has a real form and one in memory, both held to the same tests: the loop of a registry process and `MemoryTransport`,
the directory in /dev/shm and `MemoryStore`, the ledger and `MemoryLedger`. None of them blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from shmlease.core.messages import Notice
from shmlease.core.model import Change, Identity, Row
from shmlease.core.uses import Use
from shmlease.system.descriptors import Descriptors

__all__ = ["Log", "Store", "Transport"]


class Transport(Protocol):
    """Carries packets to and from clients."""

    def send(self, client: int, packet: bytes) -> None:
        """Send, or drop the client if it does not read what it is sent."""
        ...

    def unread(self) -> list[int]:
        """Clients that have sent packets which were not handed to the server yet."""
        ...

    def descriptors(self) -> Descriptors:
        """How many descriptors this process has open, and may have."""
        ...

    def drop(self, client: int) -> None:
        """Close the connection of `client`, if it has one."""
        ...

    def watch_receiver(self, ticket: int, receiver: Identity) -> bool:
        """Tell the table when the process that `ticket` was made for has ended; False if it has."""
        ...

    def unwatch_receiver(self, ticket: int) -> None:
        """The ticket has ended: nobody is watched for it."""
        ...

    def stop(self) -> None:
        """End the loop that serves this server."""
        ...


class Store(Protocol):
    """Segments, tokens of tickets and notice logs of one registry, each under its number.

    Whatever changes one is atomic. Removing what is not there is no error; an OSError says what could not be made, or
    removed.
    """

    def create_segment(self, number: int, size_bytes: int) -> None:
        """Make a segment, its pages not reserved."""
        ...

    def unreserved_bytes(self, number: int) -> int:
        """How much of a segment has no pages yet; 0 if it is gone."""
        ...

    def retire_segment(self, number: int, alias: str, *, punch: bool) -> None:
        """Remove a segment and its alias, if it has one; `punch` frees its pages though somebody still maps it."""
        ...

    def recycle_segment(self, number: int, alias: str, size_bytes: int, into: int) -> bool:
        """Make a segment, without its alias, segment `into`; False, with nothing made, if anybody may have it open."""
        ...

    def link_alias(self, number: int, alias: str) -> None:
        """Give a segment a second name, in /dev/shm itself."""
        ...

    def unlink_alias(self, number: int, alias: str) -> None:
        """Take a second name away again; the segment stays."""
        ...

    def free_bytes(self) -> int:
        """How much room is left."""
        ...

    def revoke_spare(self, number: int, generation: int) -> bool:
        """Remove a spare, unless its client has claimed it: then False."""
        ...

    def void_token(self, ticket: int) -> int | None:
        """Make a ticket unredeemable: None; or the client that has redeemed it already."""
        ...

    def drop_token(self, ticket: int, client: int) -> None:
        """Remove the token that `client` redeemed."""
        ...

    def create_notice_log(self, client: int) -> None:
        """Make the notice log of `client`."""
        ...

    def read_notice_log(self, client: int, applied: int) -> list[Notice]:
        """The notices of `client` after number `applied` that were not read before."""
        ...

    def read_use(self, client: int) -> Use | None:
        """What `client` did with the spare that it keeps, as of `read_notice_log`; None if that was read before."""
        ...

    def drop_notice_log(self, client: int) -> None:
        """Remove the notice log of `client`."""
        ...

    def entries(self) -> Iterator[tuple[str, int, int | None]]:
        """Kind (``s``, ``t`` or ``j``), number, and the redeeming client of all there is."""
        ...

    def remove_entry(self, kind: str, number: int, client: int | None) -> None:
        """Remove one of `entries`."""
        ...


class Log(Protocol):
    """Keeps the committed changes of the table where a successor finds them."""

    def wants_compaction(self) -> bool:
        """Whether most of the log is history."""
        ...

    def has_room(self) -> bool:
        """Whether the table may grow; room for what makes it shrink is reserved."""
        ...

    def commit(self, changes: Sequence[Change]) -> None:
        """Append `changes`: all of them happened, or, after an OSError, none."""
        ...

    def compact(self, rows: Iterable[Row]) -> None:
        """Begin anew with `rows`, which are all there are."""
        ...
