"""Taking a segment that was granted ahead, without asking the registry: a lock on its file decides who gets it.

The last one that was given back, and of which nobody else ever had a part, is kept: to take it again neither a file is
opened nor a notice written. While it is not in use it is not locked, so that the registry can take it back.
"""

from __future__ import annotations

from typing import Final

from shmlease.client.hold import Hold
from shmlease.core import messages as m
from shmlease.core.claims import Kept, Said

__all__ = ["KEEP_AFTER", "take_kept", "take_spare"]

# Who takes so many spares is likely to go on: only then is one kept, and a descriptor of it.
KEEP_AFTER: Final = 8


def take_spare(hold: Hold, size_bytes: int, most_bytes: int, *, may_keep: bool = False) -> m.Spare | None:
    """A segment granted ahead, if there is one that fits: to be claimed, or its lease released.

    From here on it cannot be revoked: a lock on its file says that it is taken, until the registry has read the claim. With
    `may_keep` it may be one that is used without notices: see `Hold.kept`.
    """
    link = hold.link
    link.require_outside()
    session = link.session
    with link.lock:
        if not link.channel.is_ready:
            link.make_ready()
        if may_keep:
            session.give_up_kept()
        if not session.spares:
            link.poll()
        spare = session.fitting_spare(size_bytes, most_bytes)
        if spare is not None:
            token = link.endpoint.new_claim()
            hold.is_unsure = True
            if may_keep and session.kept is None and session.spares_taken >= KEEP_AFTER:
                kept = Kept(spare, token)
                session.kept = hold.kept = kept
                del session.spares[spare.lease]
            else:
                session.claim(spare, token)
            hold.lease = spare.lease
            if link.endpoint.claim_spare(spare.segment, spare.generation, token):
                hold.is_unsure = False
                session.spares_taken += 1
                if session.has_spares_coming():
                    link.poll()
            else:
                token.close()
                hold.lease = 0
                if hold.kept is not None:
                    session.kept = hold.kept = None
                else:
                    del session.claims[spare.lease]
                spare = None
    link.see_to_the_rest()
    return spare


def take_kept(hold: Hold, size_bytes: int, most_bytes: int, said: Said) -> m.Spare | None:
    """The spare that this process keeps, in use from now on, which `said` describes; None if there is none that fits."""
    link = hold.link
    link.require_outside()
    session = link.session
    if session.kept is None:
        return None
    with link.lock:
        if not link.channel.is_ready:
            link.make_ready()
        kept = session.kept
        if kept is None or kept.is_taken or not size_bytes <= kept.spare.size_bytes <= most_bytes:
            return None
        spare = kept.spare
        kept.is_taken = hold.is_unsure = True
        hold.kept = kept
        hold.lease = spare.lease
        if not link.endpoint.claim_again(spare.generation, kept.token):  # it was revoked
            kept.token.close()
            session.kept = hold.kept = None
            hold.lease = 0
            return None
        hold.is_unsure = False
        is_due = hold.begin_use(kept, said)
        if is_due:
            link.poll()  # nothing else may do so for long
    if is_due:
        link.flush(urgent=True)
    else:
        link.see_to_the_rest()
    return spare
