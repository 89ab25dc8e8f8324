"""The ways to a lease: by request, on a segment granted ahead, by name, by address, by ticket.

Each fills a lease object that was made before. What it has taken on stands in the lease's `Hold` at every moment, so that
`acquired`, which calls it, can give it back whatever exception ends it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import Any

from shmlease.client.address import Address
from shmlease.client.grant import Grant
from shmlease.client.layout import Layout, decode_layout
from shmlease.client.lease import Lease, OnLingering
from shmlease.client.link import Link
from shmlease.client.redemption import redeem_token
from shmlease.client.refusals import explain_shortage
from shmlease.client.spares import take_kept, take_spare
from shmlease.client.ticket import Ticket
from shmlease.core import messages as m
from shmlease.core.messages import AttachMode
from shmlease.core.sizes import WASTE_LIMIT, file_size
from shmlease.errors import (
    CapacityError,
    LeaseClosedError,
    ModeError,
    ProtocolError,
    SegmentNotFoundError,
    TicketError,
)
from shmlease.interrupts import is_from_handler
from shmlease.system.shm_shortage import explained
from shmlease.units import format_bytes

__all__ = [
    "acquire_by_address",
    "acquire_by_name",
    "acquire_by_ticket",
    "acquire_kept",
    "acquire_new",
    "acquire_spare",
    "acquired",
    "claim_spare",
]


def acquired(link: Link, on_lingering: OnLingering, site: str, fill: Callable[[Lease[Any]], None]) -> Lease[Any]:
    """The lease, taken at `site`, that `fill` has filled; if an exception ends that, nothing stays leased."""
    lease: Lease[Any] = Lease(link, on_lingering, site)
    hold, loose_ends = lease._hold, link.loose_ends.queue
    try:
        fill(lease)
    except BaseException as error:
        lease.__class__ = Lease
        lease._array = lease._anchor = None
        try:
            loose_ends.append(hold)
        finally:
            link.see_to_loose_ends(error)
        explain_shortage(error, "no segment can be leased")
        raise
    return lease


def acquire_new(
    lease: Lease[Any], name: str | None, layout: Layout, timeout_s: float, due_ns: int, *, mutable: bool = False
) -> None:
    """A new segment, which may have to be waited for; a mutable one is zeroed, and published at once."""
    link, hold, site = lease._link, lease._hold, lease._site
    clock, size_bytes = link.endpoint.clock, file_size(layout.nbytes)

    def ask(wait_ns: int) -> m.Granted:
        return link.request(
            m.Granted,
            lambda seq: m.Lease(
                seq,
                link.session.id_of(seq),
                name,
                size_bytes,
                layout.nbytes,
                layout.encoded,
                site,
                due_ns,
                wait_ns,
                mutable,
            ),
            wait_ns / 1e9,
            hold,
        )

    deadline_ns = clock.now_ns() + int(timeout_s * 1e9)
    granted = ask(int(timeout_s * 1e9))
    while True:
        try:
            _fill_writer(lease, granted, layout, name, mutable=mutable)
            if mutable:
                if not granted.fresh:
                    lease._zero()
                lease.publish()
            return
        except OSError as error:
            if is_from_handler(error):
                raise
            if error.errno != errno.ENOSPC:
                raise CapacityError(
                    f"a segment of {format_bytes(size_bytes)} cannot be mapped: {explained(error)}",
                    requested_bytes=size_bytes,
                ) from error
        left_ns = max(deadline_ns - clock.now_ns(), 0)
        declined = granted.lease
        hold.is_unsure = True  # the registry ends the lease when it reads that it was declined
        try:
            granted = link.request(m.Granted, lambda seq: m.Decline(seq, declined, left_ns), left_ns / 1e9, hold)  # noqa: B023
        except LeaseClosedError as error:
            if is_from_handler(error):
                raise
            # declined to a registry that died, or over a connection that ended, before it was served
            granted = ask(left_ns)


def acquire_kept(lease: Lease[Any], layout: Layout, due_ns: int) -> bool:
    """The spare that this process keeps, in use from now on; False if there is none that fits."""
    size_bytes = file_size(layout.nbytes)
    said = layout.nbytes, layout.encoded, lease._site, due_ns
    spare = take_kept(lease._hold, size_bytes, int(size_bytes * WASTE_LIMIT), said)
    if spare is not None:
        _fill_writer(lease, spare, layout, None, mutable=False)
    return spare is not None


def acquire_spare(lease: Lease[Any], layout: Layout, *, may_keep: bool = False) -> bool:
    """A segment granted ahead, to be claimed by `claim_spare`; False if there is none that fits."""
    link, hold = lease._link, lease._hold
    size_bytes = file_size(layout.nbytes)
    spare = take_spare(hold, size_bytes, int(size_bytes * WASTE_LIMIT), may_keep=may_keep)
    if spare is None:
        return False
    try:
        _fill_writer(lease, spare, layout, None, mutable=False)
    except OSError as error:  # /dev/shm filled up since: wait in line like everybody
        if is_from_handler(error):
            raise
        hold.tell()
        release = link.session.release_of(spare.lease)
        hold.lease = 0
        link.session.outbox.append(release)
        link.settle()
        return False
    return True


def claim_spare(lease: Lease[Any], due_ns: int, *, published: bool) -> None:
    """Tell the registry that the spare is in use."""
    link, layout, site, hold = lease._link, lease._grant.layout, lease._site, lease._hold
    number = hold.lease
    if hold.kept is not None:
        with link.lock:
            is_due = hold.begin_use(hold.kept, (layout.nbytes, layout.encoded, site, due_ns))
        if is_due or link.session.needs_spares():
            link.flush(urgent=True)
        return
    claim = partial(
        m.Claim,
        lease=number,
        nbytes=layout.nbytes,
        layout=layout.encoded,
        site=site,
        due_ns=due_ns,
        published=published,
    )
    link.send(claim, urgent=link.session.needs_spares())


def acquire_by_name(
    lease: Lease[Any], name: str, mode: AttachMode, timeout_s: float, due_ns: int, *, is_patient: bool
) -> None:
    """A published segment, which may have to be waited for; who `is_patient` does so though its writer has ended."""
    link, site = lease._link, lease._site
    attached = link.request(
        m.Attached,
        lambda seq: m.Attach(seq, link.session.id_of(seq), name, site, due_ns, int(timeout_s * 1e9), mode, is_patient),
        timeout_s,
        lease._hold,
    )
    _fill_attached(lease, attached, mode, f"segment {name!r}")


def acquire_by_address(lease: Lease[Any], address: Address, mode: AttachMode, due_ns: int) -> None:
    """A published segment that is known already, if it is still there."""
    link, site, segment, generation = lease._link, lease._site, address.segment, address.generation
    attached = link.request(
        m.Attached,
        lambda seq: m.AttachSegment(seq, link.session.id_of(seq), segment, generation, site, due_ns, mode),
        hold=lease._hold,
    )
    _fill_attached(lease, attached, mode, f"segment {segment}")


def acquire_by_ticket(lease: Lease[Any], ticket: Ticket, mode: AttachMode, due_ns: int) -> None:
    """The segment that a ticket was made for."""
    link, number = lease._link, ticket.id
    if mode is not AttachMode.READ and ticket.mutable != (mode is AttachMode.READ_WRITE):
        raise ModeError(
            f"{ticket!r} is for a segment that is {'mutable' if ticket.mutable else 'not mutable'}: "
            f"redeem it with mode={'r' if ticket.mutable else 'c'!r}, or 'r'"
        )
    if not redeem_token(lease._hold, number, lease._site, due_ns, mode):
        link.request(m.Done, lambda seq: m.Redeem(seq, number))  # always refused: the registry knows why
        raise TicketError(f"ticket {number:#x} cannot be redeemed", ticket=str(ticket))
    try:
        _fill_reader(lease, ticket, mode)
    except (FileNotFoundError, ProtocolError) as error:
        if is_from_handler(error):
            raise
        raise TicketError(f"ticket {number:#x} cannot be redeemed: {error}", ticket=str(ticket)) from None


def _fill_writer(
    lease: Lease[Any], granted: m.Granted | m.Spare, layout: Layout, name: str | None, *, mutable: bool
) -> None:
    mapping = lease._link.mappings.take_to_fill(granted.segment, granted.size_bytes, reserve=granted.fresh)
    grant = Grant(granted.segment, granted.generation, granted.size_bytes, layout, name, mutable)
    lease._fill(grant, mapping, is_writer=True, writable=True)


def _fill_attached(lease: Lease[Any], attached: m.Attached, mode: AttachMode, subject: str) -> None:
    try:
        _fill_reader(lease, attached, mode)
        lease._hold.is_exposed = attached.exposed  # what is never recycled need not stay mapped
    except FileNotFoundError as error:
        if is_from_handler(error):
            raise
        raise SegmentNotFoundError(
            f"{subject} has lost its file: its registry is being closed, or somebody removed it", name=attached.name
        ) from None


def _fill_reader(lease: Lease[Any], source: m.Attached | Ticket, mode: AttachMode) -> None:
    layout = decode_layout(source.layout)
    if layout.nbytes > source.size_bytes:
        raise ProtocolError(f"an array of {layout.nbytes} bytes does not fit on a segment of {source.size_bytes}")
    grant = Grant(source.segment, source.generation, source.size_bytes, layout, source.name, source.mutable)
    private = mode is AttachMode.COPY_ON_WRITE or (mode is AttachMode.READ and layout.kind == "private object")
    writable = mode is not AttachMode.READ
    mapping = lease._link.mappings.take(grant.segment, grant.size_bytes, writable=writable or private, private=private)
    lease._fill(grant, mapping, is_writer=False, writable=writable)
