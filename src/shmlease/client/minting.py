"""Making a ticket: a token in the registry's directory, and a notice that says whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmlease.client.refusals import explain_shortage
from shmlease.client.ticket import Ticket
from shmlease.core import messages as m
from shmlease.core.model import Identity
from shmlease.errors import CapacityError, LeaseError
from shmlease.interrupts import is_from_handler
from shmlease.system.shm_shortage import explained

if TYPE_CHECKING:
    from shmlease.client.hold import Hold
    from shmlease.client.lease import Lease
    from shmlease.client.link import Link

__all__ = ["mint"]


def mint(lease: Lease[Any], deadline_ns: int, receiver: Identity | None, site: str) -> Ticket:
    """A ticket on the segment of `lease`, which ends with the process `receiver` if it is for one.

    Raises
    ------
    CapacityError
        There is no room for its token.
    """
    link, grant = lease._link, lease._grant
    minting = _Minting(link, lease._hold, deadline_ns, site, receiver)
    try:
        link.require_outside()
        session = link.session
        with link.lock:
            if not link.channel.is_ready:
                link.make_ready()
            number = minting.ticket = session.new_id()
            link.endpoint.mint_token(number, minting.minted)
            minting.is_queued = True
            session.outbox.append(minting.notice)
        link.flush()
        ticket = Ticket(
            link.endpoint.id,
            number,
            grant.segment,
            grant.generation,
            grant.size_bytes,
            deadline_ns,
            grant.name,
            grant.layout.encoded,
            grant.mutable,
        )
    except BaseException as error:  # nobody has the ticket
        try:
            link.loose_ends.queue.append(minting)
        finally:
            link.see_to_loose_ends(error)
        if isinstance(error, OSError) and not isinstance(error, LeaseError) and not is_from_handler(error):
            raise CapacityError(f"no room in /dev/shm for a ticket of {lease!r}: {explained(error)}") from None
        explain_shortage(error, f"no ticket of {lease!r} can be made")
        raise
    return ticket


class _Minting:
    """A ticket that is being made: if its call is interrupted, nobody has it, and it must not hold its segment."""

    def __init__(self, link: Link, hold: Hold, deadline_ns: int, site: str, receiver: Identity | None) -> None:
        self.link = link
        self.session = link.session
        self.lease = hold.lease
        self.deadline_ns = deadline_ns
        self.site = site
        self.receiver = receiver
        self.ticket = 0
        self.minted: list[None] = []  # not empty when there is a token
        self.claimed: list[None] = []
        self.is_queued = False

    def notice(self, seq: int) -> m.Mint:
        """What the registry must know of it."""
        return m.Mint(seq, self.lease, self.ticket, self.deadline_ns, self.site, self.receiver)

    def settle(self) -> None:
        """Use the ticket up. The link's lock is held."""
        session, endpoint, ticket = self.session, self.link.endpoint, self.ticket
        if session is not self.link.session or not self.minted:
            return
        notices: list[Any] = []
        if not self.is_queued:
            endpoint.void_token(ticket)
        elif self.claimed or endpoint.claim_token(ticket, session.client, self.claimed):
            lease = session.new_id()
            notices = [lambda seq: m.Redeemed(seq, lease, ticket, self.site, 0), session.release_of(lease)]
        self.minted = []
        session.outbox.extend(notices)
