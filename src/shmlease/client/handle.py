"""A registry as this process sees it: leases, tickets, attaching and sharing."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt

from shmlease.client.acquire import (
    acquire_by_name,
    acquire_by_ticket,
    acquire_new,
    acquire_spare,
    acquired,
    claim_spare,
)
from shmlease.client.copying import copy_into
from shmlease.client.layout import layout_of
from shmlease.client.lease import Lease, OnLingering, checked_on_lingering
from shmlease.client.link import Link
from shmlease.client.link_cache import connected_link_to
from shmlease.client.statistics import Statistics, statistics_of
from shmlease.client.ticket import Ticket
from shmlease.core import messages as m
from shmlease.errors import DTypeError, RegistryUnavailableError, TicketError
from shmlease.units import parse_duration

__all__ = ["DEFAULT_TIMEOUT_S", "RegistryHandle"]

T = TypeVar("T", bound=np.generic)

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
        self._is_closed = False

    @property
    def id(self) -> str:
        """What `connect` and ``SHMLEASE_REGISTRY`` take."""
        return self._link.endpoint.id

    @overload
    def lease(
        self,
        name: str | None = None,
        *,
        shape: int | tuple[int, ...],
        order: str = "C",
        timeout: float | str = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease[np.float64]: ...

    @overload
    def lease(
        self,
        name: str | None = None,
        *,
        shape: int | tuple[int, ...],
        dtype: type[T] | np.dtype[T],
        order: str = "C",
        timeout: float | str = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease[T]: ...

    @overload
    def lease(
        self,
        name: str | None = None,
        *,
        shape: int | tuple[int, ...],
        dtype: npt.DTypeLike,
        order: str = "C",
        timeout: float | str = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease[Any]: ...

    def lease(
        self,
        name: str | None = None,
        *,
        shape: int | tuple[int, ...],
        dtype: npt.DTypeLike = float,
        order: str = "C",
        timeout: float | str = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease[Any]:
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
            The dtype, shape, order or name is not a valid one.
        RegistryUnavailableError
            The registry has ended.
        """
        link, layout, timeout_s, due_ns = (
            self._open_link(),
            layout_of(shape, dtype, order),
            parse_duration(timeout),
            self._due_ns(due),
        )
        if name is not None:
            name = _checked_name(name)

        def fill(lease: Lease[Any]) -> None:
            if name is None and acquire_spare(lease, layout):
                claim_spare(lease, due_ns, published=False)
            else:
                acquire_new(lease, name, layout, timeout_s, due_ns)

        return acquired(link, self._on_lingering, fill)

    def attach(self, name: str, *, timeout: float | str = DEFAULT_TIMEOUT_S, due: float | str | None = None) -> Lease[Any]:
        """Read the segment `name`; waits until it is published.

        Raises
        ------
        SegmentNotFoundError
            No segment of that name was published within `timeout` seconds.
        """
        link, timeout_s, due_ns, name = self._open_link(), parse_duration(timeout), self._due_ns(due), _checked_name(name)
        return acquired(link, self._on_lingering, lambda lease: acquire_by_name(lease, name, timeout_s, due_ns))

    def redeem(self, ticket: Ticket | str, *, due: float | str | None = None) -> Lease[Any]:
        """Read the segment that `ticket` was made for; the ticket is used up.

        Raises
        ------
        TicketError
            It is not a ticket, was redeemed before, has expired, or belongs to another registry.
        """
        link = self._open_link()
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
        due_ns = self._due_ns(due)
        return acquired(link, self._on_lingering, lambda lease: acquire_by_ticket(lease, ticket, due_ns))

    @overload
    def share(
        self,
        array: np.ndarray[Any, np.dtype[T]],
        name: str | None = None,
        *,
        timeout: float | str = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease[T]: ...

    @overload
    def share(
        self,
        array: npt.ArrayLike,
        name: str | None = None,
        *,
        timeout: float | str = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease[Any]: ...

    def share(
        self,
        array: npt.ArrayLike,
        name: str | None = None,
        *,
        timeout: float | str = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease[Any]:
        """A lease on a published copy of `array`: `lease`, copy in, `publish`.

        An array that is contiguous in F order and not in C order stays so; any other becomes C-contiguous. Of an instance
        of a subclass of numpy's array, what is shared is the plain array.

        Raises
        ------
        As `lease`; and DTypeError if values are masked.
        """
        link, values = self._open_link(), np.asanyarray(array)
        if type(values) is not np.ndarray and np.ma.is_masked(values):
            raise DTypeError(
                "an array with masked values would lose its mask; share array.filled(), or its data and its mask"
            )
        order = "F" if values.flags.f_contiguous and not values.flags.c_contiguous else "C"
        layout = layout_of(values.shape, values.dtype, order)
        timeout_s, due_ns = parse_duration(timeout), self._due_ns(due)
        if name is not None:
            name = _checked_name(name)

        def fill(lease: Lease[Any]) -> None:
            is_spare = name is None and acquire_spare(lease, layout)
            if not is_spare:
                acquire_new(lease, name, layout, timeout_s, due_ns)
            copy_into(lease.array, values)
            if is_spare:
                lease._seal()
                claim_spare(lease, due_ns, published=True)
            else:
                lease.publish()

        return acquired(link, self._on_lingering, fill)

    def statistics(self) -> Statistics:
        """The figures of the registry at this moment."""
        return statistics_of(self._open_link().request(m.Figures, m.Statistics), self.id)

    def trim(self) -> int:
        """Give the memory of all warm segments back to the system now; the bytes freed."""
        return self._open_link().request(m.Done, m.Trim).freed_bytes

    def close(self) -> None:
        """Close this handle: later calls on it raise RegistryUnavailableError. Leases taken through it stay.

        Other handles on the same registry, in this process as well, are not affected.
        """
        self._is_closed = True

    def __enter__(self) -> Self:
        self._open_link().connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        self._open_link()
        return _reconnect, (self.id, self._on_lingering)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _open_link(self) -> Link:
        if self._is_closed:
            raise RegistryUnavailableError(
                f"this handle on registry {self.id} was closed; shmlease.connect({self.id!r}) gives another",
                registry=self.id,
            )
        return self._link

    def _due_ns(self, due: float | str | None) -> int:
        due_s = 0.0 if due is None else parse_duration(due)
        return self._link.endpoint.clock.now_ns() + int(due_s * 1e9) if due_s else 0


def _checked_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a segment's name is a str, not {type(name).__name__}")
    if not 1 <= len(name) <= 255 or any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise ValueError(f"{name!r} cannot be the name of a segment: a name has 1 to 255 characters, no control characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} cannot be the name of a segment: it has characters that UTF-8 cannot encode") from None
    return name


def _reconnect(id: str, on_lingering: OnLingering) -> RegistryHandle:
    """Where a pickled handle arrives."""
    return RegistryHandle(connected_link_to(id), on_lingering)
