"""Taking a ticket back: its token is claimed, as by who redeems it, and nobody else can."""

from __future__ import annotations

from shmlease.client.link import Link
from shmlease.core import messages as m

__all__ = ["revoke"]


def revoke(link: Link, ticket: int) -> bool:
    """Take the ticket back; False if its token is gone."""
    revocation = _Revocation(link, ticket)
    try:
        return revocation.run()
    except BaseException as error:  # if the token is claimed, the registry must learn why
        try:
            link.loose_ends.queue.append(revocation)
        finally:
            link.see_to_loose_ends(error)
        raise


class _Revocation:
    """A ticket that is being taken back."""

    def __init__(self, link: Link, ticket: int) -> None:
        self.link = link
        self.session = link.session
        self.ticket = ticket
        self.claimed: list[None] = []  # not empty when the token is ours

    def run(self) -> bool:
        """Claim the token, and tell the registry."""
        link = self.link
        link.require_outside()
        with link.lock:
            link.make_ready()
            self.session = link.session
            if not link.endpoint.claim_token(self.ticket, self.session.client, self.claimed):
                return False
            self.settle()
        link.flush(urgent=True)
        return True

    def settle(self) -> None:
        """Queue what the registry must know. The link's lock is held."""
        if self.session is not self.link.session or not self.claimed:
            return
        ticket = self.ticket
        self.claimed = []
        self.session.outbox.append(lambda seq: m.Revoked(seq, ticket))
