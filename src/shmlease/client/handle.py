"""A registry as this process sees it: leases, tickets, attaching and sharing."""

from __future__ import annotations

import contextlib
import errno
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from shmlease.client.copying import copy_into
from shmlease.client.layout import Layout, decode_layout, layout_of
from shmlease.client.lease import Lease, OnLingering, checked_on_lingering
from shmlease.client.link import Link
from shmlease.client.links import connected_link_to
from shmlease.client.site import calling_site
from shmlease.client.statistics import Statistics, statistics_of
from shmlease.client.ticket import Ticket
from shmlease.core import messages as m
from shmlease.core.sizes import WASTE_LIMIT, file_size
from shmlease.errors import (
    CapacityError,
    DTypeError,
    LeaseClosedError,
    LeaseError,
    ProtocolError,
    SegmentNotFoundError,
    TicketError,
)
from shmlease.system.exhaustion import explained
from shmlease.system.mapping import Mapping
from shmlease.units import format_bytes, parse_duration

__all__ = ["DEFAULT_TIMEOUT_S", "RegistryHandle"]

# A consumer started together with its producer waits this long for the name; one that waits longer is likely lost.
DEFAULT_TIMEOUT_S: Final = 5.0


class RegistryHandle:
    """A registry as this process sees it; made by `connect`, or by `Registry`, which also starts one.

    Threads may share a handle. A forked child may use it as well: it is a client of its own there. Pickled, it arrives as a
    handle on the same registry.
    """

    def __init__(self, link: Link, on_lingering: OnLingering = "warn") -> None:
        self._link = link
        self._on_lingering = checked_on_lingering(on_lingering)

    @property
    def id(self) -> str:
        """What `connect` and ``SHMLEASE_REGISTRY`` take."""
        return self._link.endpoint.id

    def lease(
        self,
        name: str | None = None,
        *,
        shape: int | tuple[int, ...],
        dtype: Any = float,
        order: str = "C",
        timeout: float | str = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease:
        """A new segment, to be written by this process.

        Its pages are reserved when it is granted: writing to it cannot fail. Its first content is undefined.

        Parameters
        ----------
        name : str, optional
            What others attach by: 1 to 255 characters, no control characters. It is free again when the segment ends.
        shape, dtype, order
            As of `numpy.empty`: any dtype without Python objects, any shape, ``"C"`` or ``"F"``.
        timeout : float or str
            Seconds to wait, in order of arrival, for capacity or for room in /dev/shm.
        due : float or str, optional
            Seconds within which the holder expects to be done; a lease held for longer is reported by the auditor as
            overdue. Nothing is taken away.

        Returns
        -------
        Lease
            Writable until `Lease.publish`. To be released, best by ``with``.

        Raises
        ------
        CapacityError
            There was no room within `timeout`; the figures are its attributes.
        SegmentExistsError
            The name is taken.
        DTypeError, ValueError
            The dtype, shape, order or name cannot be.
        RegistryUnavailableError
            The registry has ended.
        """
        return self._acquire(name, layout_of(shape, dtype, order), parse_duration(timeout), _seconds(due), calling_site())

    def attach(self, name: str, *, timeout: float | str = DEFAULT_TIMEOUT_S, due: float | str | None = None) -> Lease:
        """Read the segment `name`; waits until it is published.

        Raises
        ------
        SegmentNotFoundError
            Nothing of that name was published within `timeout` seconds.
        """
        link, site, timeout_s = self._link, calling_site(), parse_duration(timeout)
        due_ns = self._due_ns(_seconds(due))
        name = _checked_name(name)
        attached = link.request(
            m.Attached,
            lambda seq: m.Attach(seq, link.id_of(seq), name, site, due_ns, int(timeout_s * 1e9)),
            timeout_s,
        )
        try:
            return self._open(
                attached.lease, attached.segment, attached.generation, attached.size_bytes, attached.layout, attached.name,
                site,
            )  # fmt: skip
        except FileNotFoundError:
            raise SegmentNotFoundError(
                f"segment {name!r} has lost its file: its registry is being closed, or somebody removed it", name=name
            ) from None

    def redeem(self, ticket: Ticket | str, *, due: float | str | None = None) -> Lease:
        """Read the segment that `ticket` was made for; the ticket is used up.

        Raises
        ------
        TicketError
            It is no ticket, was redeemed before, has expired, or is of another registry.
        """
        if isinstance(ticket, str):
            ticket = Ticket.parse(ticket)
        elif not isinstance(ticket, Ticket):
            raise TypeError(f"what can be redeemed is a Ticket or its text, not {type(ticket).__name__}")
        link, site = self._link, calling_site()
        if ticket.registry != link.endpoint.id:
            raise TicketError(
                f"the ticket is of registry {ticket.registry}, this is {link.endpoint.id}; "
                f"redeem it with shmlease.connect({ticket.registry!r})",
                ticket=str(ticket),
            )
        number, lease, due_ns = ticket.id, link.new_id(), self._due_ns(_seconds(due))

        def redeemed(seq: int) -> m.Redeemed:
            return m.Redeemed(seq, lease, number, site, due_ns)

        claimed = False
        try:
            claimed = link.endpoint.claim_token(number, link.client)
            if claimed:
                link.notify(redeemed)
        except BaseException:  # interrupted: the segment must not stay for a lease that nobody has
            if link.endpoint.has_claimed(number, link.client):  # and the registry may not have been told
                claimed = True
                link.notify(redeemed)
            if claimed:
                link.notify(lambda seq: m.Release(seq, lease))
            raise
        if not claimed:
            link.request(m.Done, lambda seq: m.Redeem(seq, number))  # always refused: the registry knows why
            raise TicketError(f"ticket {number:#x} cannot be redeemed", ticket=str(ticket))
        try:
            return self._open(lease, ticket.segment, ticket.generation, ticket.size_bytes, ticket.layout, ticket.name, site)
        except (FileNotFoundError, ProtocolError) as error:
            raise TicketError(f"ticket {number:#x} cannot be redeemed: {error}", ticket=str(ticket)) from None

    def share(
        self,
        array: Any,
        name: str | None = None,
        *,
        timeout: float | str = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease:
        """A lease on a published copy of `array`: `lease`, copy in, `publish`.

        An array that is contiguous in F order and not in C order stays so; any other becomes C-contiguous. Of an instance of a
        subclass of numpy's array, what is shared is the plain array.

        Raises
        ------
        As `lease`; and DTypeError if values are masked.
        """
        values = np.asanyarray(array)
        if type(values) is not np.ndarray and np.ma.is_masked(values):
            raise DTypeError(
                "an array with masked values would lose its mask; share array.filled(), or its data and its mask"
            )
        order = "F" if values.flags.f_contiguous and not values.flags.c_contiguous else "C"
        layout = layout_of(values.shape, values.dtype, order)
        timeout_s, due_s, site = parse_duration(timeout), _seconds(due), calling_site()
        lease = None if name is not None else self._take_spare(layout, site)
        claimed = lease is not None
        if lease is None:
            lease = self._acquire(name, layout, timeout_s, due_s, site)
        try:
            copy_into(lease.array, values)
            if claimed:
                self._claim(lease, layout, site, self._due_ns(due_s), published=True)
                lease._seal()
            else:
                lease.publish()
        except BaseException:
            lease._let_go()
            raise
        return lease

    def statistics(self) -> Statistics:
        """The figures of the registry at this moment."""
        return statistics_of(self._link.request(m.Figures, m.Statistics), self.id)

    def trim(self) -> int:
        """Give the memory of all warm segments back to the system now; the bytes freed."""
        return self._link.request(m.Done, m.Trim).freed_bytes

    def close(self) -> None:
        """Nothing is asked of the registry through this handle any more; leases taken through it stay."""

    def __enter__(self) -> Self:
        self._link.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconnect, (self.id, self._on_lingering)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _acquire(self, name: str | None, layout: Layout, timeout_s: float, due_s: float, site: str) -> Lease:
        link = self._link
        size_bytes, due_ns = file_size(layout.nbytes), self._due_ns(due_s)
        if name is not None:
            name = _checked_name(name)
        elif (spare := self._take_spare(layout, site)) is not None:
            self._claim(spare, layout, site, due_ns, published=False)
            return spare
        clock = link.endpoint.clock

        def ask(wait_ns: int) -> m.Granted:
            return link.request(
                m.Granted,
                lambda seq: m.Lease(
                    seq, link.id_of(seq), name, size_bytes, layout.nbytes, layout.encoded, site, due_ns, wait_ns
                ),
                wait_ns / 1e9,
            )

        deadline_ns = clock.now_ns() + int(timeout_s * 1e9)
        granted = ask(int(timeout_s * 1e9))
        while True:
            try:
                return self._open_writer(granted, layout, name, site)
            except OSError as error:
                lease = granted.lease
                if error.errno != errno.ENOSPC:
                    link.notify(lambda seq: m.Release(seq, lease))  # noqa: B023 - called at once
                    raise CapacityError(
                        f"a segment of {format_bytes(size_bytes)} cannot be mapped: {explained(error)}",
                        requested_bytes=size_bytes,
                    ) from error
            except BaseException:  # interrupted
                lease = granted.lease
                link.notify(lambda seq: m.Release(seq, lease))  # noqa: B023 - called at once
                raise
            left_ns = max(deadline_ns - clock.now_ns(), 0)
            try:
                granted = link.request(
                    m.Granted,
                    lambda seq: m.Decline(seq, lease, left_ns),  # noqa: B023 - called at once
                    left_ns / 1e9,
                )
            except (
                LeaseClosedError
            ):  # declined to a registry that died, or over a connection that ended, before it was served
                granted = ask(left_ns)

    def _take_spare(self, layout: Layout, site: str) -> Lease | None:
        """A lease on a segment granted ahead, to be claimed."""
        size_bytes = file_size(layout.nbytes)
        spare = self._link.take_spare(size_bytes, int(size_bytes * WASTE_LIMIT))
        if spare is None:
            return None
        try:
            return self._open_writer(spare, layout, None, site)
        except OSError:  # /dev/shm filled up since: wait in line like everybody
            self._link.notify(lambda seq: m.Release(seq, spare.lease))
            return None
        except BaseException:
            self._link.notify(lambda seq: m.Release(seq, spare.lease))
            raise

    def _claim(self, lease: Lease, layout: Layout, site: str, due_ns: int, *, published: bool) -> None:
        self._link.claim(lambda seq: m.Claim(seq, lease._id, layout.nbytes, layout.encoded, site, due_ns, published))

    def _open_writer(self, granted: m.Granted | m.Spare, layout: Layout, name: str | None, site: str) -> Lease:
        mapping = self._link.mappings.take(granted.segment, granted.size_bytes, writable=True, reserve=granted.fresh)
        return self._made(
            granted.lease, granted.segment, granted.generation, granted.size_bytes, layout, mapping, name, site
        )

    def _open(
        self, lease: int, segment: int, generation: int, size_bytes: int, encoded: bytes, name: str | None, site: str
    ) -> Lease:
        link = self._link
        try:
            layout = decode_layout(encoded)
            if layout.nbytes > size_bytes:
                raise ProtocolError(f"an array of {layout.nbytes} bytes does not lie on a segment of {size_bytes}")
            mapping = link.mappings.take(segment, size_bytes, writable=False)
        except BaseException:
            with contextlib.suppress(LeaseError):
                link.notify(lambda seq: m.Release(seq, lease))
            raise
        return self._made(lease, segment, generation, size_bytes, layout, mapping, name, site)

    def _made(
        self, lease: int, segment: int, generation: int, size_bytes: int, layout: Layout, mapping: Mapping,
        name: str | None, site: str,
    ) -> Lease:  # fmt: skip
        return Lease(self._link, lease, segment, generation, size_bytes, layout, mapping, name, site, self._on_lingering)

    def _due_ns(self, due_s: float) -> int:
        return self._link.endpoint.clock.now_ns() + int(due_s * 1e9) if due_s else 0


def _seconds(duration: float | str | None) -> float:
    return 0.0 if duration is None else parse_duration(duration)


def _checked_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a segment's name is a str, not {type(name).__name__}")
    if not 1 <= len(name) <= 255 or any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise ValueError(f"{name!r} is no name for a segment: 1 to 255 characters, no control characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} is no name for a segment: it has characters that UTF-8 cannot carry") from None
    return name


def _reconnect(id: str, on_lingering: OnLingering) -> RegistryHandle:
    """Where a pickled handle arrives."""
    return RegistryHandle(connected_link_to(id), on_lingering)
