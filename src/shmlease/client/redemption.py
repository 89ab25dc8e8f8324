"""Redeeming a ticket, without asking the registry: whoever renames its token has it; a notice says so afterwards."""

from __future__ import annotations

from functools import partial

import msgspec

from shmlease.client.hold import Hold
from shmlease.core import messages as m
from shmlease.core.session import Build

__all__ = ["Redemption", "redeem_token"]


class Redemption(msgspec.Struct):
    """A ticket that is being redeemed as `lease`; `claimed` is empty until its token is ours."""

    lease: int
    notice: Build
    claimed: list[None] = []


def redeem_token(hold: Hold, ticket: int, site: str, due_ns: int, mode: m.AttachMode) -> bool:
    """Take the token of a ticket, which only one can; whether it was there."""
    link = hold.link
    link.require_outside()
    session = link.session
    with link.lock:
        if not link.channel.is_ready:
            link.make_ready()
        lease = session.new_id()
        notice = partial(m.Redeemed, lease=lease, ticket=ticket, site=site, due_ns=due_ns, mode=mode)
        redemption = Redemption(lease, notice)
        hold.redemption = redemption
        if not link.endpoint.claim_token(ticket, session.client, redemption.claimed):
            hold.redemption = None
            return False
        hold.redeemed()
    link.flush()
    return True
