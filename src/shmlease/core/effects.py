"""What the lease table wants done: it decides, the registry's shell acts and reports back what came of it.

Two kinds. Those of `BEFORE_COMMIT` find out something the next decision needs, and are harmless when the registry dies
before the change is in the ledger: a file without a row is removed by the successor. The others tell the world what was
decided, and are carried out only when the ledger has it.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from shmlease.core.messages import RegistryMessage

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
    "VoidToken",
]


@dataclasses.dataclass(frozen=True, slots=True)
class CreateSegment:
    """Make the file of a segment; answered by `Table.segment_created` or `Table.segment_failed`."""

    segment: int
    size_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class RevokeSpare:
    """Take a spare back unless its client has claimed it; answered by `Table.spare_revoked`."""

    segment: int
    generation: int
    lease: int


@dataclasses.dataclass(frozen=True, slots=True)
class VoidToken:
    """Make an expired ticket unredeemable; answered by `Table.token_voided`."""

    ticket: int


@dataclasses.dataclass(frozen=True, slots=True)
class LinkAlias:
    """Give a segment its name in /dev/shm itself; answered by `Aliases.linked`."""

    segment: int
    alias: str
    client: int
    seq: int


@dataclasses.dataclass(frozen=True, slots=True)
class RetireSegment:
    """Unlink a segment's file and alias; `punch` frees its pages though caches still map it.

    Answered by `Table.segment_retired`.
    """

    segment: int
    alias: str
    punch: bool


@dataclasses.dataclass(frozen=True, slots=True)
class DropToken:
    """Remove the token of a ticket that was redeemed."""

    ticket: int
    client: int


@dataclasses.dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a client, if it is connected."""

    client: int
    message: RegistryMessage


@dataclasses.dataclass(frozen=True, slots=True)
class DropClient:
    """Close the connection of a client that has ended and remove its notice log."""

    client: int


@dataclasses.dataclass(frozen=True, slots=True)
class Stop:
    """End the registry: nothing is left that needs it."""


Effect = CreateSegment | RevokeSpare | VoidToken | LinkAlias | RetireSegment | DropToken | Send | DropClient | Stop
BEFORE_COMMIT: Final = (CreateSegment, RevokeSpare, VoidToken)
