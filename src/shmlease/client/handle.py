"""A registry as this process sees it: leases, tickets, attaching and sharing."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from shmlease.client.acquire import (
    acquire_by_name,
    acquire_by_ticket,
    acquire_new,
    acquire_spare,
    acquired,
    claim_spare,
)
from shmlease.client.call_site import calling_site
from shmlease.client.copying import copy_into
from shmlease.client.layout import layout_of
from shmlease.client.lease import Lease, OnLingering, checked_on_lingering
from shmlease.client.link import Link
from shmlease.client.link_cache import connected_link_to
from shmlease.client.statistics import Statistics, statistics_of
from shmlease.client.ticket import Ticket
from shmlease.core import messages as m
from shmlease.errors import DTypeError, TicketError
from shmlease.units import parse_duration

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
        layout, timeout_s, due_ns, site = (
            layout_of(shape, dtype, order),
            parse_duration(timeout),
            self._due_ns(due),
            calling_site(),
        )
        if name is not None:
            name = _checked_name(name)

        def fill(lease: Lease) -> None:
            if name is None and acquire_spare(lease, layout, site):
                claim_spare(lease, due_ns, published=False)
            else:
                acquire_new(lease, name, layout, timeout_s, due_ns, site)

        return acquired(self._link, self._on_lingering, fill)

    def attach(self, name: str, *, timeout: float | str = DEFAULT_TIMEOUT_S, due: float | str | None = None) -> Lease:
        """Read the segment `name`; waits until it is published.

        Raises
        ------
        SegmentNotFoundError
            Nothing of that name was published within `timeout` seconds.
        """
        site, timeout_s, due_ns, name = calling_site(), parse_duration(timeout), self._due_ns(due), _checked_name(name)
        return acquired(self._link, self._on_lingering, lambda lease: acquire_by_name(lease, name, timeout_s, due_ns, site))

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
        if ticket.registry != self.id:
            raise TicketError(
                f"the ticket is of registry {ticket.registry}, this is {self.id}; "
                f"redeem it with shmlease.connect({ticket.registry!r})",
                ticket=str(ticket),
            )
        site, due_ns = calling_site(), self._due_ns(due)
        return acquired(self._link, self._on_lingering, lambda lease: acquire_by_ticket(lease, ticket, due_ns, site))

    def share(
        self,
        array: Any,
        name: str | None = None,
        *,
        timeout: float | str = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease:
        """A lease on a published copy of `array`: `lease`, copy in, `publish`.

        An array that is contiguous in F order and not in C order stays so; any other becomes C-contiguous. Of an instance
        of a subclass of numpy's array, what is shared is the plain array.

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
        timeout_s, due_ns, site = parse_duration(timeout), self._due_ns(due), calling_site()
        if name is not None:
            name = _checked_name(name)

        def fill(lease: Lease) -> None:
            is_spare = name is None and acquire_spare(lease, layout, site)
            if not is_spare:
                acquire_new(lease, name, layout, timeout_s, due_ns, site)
            copy_into(lease.array, values)
            if is_spare:
                lease._seal()
                claim_spare(lease, due_ns, published=True)
            else:
                lease.publish()

        return acquired(self._link, self._on_lingering, fill)

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

    def _due_ns(self, due: float | str | None) -> int:
        due_s = 0.0 if due is None else parse_duration(due)
        return self._link.endpoint.clock.now_ns() + int(due_s * 1e9) if due_s else 0


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
