"""Leases over a fork: the parent says what the child will map, and the child takes leases of its own on what it uses."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

from shmlease.client.call_site import calling_site
from shmlease.client.hold import Hold, held, held_leases
from shmlease.client.link_cache import detached_holds
from shmlease.core import messages as m
from shmlease.errors import LeaseClosedError
from shmlease.interrupts import is_from_handler

if TYPE_CHECKING:
    from shmlease.client.lease import Lease

__all__ = ["take_own"]


def take_own(lease: Lease[Any]) -> None:
    """In a forked child: a lease of this process on what the parent's holds; the memory is mapped already."""
    theirs, site, link = lease._hold, calling_site(), lease._link
    own = Hold(link)
    own.is_exposed = True
    if theirs.is_in_use:  # Python was not told of the fork, so nobody has told the registry
        raise LeaseClosedError(
            f"{lease!r} was inherited through a fork that Python was not told of, and is not published: its memory may be "
            "another array's by now",
            site=lease._site,
        )
    try:
        try:
            attached = link.request(
                m.Attached, lambda seq: m.Inherit(seq, link.session.id_of(seq), theirs.lease, site), hold=own
            )
        except LeaseClosedError as error:
            if is_from_handler(error):
                raise
            raise LeaseClosedError(
                f"{lease!r} was inherited through a fork from a process that has released it", site=lease._site
            ) from error
        if (attached.segment, attached.generation) != (lease._grant.segment, lease._grant.generation):
            raise LeaseClosedError(
                f"{lease!r} was inherited through a fork and names another segment now", site=lease._site
            )
        own.segment, own.mapping = theirs.segment, theirs.mapping
        held[own] = weakref.ref(lease)
        assert lease._anchor is not None
        own.anchor = link.loose_ends.watch(lease._anchor, own)
        lease._hold = own
    except BaseException as error:
        try:
            link.loose_ends.queue.append(own)
        finally:
            link.see_to_loose_ends(error)
        raise
    held.pop(theirs, None)


def _tell_of_fork() -> None:
    """Before a fork: what is leased now will be mapped by a process that the registry does not know."""
    for hold in [lease._hold for lease in held_leases()] + detached_holds():
        link = hold.link
        if hold.lease and not hold.is_exposed and not link.ended:  # it may have been settled beside another one
            hold.is_exposed = True
            hold.tell()
            identifier = hold.lease
            link.session.outbox.append(lambda seq, identifier=identifier: m.Share(seq, identifier))  # type: ignore[misc]
            link.settle()


os.register_at_fork(before=_tell_of_fork)
