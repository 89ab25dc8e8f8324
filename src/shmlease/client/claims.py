"""What a client takes without asking the registry: a segment granted ahead, and the token of a ticket.

Files decide who gets it: a lock on the segment's, the name of the token's. The registry is told afterwards, by a notice.
"""

from __future__ import annotations

from shmlease.client.hold import Hold, Redemption
from shmlease.core import messages as m

__all__ = ["redeem_token", "take_spare"]


def take_spare(hold: Hold, size_bytes: int, most_bytes: int) -> m.Spare | None:
    """A segment granted ahead, if there is one that fits: to be claimed, or its lease released.

    From here on it cannot be revoked: a lock on its file says that it is taken, until the registry has read the claim.
    """
    link = hold.link
    link.require_outside()
    session = link.session
    with link.lock:
        link.make_ready()
        if not session.spares:
            link.poll()
        spare = session.fitting_spare(size_bytes, most_bytes)
        if spare is not None:
            token = link.endpoint.new_claim()
            hold.is_unsure = True
            session.claim(spare, token)
            hold.lease = spare.lease
            if link.endpoint.claim_spare(spare.segment, spare.generation, token):
                hold.is_unsure = False
            else:
                token.close()
                hold.lease = 0
                del session.claims[spare.lease]
                spare = None
    link.see_to_the_rest()
    return spare


def redeem_token(hold: Hold, ticket: int, site: str, due_ns: int, mode: m.AttachMode) -> bool:
    """Take the token of a ticket, which only one can; whether it was there."""
    link = hold.link
    link.require_outside()
    session = link.session
    with link.lock:
        link.make_ready()
        lease = session.id_of(session.next_seq())
        redemption = Redemption(lease, lambda seq: m.Redeemed(seq, lease, ticket, site, due_ns, mode))
        hold.redemption = redemption
        if not link.endpoint.claim_token(ticket, session.client, redemption.claimed):
            hold.redemption = None
            return False
        hold.redeemed()
    link.flush()
    return True
