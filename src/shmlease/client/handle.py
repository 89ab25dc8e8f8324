"""A registry as this process sees it: leases, tickets, attaching, sharing, objects.

This module is longer than other modules: it is one class, and most of it is what users read in its docstrings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, get_args, overload

import numpy as np
import numpy.typing as npt

from shmlease.client.acquire import (
    acquire_by_address,
    acquire_by_name,
    acquire_by_ticket,
    acquire_kept,
    acquire_new,
    acquire_spare,
    acquired,
    claim_spare,
)
from shmlease.client.address import Address
from shmlease.client.call_site import calling_site
from shmlease.client.copying import copy_into
from shmlease.client.layout import Layout, layout_of, layout_of_array, layout_of_object
from shmlease.client.lease import Lease, OnLingering, checked_on_lingering
from shmlease.client.link import Link
from shmlease.client.link_cache import connected_link_to
from shmlease.client.objects import PackedObject, pack
from shmlease.client.revocation import revoke
from shmlease.client.statistics import Statistics, statistics_of
from shmlease.client.ticket import Ticket
from shmlease.core import messages as m
from shmlease.core.messages import AttachMode
from shmlease.core.transitions import LeaseState
from shmlease.errors import DTypeError, RegistryUnavailableError, SegmentNotFoundError, TicketError
from shmlease.notebook import html_table
from shmlease.units import format_bytes, parse_duration

__all__ = ["DEFAULT_TIMEOUT_S", "RegistryHandle"]

T = TypeVar("T", bound=np.generic)

# A consumer started together with its producer waits this long for the name; one that waits longer is likely lost.
DEFAULT_TIMEOUT_S: Final = 5.0
# What timeout=None waits for: some lifetimes of a machine, within what a message can carry.
_FOREVER_S: Final = 4e9

_CONTROL_CHARACTER: Final = re.compile("[\x00-\x1f\x7f]")

Mode = Literal["r", "c", "r+"]
_MODES: Final = {mode.value: mode for mode in AttachMode}


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
        timeout: float | str | None = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
        mutable: bool = False,
    ) -> Lease[np.float64]: ...

    @overload
    def lease(
        self,
        name: str | None = None,
        *,
        shape: int | tuple[int, ...],
        dtype: type[T] | np.dtype[T],
        order: str = "C",
        timeout: float | str | None = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
        mutable: bool = False,
    ) -> Lease[T]: ...

    @overload
    def lease(
        self,
        name: str | None = None,
        *,
        shape: int | tuple[int, ...],
        dtype: npt.DTypeLike,
        order: str = "C",
        timeout: float | str | None = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
        mutable: bool = False,
    ) -> Lease[Any]: ...

    def lease(
        self,
        name: str | None = None,
        *,
        shape: int | tuple[int, ...],
        dtype: npt.DTypeLike = float,
        order: str = "C",
        timeout: float | str | None = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
        mutable: bool = False,
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
            Seconds to wait, in order of arrival, for capacity or for room in /dev/shm; None waits for ever.
        due : float or str, optional
            Seconds within which the holder expects to be done; a lease held for longer is reported by the auditor as
            overdue. Nothing is taken away.
        mutable : bool
            The segment is zeroed, can be attached as soon as this call has returned, and stays writable: for this lease,
            and for whoever attaches with ``mode="r+"``. Who writes when is for the processes to agree on.

        Returns
        -------
        Lease
            Writable until `Lease.publish`; always if it is `mutable`. To be released, best by ``with``.

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
            _timeout_s(timeout),
            self._due_ns(due),
        )
        if name is not None:
            name = _checked_name(name)

        def fill(lease: Lease[Any]) -> None:
            is_plain = name is None and not mutable
            if is_plain and acquire_kept(lease, layout, due_ns):
                return
            if is_plain and acquire_spare(lease, layout, may_keep=True):
                claim_spare(lease, due_ns, published=False)
            else:
                acquire_new(lease, name, layout, timeout_s, due_ns, mutable=mutable)

        return acquired(link, self._on_lingering, calling_site(), fill)

    def attach(
        self,
        name: str | Address,
        *,
        mode: Mode = "r",
        timeout: float | str | None = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
        abandoned: Literal["raise", "wait"] = "raise",
    ) -> Lease[Any]:
        """Map the segment `name`; waits until it is published.

        Parameters
        ----------
        name : str or Address
            Its name; or the address of a segment that is published, which is not waited for.
        mode : {"r", "c", "r+"}
            As of `numpy.memmap`. ``"r"``: the array is read-only. ``"c"``: it is writable, and what is written is seen by
            nobody else; a page is copied when it is first written to. ``"r+"``: it is writable for all, which only a
            segment leased with ``mutable=True`` is.
        timeout : float or str
            Seconds to wait; None waits for ever.
        due : float or str, optional
            As of `lease`.
        abandoned : {"raise", "wait"}
            What happens when the writer dies, or gives up, before it has published, or did so within the last minute:
            AbandonedError at once, or waiting for another writer of that name.

        Raises
        ------
        AbandonedError
            The writer has ended; the error says who it was, where, and when.
        SegmentNotFoundError
            No segment of that name was published within `timeout` seconds; or nothing is at that address any more.
        ModeError
            ``"r+"``, and the segment is not mutable; ``"c"``, and it is, so that a copy made page by page is no snapshot.
        """
        link, timeout_s, due_ns = self._open_link(), _timeout_s(timeout), self._due_ns(due)
        acquire = self._by_name_or_address(name, _checked_mode(mode), timeout_s, due_ns, abandoned)
        return acquired(link, self._on_lingering, calling_site(), acquire)

    def redeem(self, ticket: Ticket | str, *, mode: Mode = "r", due: float | str | None = None) -> Lease[Any]:
        """Map the segment that `ticket` was made for; the ticket is used up.

        Parameters
        ----------
        ticket : Ticket or str
            The ticket, or its text.
        mode, due
            As of `attach`.

        Raises
        ------
        TicketError
            It is not a ticket, was redeemed before, has expired, or belongs to another registry.
        ModeError
            As of `attach`; the ticket is not used up.
        """
        link, access, due_ns = self._open_link(), _checked_mode(mode), self._due_ns(due)
        acquire = partial(acquire_by_ticket, ticket=self._checked_ticket(ticket), mode=access, due_ns=due_ns)
        return acquired(link, self._on_lingering, calling_site(), acquire)

    def revoke(self, ticket: Ticket | str) -> bool:
        """Take a ticket back; False if it was redeemed, or has ended, before."""
        return revoke(self._open_link(), self._checked_ticket(ticket).id)

    def is_redeemable(self, ticket: Ticket | str) -> bool:
        """Whether nobody has redeemed the ticket yet, and it has not ended."""
        number, link = self._checked_ticket(ticket).id, self._open_link()
        return link.endpoint.has_token(number)

    def withdraw(self, name: str | Address) -> None:
        """Make the name of a segment free again. Leases on it live on; readers that were announced are not waited for.

        A name in /dev/shm that `Lease.segment` or `Lease.link` has given it goes as well.

        Parameters
        ----------
        name : str or Address
            The name; or the address of the segment that is to lose its name, whoever has that name by now.

        Raises
        ------
        SegmentNotFoundError
            No segment has that name; or the one at that address has none any more, or is gone.
        """
        now_ns = self._link.endpoint.clock.now_ns()
        if isinstance(name, Address):
            self._withdraw_from(self._checked_address(name), now_ns)
            return
        known = _checked_name(name)
        self._open_link().request(m.Done, lambda seq: m.Withdraw(seq, known, now_ns))

    @overload
    def share(
        self,
        array: np.ndarray[Any, np.dtype[T]],
        name: str | None = None,
        *,
        timeout: float | str | None = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease[T]: ...

    @overload
    def share(
        self,
        array: npt.ArrayLike,
        name: str | None = None,
        *,
        timeout: float | str | None = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease[Any]: ...

    def share(
        self,
        array: npt.ArrayLike,
        name: str | None = None,
        *,
        timeout: float | str | None = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease[Any]:
        """A lease on a published copy of `array`: `lease`, copy in, `publish`.

        An array that is contiguous in F order and not in C order stays so; any other becomes C-contiguous. Of an instance
        of a subclass of numpy's array, what is shared is the plain array.

        Raises
        ------
        As `lease`; DTypeError if values are masked; TypeError of a table or a mapping, which is for `put`.
        """
        values = array if isinstance(array, np.ndarray) else _as_array(array)
        link = self._open_link()
        if type(values) is not np.ndarray and np.ma.is_masked(values):
            raise DTypeError(
                "an array with masked values would lose its mask; share array.filled(), or its data and its mask"
            )
        layout = layout_of_array(values)
        timeout_s, due_ns = _timeout_s(timeout), self._due_ns(due)
        if name is not None:
            name = _checked_name(name)

        return self._written(link, layout, name, timeout_s, due_ns, calling_site(), partial(copy_into, values=values))

    def put(
        self,
        value: object,
        name: str | None = None,
        *,
        timeout: float | str | None = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease[np.uint8]:
        """A lease on a published copy of any object that can be pickled; `get` makes it anew.

        The memory of the arrays in it (numpy, pandas, pyarrow, polars, scipy, xarray, torch on the CPU) is copied once,
        into one segment, and not at all by `get`. What has no such memory, as Python's own containers, is pickled.

        Parameters
        ----------
        value : object
            What to share; or a `PackedObject`, which stands for the object that was packed.
        name, timeout, due
            As of `lease`.

        Returns
        -------
        Lease
            On the bytes of the object; `Lease.load` makes it anew.

        Raises
        ------
        Exception
            As `lease`; and what pickling `value` raises.
        """
        link, timeout_s, due_ns = self._open_link(), _timeout_s(timeout), self._due_ns(due)
        if name is not None:
            name = _checked_name(name)
        packed = value if isinstance(value, PackedObject) else pack(value)
        layout = layout_of_object(packed.nbytes, needs_private=packed.needs_private)
        return self._written(link, layout, name, timeout_s, due_ns, calling_site(), packed.write_into)

    def get(
        self,
        source: str | Ticket | Address,
        *,
        mode: Mode = "r",
        timeout: float | str | None = DEFAULT_TIMEOUT_S,
        abandoned: Literal["raise", "wait"] = "raise",
    ) -> Any:
        """The object, or the array, that was put or shared under a name, a ticket or an address.

        Its arrays lie on the segment, and hold it until the last of them has died: there is nothing to release. They are
        read-only, unless `mode` says otherwise; tensors, which torch cannot make read-only, are always copy-on-write.

        Only what processes of the same user have put is unpickled: others cannot write to a registry's segments.

        Parameters
        ----------
        source : str, Ticket or Address
            A text is always a name; `Ticket.parse` makes a ticket of one.
        mode, timeout, abandoned
            As of `attach`.

        Raises
        ------
        ObjectError
            The segment holds no object that can be loaded, or one that needs a library which is not installed.
        Exception
            As `attach` and `redeem`.
        """
        link, access, found = self._open_link(), _checked_mode(mode), []
        acquire: Callable[[Lease[Any]], None]
        if isinstance(source, Ticket):
            acquire = partial(acquire_by_ticket, ticket=self._checked_ticket(source), mode=access, due_ns=0)
        else:
            acquire = self._by_name_or_address(source, access, _timeout_s(timeout), 0, abandoned)

        def take(lease: Lease[Any]) -> None:
            acquire(lease)
            lease._hold.is_detached = True  # whatever ends this call: its views end the lease in order
            found.append(lease.load())
            lease._end()

        acquired(link, self._on_lingering, calling_site(), take)
        return found.pop()

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
        return f"<{type(self).__name__} {self.id} {', '.join(f'{name} {value}'.rstrip() for name, value in self._state())}>"

    def _repr_html_(self) -> str:
        return html_table(f"{type(self).__name__} {self.id}", self._state())

    def _state(self) -> list[tuple[str, str]]:
        """What is shown of it: read from shared memory, so that a registry that does not answer is shown as well."""
        snapshot = None if self._link.ended else self._link.endpoint.snapshot()
        if self._is_closed or snapshot is None or snapshot.registry is None:
            return [("closed" if self._is_closed else "ended", "")]
        used = sum(segment.size_bytes for segment in snapshot.segments.values())
        held = sum(lease.state is not LeaseState.RESERVED for lease in snapshot.leases.values())
        return [
            ("capacity", format_bytes(snapshot.registry.capacity_bytes)),
            ("used", format_bytes(used)),
            ("leases", f"{held:,}"),
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        self._open_link()
        return _reconnect, (self.id, self._on_lingering)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _written(
        self,
        link: Link,
        layout: Layout,
        name: str | None,
        timeout_s: float,
        due_ns: int,
        site: str,
        write: Callable[[np.ndarray[Any, Any]], None],
    ) -> Lease[Any]:
        """A lease on a segment that `write` has filled, and that is published."""

        def fill(lease: Lease[Any]) -> None:
            is_spare = name is None and acquire_spare(lease, layout)
            if not is_spare:
                acquire_new(lease, name, layout, timeout_s, due_ns)
            write(lease.array)
            if is_spare:
                lease._seal()
                claim_spare(lease, due_ns, published=True)
            else:
                lease.publish()

        return acquired(link, self._on_lingering, site, fill)

    def _by_name_or_address(
        self, source: object, mode: AttachMode, timeout_s: float, due_ns: int, abandoned: str
    ) -> Callable[[Lease[Any]], None]:
        if abandoned not in ("raise", "wait"):
            raise ValueError(f"abandoned={abandoned!r} is neither 'raise' nor 'wait'")
        if isinstance(source, Address):
            address = self._checked_address(source)
            return lambda lease: acquire_by_address(lease, address, mode, due_ns)
        if isinstance(source, Ticket):
            raise TypeError(f"{source!r} is a ticket; redeem it")
        name = _checked_name(source)
        return lambda lease: acquire_by_name(lease, name, mode, timeout_s, due_ns, is_patient=abandoned == "wait")

    def _withdraw_from(self, where: Address, now_ns: int) -> None:
        link, segment, generation = self._open_link(), where.segment, where.generation
        if where.os_name:
            with link.lock:
                is_linked = link.endpoint.has_alias(segment, where.os_name)
            if is_linked:  # then nobody has withdrawn it before, and no answer is needed
                link.send(lambda seq: m.Unlink(seq, segment, generation))
                with link.lock:
                    link.endpoint.unlink_alias(segment, where.os_name)
                return
        link.request(m.Done, lambda seq: m.Withdraw(seq, None, now_ns, segment, generation))

    def _checked_address(self, address: Address) -> Address:
        if address.registry != self.id:
            raise SegmentNotFoundError(
                f"the address is of registry {address.registry}, this is {self.id}; "
                f"use it with shmlease.connect({address.registry!r})"
            )
        return address

    def _checked_ticket(self, ticket: object) -> Ticket:
        if isinstance(ticket, str):
            ticket = Ticket.parse(ticket)
        elif not isinstance(ticket, Ticket):
            raise TypeError(f"what can be redeemed is a Ticket or its text, not {type(ticket).__name__}")
        if ticket.registry != self._link.endpoint.id:
            raise TicketError(
                f"the ticket is of registry {ticket.registry}, this is {self.id}; "
                f"redeem it with shmlease.connect({ticket.registry!r})",
                ticket=str(ticket),
            )
        return ticket

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


def _timeout_s(timeout: float | str | None) -> float:
    return _FOREVER_S if timeout is None else parse_duration(timeout)


def _checked_mode(mode: str) -> AttachMode:
    known = _MODES.get(mode)
    if known is None:
        raise ValueError(f"mode={mode!r} is none of {', '.join(map(repr, get_args(Mode)))}")
    return known


def _as_array(value: npt.ArrayLike) -> np.ndarray[Any, Any]:
    if isinstance(value, Mapping) or hasattr(value, "__dataframe__"):  # its array would lose names, or hold objects
        raise TypeError(f"share() takes an array, not a {type(value).__name__}; put() takes any object")
    return np.asanyarray(value)


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a segment's name is a str, not {type(name).__name__}")
    if not 1 <= len(name) <= 255 or _CONTROL_CHARACTER.search(name) is not None:
        raise ValueError(f"{name!r} cannot be the name of a segment: a name has 1 to 255 characters, no control characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} cannot be the name of a segment: it has characters that UTF-8 cannot encode") from None
    return name


def _reconnect(id: str, on_lingering: OnLingering) -> RegistryHandle:
    """Where a pickled handle arrives."""
    return RegistryHandle(connected_link_to(id), on_lingering)
