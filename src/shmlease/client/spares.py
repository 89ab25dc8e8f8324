"""Taking a segment that was granted ahead, without asking the registry: a lock on its file decides who gets it."""

from __future__ import annotations

from shmlease.client.hold import Hold
from shmlease.core import messages as m

__all__ = ["take_spare"]


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
