"""What the lease table wants done: it decides, the registry's shell acts and reports back what came of it.

Two kinds. Those of `BEFORE_COMMIT` find out something the next decision needs, and are harmless when the registry dies
before the change is in the ledger: a file without a row is removed by the successor. The others tell the world what was
decided, and are carried out only when the ledger has it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from shmlease.core.messages import RegistryMessage
from shmlease.core.model import Identity

__all__ = [
    "BEFORE_COMMIT",
    "CreateSegment",
    "DropClient",
    "DropToken",
    "Effect",
    "LinkAlias",
    "RetireSegment",
    "RevokeSpare",
    "Send",
    "Stop",
    "UnlinkAlias",
    "UnwatchReceiver",
    "VoidToken",
    "WatchReceiver",
]


class CreateSegment(msgspec.Struct, frozen=True):
    """Make the file of a segment; answered by `Table.segment_created` or `Table.segment_failed`."""

    segment: int
    size_bytes: int


class RevokeSpare(msgspec.Struct, frozen=True):
    """Take a spare back unless its client has claimed it; answered by `Table.spare_revoked`."""

    segment: int
    generation: int
    lease: int


class VoidToken(msgspec.Struct, frozen=True):
    """Make an expired ticket unredeemable; answered by `Table.token_voided`."""

    ticket: int


class LinkAlias(msgspec.Struct, frozen=True):
    """Give a segment its name in /dev/shm itself; answered by `Aliases.linked`."""

    segment: int
    alias: str
    client: int
    seq: int


class RetireSegment(msgspec.Struct, frozen=True):
    """Unlink a segment's file and alias; `punch` frees its pages though caches still map it.

    Where `recycled_as` is not 0, and the kernel says that nobody has the file open, it becomes the file of the segment of
    that number instead, `size_bytes` large. Answered by `Table.segment_retired`.
    """

    segment: int
    alias: str
    punch: bool
    recycled_as: int = 0
    size_bytes: int = 0


class DropToken(msgspec.Struct, frozen=True):
    """Remove the token of a ticket that was redeemed."""

    ticket: int
    client: int


class UnlinkAlias(msgspec.Struct, frozen=True):
    """Take the name in /dev/shm itself from a segment that stays."""

    segment: int
    alias: str


class WatchReceiver(msgspec.Struct, frozen=True):
    """Tell `Table.receiver_ended` when the process that a ticket was made for has ended; at once, if it is not there."""

    ticket: int
    receiver: Identity


class UnwatchReceiver(msgspec.Struct, frozen=True):
    """The ticket has ended: nobody is to be watched for it."""

    ticket: int


class Send(msgspec.Struct, frozen=True):
    """Send a message to a client, if it is connected."""

    client: int
    message: RegistryMessage


class DropClient(msgspec.Struct, frozen=True):
    """Close the connection of a client that has ended and remove its notice log."""

    client: int


class Stop(msgspec.Struct, frozen=True):
    """End the registry: nothing is left that needs it."""


Effect = (
    CreateSegment
    | RevokeSpare
    | VoidToken
    | LinkAlias
    | UnlinkAlias
    | RetireSegment
    | DropToken
    | WatchReceiver
    | UnwatchReceiver
    | Send
    | DropClient
    | Stop
)
BEFORE_COMMIT: Final = (CreateSegment, RevokeSpare, VoidToken)
