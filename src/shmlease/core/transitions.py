"""The states of a segment and of a lease, and the one literal table of what may follow what.

The table obeys it: `Rows.move_segment` and `Rows.move_lease` are the only ways to another state, and look here.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = [
    "LEASE_TRANSITIONS",
    "SEGMENT_TRANSITIONS",
    "LeaseEvent",
    "LeaseState",
    "SegmentEvent",
    "SegmentState",
    "after_lease",
    "after_segment",
]


class SegmentState(enum.StrEnum):
    """Where a segment is in its life."""

    CREATING = "creating"  # the file is being made; nobody holds it yet
    RESERVED = "reserved"  # granted ahead to one client, which may claim it without asking
    FILLING = "filling"  # leased to its writer, not yet attachable
    PUBLISHED = "published"  # attachable, read-only for everyone
    WARM = "warm"  # free, kept in the pool for the next lease
    RETIRING = "retiring"  # free, its file is being unlinked


class SegmentEvent(enum.StrEnum):
    """What happens to a segment."""

    CREATED = "created"
    SET_ASIDE = "set aside"
    CLAIMED = "claimed"
    KEPT = "kept by its client"
    PUBLISHED = "published"
    POOLED = "last use ended, clean"
    RECYCLED = "made of the file of one that had a name in /dev/shm"
    REUSED = "reused"
    RETIRED = "last use ended, or trimmed"
    FAILED = "its file could not be made"
    UNLINKED = "its file is gone"


# None: the row is gone.
SEGMENT_TRANSITIONS: Final[dict[tuple[SegmentState, SegmentEvent], SegmentState | None]] = {
    (SegmentState.CREATING, SegmentEvent.CREATED): SegmentState.FILLING,
    (SegmentState.CREATING, SegmentEvent.SET_ASIDE): SegmentState.RESERVED,
    (SegmentState.CREATING, SegmentEvent.RECYCLED): SegmentState.WARM,
    (SegmentState.CREATING, SegmentEvent.RETIRED): SegmentState.RETIRING,
    (SegmentState.CREATING, SegmentEvent.FAILED): None,
    (SegmentState.RESERVED, SegmentEvent.CLAIMED): SegmentState.FILLING,
    (SegmentState.RESERVED, SegmentEvent.POOLED): SegmentState.WARM,
    (SegmentState.RESERVED, SegmentEvent.RETIRED): SegmentState.RETIRING,
    (SegmentState.FILLING, SegmentEvent.PUBLISHED): SegmentState.PUBLISHED,
    (SegmentState.FILLING, SegmentEvent.KEPT): SegmentState.RESERVED,
    (SegmentState.FILLING, SegmentEvent.POOLED): SegmentState.WARM,
    (SegmentState.FILLING, SegmentEvent.RETIRED): SegmentState.RETIRING,
    (SegmentState.PUBLISHED, SegmentEvent.POOLED): SegmentState.WARM,
    (SegmentState.PUBLISHED, SegmentEvent.RETIRED): SegmentState.RETIRING,
    (SegmentState.WARM, SegmentEvent.REUSED): SegmentState.FILLING,
    (SegmentState.WARM, SegmentEvent.SET_ASIDE): SegmentState.RESERVED,
    (SegmentState.WARM, SegmentEvent.RETIRED): SegmentState.RETIRING,
    (SegmentState.RETIRING, SegmentEvent.UNLINKED): None,
}


class LeaseState(enum.StrEnum):
    """Where a lease is in its life; an ended lease has no row."""

    RESERVED = "reserved"  # granted ahead; its client may claim it without asking
    HELD = "held"
    DETACHED = "detached"  # the array carries it: it ends with its last view
    LINGERING = "lingering"  # released by its user, but numpy views of it are still alive


class LeaseEvent(enum.StrEnum):
    """What happens to a lease."""

    CLAIMED = "claimed"
    KEPT = "kept by its client"
    DETACHED = "its array was detached"
    LINGERED = "released with views alive"
    ENDED = "released, or its holder died"


LEASE_TRANSITIONS: Final[dict[tuple[LeaseState, LeaseEvent], LeaseState | None]] = {
    (LeaseState.RESERVED, LeaseEvent.CLAIMED): LeaseState.HELD,
    (LeaseState.RESERVED, LeaseEvent.ENDED): None,
    (LeaseState.HELD, LeaseEvent.KEPT): LeaseState.RESERVED,
    (LeaseState.HELD, LeaseEvent.DETACHED): LeaseState.DETACHED,
    (LeaseState.HELD, LeaseEvent.LINGERED): LeaseState.LINGERING,
    (LeaseState.HELD, LeaseEvent.ENDED): None,
    (LeaseState.DETACHED, LeaseEvent.ENDED): None,
    (LeaseState.LINGERING, LeaseEvent.ENDED): None,
}


def after_segment(number: int, state: SegmentState, event: SegmentEvent) -> SegmentState | None:
    """The state that `event` takes segment `number` to; None if it ends.

    Raises
    ------
    AssertionError
        The transition is not in `SEGMENT_TRANSITIONS`: a defect of the table, never of a client.
    """
    try:
        return SEGMENT_TRANSITIONS[state, event]
    except KeyError:
        raise AssertionError(f"segment {number} is {state}: {event!s} cannot happen to it") from None


def after_lease(identifier: int, state: LeaseState, event: LeaseEvent) -> LeaseState | None:
    """The state that `event` takes lease `identifier` to; None if it ends.

    Raises
    ------
    AssertionError
        The transition is not in `LEASE_TRANSITIONS`: a defect of the table, never of a client.
    """
    try:
        return LEASE_TRANSITIONS[state, event]
    except KeyError:
        raise AssertionError(f"lease {identifier:#x} is {state}: {event!s} cannot happen to it") from None
