"""`Registry` and `connect`: what user code begins with."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import secrets
import warnings
import weakref
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from leasehold.client.endpoint import DirectoryEndpoint
from leasehold.client.layout import Layout, decode_layout, layout_of
from leasehold.client.lease import Lease, OnLingering, held_leases
from leasehold.client.link import Link
from leasehold.client.site import calling_site
from leasehold.client.statistics import Statistics, statistics_of
from leasehold.client.ticket import Ticket
from leasehold.core import messages as m
from leasehold.core.model import Identity
from leasehold.core.room import PAGE_BYTES, WASTE_LIMIT, file_size
from leasehold.core.settings import Settings
from leasehold.errors import (
    CapacityError,
    LeaseholdError,
    LeaseholdWarning,
    LeaseNotHeldWarning,
    RegistryUnavailableError,
    TicketError,
)
from leasehold.system.directory import RegistryDirectory
from leasehold.system.identity import own_identity
from leasehold.system.launch import launch
from leasehold.system.mapping import Mapping
from leasehold.system.reclaim import sweep
from leasehold.units import format_bytes, parse_bytes, parse_duration

__all__ = ["ENVIRONMENT", "Registry", "RegistryHandle", "connect", "default_registry_id"]

ENVIRONMENT: Final = "LEASEHOLD_REGISTRY"
# A consumer started together with its producer waits this long for the name; one that waits longer is likely lost.
DEFAULT_TIMEOUT_S: Final = 5.0
# Warm segments beyond half of the capacity would mostly be evicted for the next request anyway.
WARM_SHARE: Final = 0.5
# Between two steps of a job seconds pass; memory that nobody has asked for in five of them is better given back.
WARM_IDLE_S: Final = 5.0


class RegistryHandle:
    """A registry as this process sees it; made by `connect`, or by `Registry`, which also starts one.

    Threads may share a handle. A forked child may use it as well: it is a client of its own there. Pickled, it arrives as a
    handle on the same registry.
    """

    def __init__(self, link: Link, on_lingering: OnLingering = "warn") -> None:
        self._link = link
        self._on_lingering: OnLingering = on_lingering

    @property
    def id(self) -> str:
        """What `connect` and ``LEASEHOLD_REGISTRY`` take."""
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
        return self._open(
            attached.lease, attached.segment, attached.generation, attached.size_bytes, attached.layout, attached.name, site
        )

    def redeem(self, ticket: Ticket | str, *, due: float | str | None = None) -> Lease:
        """Read the segment that `ticket` was made for; the ticket is used up.

        Raises
        ------
        TicketError
            It is no ticket, was redeemed before, has expired, or is of another registry.
        """
        if isinstance(ticket, str):
            ticket = Ticket.parse(ticket)
        link, site = self._link, calling_site()
        if ticket.registry != link.endpoint.id:
            raise TicketError(
                f"the ticket is of registry {ticket.registry}, this is {link.endpoint.id}; "
                f"redeem it with leasehold.connect({ticket.registry!r})",
                ticket=str(ticket),
            )
        link.connect()
        number, due_ns = ticket.id, self._due_ns(_seconds(due))
        if not link.endpoint.claim_token(number, link.client):
            link.request(m.Done, lambda seq: m.Redeem(seq, number))  # always refused: the registry knows why
            raise TicketError(f"ticket {number:#x} cannot be redeemed", ticket=str(ticket))
        lease = link.id_of(link.notify(lambda seq: m.Redeemed(seq, link.id_of(seq), number, site, due_ns)))
        try:
            return self._open(lease, ticket.segment, ticket.generation, ticket.size_bytes, ticket.layout, ticket.name, site)
        except FileNotFoundError:
            raise TicketError(f"ticket {number:#x}: its segment is gone", ticket=str(ticket)) from None

    def share(
        self,
        array: Any,
        name: str | None = None,
        *,
        timeout: float | str = DEFAULT_TIMEOUT_S,
        due: float | str | None = None,
    ) -> Lease:
        """A lease on a published copy of `array`: `lease`, copy in, `publish`.

        An array that is contiguous in F order and not in C order stays so; any other becomes C-contiguous.

        Raises
        ------
        As `lease`.
        """
        values = np.asanyarray(array)
        order = "F" if values.flags.f_contiguous and not values.flags.c_contiguous else "C"
        layout = layout_of(values.shape, values.dtype, order)
        timeout_s, due_s, site = parse_duration(timeout), _seconds(due), calling_site()
        lease = None if name is not None else self._take_spare(layout, site)
        claimed = lease is not None
        if lease is None:
            lease = self._acquire(name, layout, timeout_s, due_s, site)
        try:
            lease.array[...] = values
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
        return connect, (self.id,)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _acquire(self, name: str | None, layout: Layout, timeout_s: float, due_s: float, site: str) -> Lease:
        link = self._link
        size_bytes, due_ns = file_size(layout.nbytes), self._due_ns(due_s)
        if name is not None:
            name = _checked_name(name)
        elif (spare := self._take_spare(layout, site)) is not None:
            self._claim(spare, layout, site, due_ns, published=False)
            return spare
        timeout_ns, clock = int(timeout_s * 1e9), link.endpoint.clock
        deadline_ns = clock.now_ns() + timeout_ns
        granted = link.request(
            m.Granted,
            lambda seq: m.Lease(
                seq, link.id_of(seq), name, size_bytes, layout.nbytes, layout.encoded, site, due_ns, timeout_ns
            ),
            timeout_s,
        )
        while True:
            try:
                return self._open_writer(granted, layout, name, site)
            except OSError as error:
                lease = granted.lease
                if error.errno != errno.ENOSPC:
                    link.notify(lambda seq: m.Release(seq, lease))  # noqa: B023 - called at once
                    raise CapacityError(
                        f"a segment of {format_bytes(size_bytes)} cannot be mapped: {error.strerror}",
                        requested_bytes=size_bytes,
                    ) from error
            except BaseException:  # interrupted
                lease = granted.lease
                link.notify(lambda seq: m.Release(seq, lease))  # noqa: B023 - called at once
                raise
            left_ns = max(deadline_ns - clock.now_ns(), 0)
            granted = link.request(
                m.Granted,
                lambda seq: m.Decline(seq, lease, left_ns),  # noqa: B023 - called at once
                left_ns / 1e9,
            )

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
        self._link.claim(
            lease._id, lambda seq: m.Claim(seq, lease._id, layout.nbytes, layout.encoded, site, due_ns, published)
        )

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
            mapping = link.mappings.take(segment, size_bytes, writable=False)
        except BaseException:
            with contextlib.suppress(LeaseholdError):
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


class Registry(RegistryHandle):
    """Start a registry process, and end it at the end of the ``with`` block or of this process.

    The registry runs in a session of its own, without this process's descriptors or memory. Children of this process find it
    through ``LEASEHOLD_REGISTRY``. When the block ends everything is freed and nothing is left in /dev/shm; leases that other
    processes still hold are named in a warning, and what they have mapped stays valid until they let go. If this process is
    killed, the registry serves whoever is left and then ends.

    Parameters
    ----------
    capacity : int or str, optional
        Bytes (or words such as ``"2GiB"``) of all segments together; half of what /dev/shm has free if not given.
    warm : int or str, optional
        Bytes of free segments that are kept for reuse at most; half of the capacity if not given, 0 to keep none.
    warm_idle : float or str
        Seconds after which an unused warm segment is given back to the system.
    on_lingering : {"warn", "error", "ignore"}
        What a release does when numpy views of the array are still alive.

    Raises
    ------
    RegistryUnavailableError
        The process could not be started.
    """

    def __init__(
        self,
        capacity: int | str | None = None,
        *,
        warm: int | str | None = None,
        warm_idle: float | str = WARM_IDLE_S,
        on_lingering: OnLingering = "warn",
    ) -> None:
        sweep()
        directory = RegistryDirectory(secrets.token_hex(4))
        settings = settings_for(directory, capacity, warm, warm_idle, owner=own_identity())
        directory.create()
        lock_fd = directory.lock()
        if lock_fd is None:
            raise RegistryUnavailableError(f"{directory.lock_path} is locked by another process")
        try:
            launch(settings, lock_fd)
        except BaseException:
            directory.remove()
            raise
        finally:
            os.close(lock_fd)
        super().__init__(link_to(directory.id), on_lingering)
        self._pid = os.getpid()
        self._closed = False
        self._link.connect()
        self._previous = os.environ.get(ENVIRONMENT)
        os.environ[ENVIRONMENT] = directory.id
        _open_registries.add(self)

    def close(self) -> None:
        """End the registry: everything is freed; who still holds a lease is named in a warning.

        In a forked child this does nothing: the registry is its parent's.
        """
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        _open_registries.discard(self)
        if os.environ.get(ENVIRONMENT) == self.id:
            if self._previous is None:
                del os.environ[ENVIRONMENT]
            else:
                os.environ[ENVIRONMENT] = self._previous
        try:
            holders = self._link.request(m.Closed, m.Close).holders
        except RegistryUnavailableError:  # it has ended; killed, it would have been succeeded
            holders = []
        self._link.end()
        _links.pop(self.id, None)
        if holders:
            listed = "; ".join(holders[:10]) + ("; ..." if len(holders) > 10 else "")
            warnings.warn(
                LeaseholdWarning(f"registry {self.id} was closed while {len(holders)} leases were held: {listed}"),
                stacklevel=2,
            )

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._pid != os.getpid():
            return
        warnings.warn(LeaseholdWarning(f"{self!r} was never closed; use it in a with statement"), stacklevel=2, source=self)
        self.close()


def connect(registry: str | None = None, *, on_lingering: OnLingering = "warn") -> RegistryHandle:
    """Join a registry that runs.

    Parameters
    ----------
    registry : str, optional
        Its id. If not given, the one named by ``LEASEHOLD_REGISTRY``, which `Registry` sets for its children; else the
        user's default one, which ``leasehold serve`` runs.
    on_lingering : {"warn", "error", "ignore"}
        What a release does when numpy views of the array are still alive.

    Raises
    ------
    RegistryUnavailableError
        There is no such registry.
    """
    id = registry or os.environ.get(ENVIRONMENT) or default_registry_id()
    handle = RegistryHandle(link_to(id), on_lingering)
    handle._link.connect()
    return handle


def default_registry_id() -> str:
    """The id of this user's default registry, which ``leasehold serve`` runs."""
    return f"u{os.geteuid()}"


