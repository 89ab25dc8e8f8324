"""What must be so before a message of a client changes anything: whose an id is, whether it is new, whether a
name is free.
"""

from __future__ import annotations

from typing import Final

from shmlease.core.messages import AttachMode, RefusalCode
from shmlease.core.model import NUMBER_BITS, LeaseMode, LeaseRow, LeaseState, SegmentRow, client_of
from shmlease.core.refusals import Refusal, exists_refusal, mode_refusal, not_held_refusal, reused_id_refusal
from shmlease.core.rows import Rows

__all__ = ["SPARE_IDS", "held_by", "mode_of", "require_free_name", "require_new_id", "require_own_id"]

# Lease ids with this bit are the registry's to give: those of spares.
SPARE_IDS: Final = 1 << (NUMBER_BITS - 1)


def held_by(rows: Rows, client: int, lease_id: int, *, spare: bool = False) -> LeaseRow:
    """The lease, if `client` holds it; with `spare`, also one that was granted ahead and not claimed yet.

    Raises
    ------
    Refusal
        It does not.
    """
    lease = rows.leases.get(lease_id)
    if lease is None or client_of(lease_id) != client or (lease.state is LeaseState.RESERVED and not spare):
        raise not_held_refusal(lease_id, "this client does not hold it")
    return lease


def mode_of(segment: SegmentRow, mode: AttachMode) -> LeaseMode:
    """What a lease entitles to that is asked for in `mode`.

    Raises
    ------
    Refusal
        It would write what is sealed, or take what others write for a snapshot.
    """
    if mode is not AttachMode.READ and (mode is AttachMode.READ_WRITE) != segment.mutable:
        raise mode_refusal(segment, mode)
    return LeaseMode.WRITE if mode is AttachMode.READ_WRITE else LeaseMode.READ


def require_own_id(client: int, identifier: int) -> None:
    """Refuse an id that is not for `client` to choose."""
    if client_of(identifier) != client or identifier & SPARE_IDS:
        raise Refusal(RefusalCode.PROTOCOL, f"id {identifier:#x} is not for client {client} to choose", recorded=True)


def require_new_id(rows: Rows, client: int, identifier: int) -> None:
    """Refuse an id that `client` may not choose, or that a lease or ticket has already."""
    require_own_id(client, identifier)
    if identifier in rows.leases or identifier in rows.tickets:
        raise reused_id_refusal(identifier)


def require_free_name(rows: Rows, name: str | None, now_ns: int) -> None:
    """Refuse a name that a segment has."""
    if name is not None and name in rows.by_name:
        raise exists_refusal(rows, name, now_ns)