def settings_for(
    directory: RegistryDirectory,
    capacity: int | str | None,
    warm: int | str | None,
    warm_idle: float | str,
    owner: Identity | None = None,
) -> Settings:
    """The settings that `Registry` and ``leasehold serve`` start a registry with.

    Raises
    ------
    ValueError
        A size or duration that cannot be.
    """
    # half of what is free now: /dev/shm is others' as well, and a full one is a bus error to those who do not reserve
    capacity_bytes = directory.free_bytes() // 2 if capacity is None else parse_bytes(capacity)
    if capacity_bytes < PAGE_BYTES:
        raise ValueError(f"a capacity of {capacity_bytes} bytes holds no segment; give at least {PAGE_BYTES}")
    warm_bytes = int(capacity_bytes * WARM_SHARE) if warm is None else parse_bytes(warm)
    return Settings(directory.id, directory.root, capacity_bytes, warm_bytes, parse_duration(warm_idle), owner)


def link_to(id: str) -> Link:
    """This process's link to the registry `id`."""
    link = _links.get(id)
    if link is None or link.is_ended:
        link = _links[id] = Link(DirectoryEndpoint(RegistryDirectory(id)))
    return link


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


# This process's links, by registry.
_links: Final[dict[str, Link]] = {}
_open_registries: Final[weakref.WeakSet[Registry]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for link in list(_links.values()):
        link.after_fork_in_child()


def _leave() -> None:
    """At exit: nothing that this process holds waits for its death to be noticed."""
    for lease in held_leases():
        if not lease._link.is_ended:
            warnings.warn(
                LeaseNotHeldWarning(f"{lease!r} was held until the process ended; it was taken at {lease.site}"),
                stacklevel=1,
            )
    for registry in list(_open_registries):
        registry.close()
    for link in list(_links.values()):
        link.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_leave)
