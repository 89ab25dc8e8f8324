"""A lease: the right of this process to map one segment, from grant to release."""

from __future__ import annotations

import contextlib
import operator
import os
import warnings
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, Self, get_args

import numpy as np

from shmlease.client.arrays import Anchor, array_on, seal
from shmlease.client.layout import Layout
from shmlease.client.link import Link
from shmlease.client.site import calling_site
from shmlease.client.ticket import Ticket
from shmlease.core import messages as m
from shmlease.errors import (
    CapacityError,
    LeaseClosedError,
    LeaseError,
    LeaseNotHeldWarning,
    LingeringViewError,
    LingeringViewWarning,
)
from shmlease.system.exhaustion import explained
from shmlease.system.mapping import Mapping
from shmlease.units import format_bytes, parse_duration

__all__ = ["Lease", "OnLingering", "checked_on_lingering"]

OnLingering = Literal["warn", "error", "ignore"]

# Long enough for a reader that starts a Python interpreter and imports numpy first; short enough that a ticket nobody will
# ever redeem does not hold memory for the rest of a job.
DEFAULT_TTL_S: Final = 60.0


class Lease:
    """The right of this process to map one segment, from grant to release.

    Made by `Registry.lease`, `attach`, `redeem` and `share`; a context manager that releases at its end. Threads may share a
    lease. A process forked while it is held takes its own lease when it first uses it, and cannot release this one.

    What it does not guarantee: that nothing else of this user's writes to the memory. Views taken of a writer's array before
    `publish` stay writable, and so does any plain mapping of `segment`.
    """

    def __init__(
        self,
        link: Link,
        lease: int,
        segment: int,
        generation: int,
        size_bytes: int,
        layout: Layout,
        mapping: Mapping,
        name: str | None,
        site: str,
        on_lingering: OnLingering,
    ) -> None:
        self._link = link
        self._id = lease
        self._segment = segment
        self._generation = generation
        self._size_bytes = size_bytes
        self._layout = layout
        self._name = name
        self._site = site
        self._on_lingering = on_lingering
        self._is_writer = self._writable = mapping.writable
        self._shared = False
        self._pid = os.getpid()
        self._segment_name: str | None = None
        self._anchor: Anchor | None = Anchor(mapping)
        self._array: np.ndarray[Any, Any] | None = None
        _held.add(self)

    # --- what it is ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str | None:
        """The name that others attach by, or None."""
        return self._name

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self._layout.nbytes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self._layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the array."""
        return self._layout.dtype

    @property
    def writable(self) -> bool:
        """Whether the array may be written: a writer's lease before `publish`."""
        return self._writable

    @property
    def held(self) -> bool:
        """Whether the lease has not been released."""
        return self._anchor is not None

    @property
    def site(self) -> str:
        """Where in the code the lease was taken: ``file:line in function``."""
        return self._site

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The array on the segment, from its first byte on, exact to dtype, shape and strides.

        A writer's is writable until `publish`; its first content is undefined, as that of `numpy.empty`. A reader's is
        read-only: writing raises ValueError. Views may outlive the lease; the segment then stays held until the last of
        them dies.

        Raises
        ------
        LeaseClosedError
            The lease was released, or was inherited through a fork from a process that has released it since.
        """
        anchor = self._require_held()
        if self._array is None:
            self._array = array_on(anchor, self._layout)
            if not self._writable:
                seal(self._array)
        return self._array

    @property
    def segment(self) -> str:
        """The OS name of the segment: ``multiprocessing.shared_memory.SharedMemory(name=lease.segment)`` opens it.

        Asking for it gives the segment that name in /dev/shm, for as long as it lives. Since the registry cannot know who
        maps it by that name, its memory is then never used again for another lease.

        Raises
        ------
        LeaseClosedError
            The lease was released.
        """
        self._require_held()
        if self._segment_name is None:
            lease = self._id
            self._segment_name = self._link.request(m.Exposed, lambda seq: m.Expose(seq, lease)).alias
        return self._segment_name

    def __repr__(self) -> str:
        what = "unnamed" if self._name is None else repr(self._name)
        state = "released" if not self.held else "writable" if self._writable else "read-only"
        return f"<Lease {what} {self.dtype} {self.shape} {format_bytes(self.nbytes)} {state}>"

    # --- what can be done with it ------------------------------------------------------------------------------------

    def publish(self, *, readers: int = 0, ttl: float | str | None = None) -> None:
        """Declare the array finished: from now on others may attach, and it is read-only here as well.

        Parameters
        ----------
        readers : int
            The segment stays for this many attachments to come, also after this lease has ended.
        ttl : float or str, optional
            Seconds (or words such as ``"2min"``) after which `readers` that never came are not waited for; 60 s if not
            given.

        Raises
        ------
        LeaseClosedError
            The lease was released, or is a reader's.
        ValueError
            `readers` is negative, or `ttl` is no duration.
        """
        self._require_held()
        if not self._is_writer:
            raise LeaseClosedError(f"{self!r} is a reader's lease; only its writer can publish a segment")
        readers = operator.index(readers)
        if not 0 <= readers <= 1_000_000:
            raise ValueError(f"readers={readers} is not between 0 and 1,000,000")
        ttl_s = DEFAULT_TTL_S if ttl is None else parse_duration(ttl)
        lease, deadline_ns = self._id, self._link.endpoint.clock.now_ns() + int(ttl_s * 1e9)
        self._link.notify(
            lambda seq: m.Publish(seq, lease, readers, deadline_ns if readers else 0), urgent=self._name is not None
        )
        self._seal()

    def ticket(self, *, ttl: float | str = DEFAULT_TTL_S) -> Ticket:
        """A single-use ticket for one reader, which keeps the segment alive until it is redeemed or `ttl` has passed.

        It may be pickled or sent as `str(ticket)`, and outlives this lease and this process. An array that is not published
        yet is published.

        Parameters
        ----------
        ttl : float or str
            Seconds, or words such as ``"2min"``.

        Raises
        ------
        LeaseClosedError
            The lease was released.
        CapacityError
            /dev/shm has no room for the ticket's token.
        """
        self._require_held()
        ttl_s = parse_duration(ttl)
        if self._writable:
            self.publish()
        link, lease, site = self._link, self._id, calling_site()
        deadline_ns = link.endpoint.clock.now_ns() + int(ttl_s * 1e9)

        ticket = link.new_id()
        try:
            link.endpoint.mint_token(ticket)
        except OSError as error:
            raise CapacityError(f"no room in /dev/shm for a ticket of {self!r}: {explained(error)}") from None
        try:
            link.notify(lambda seq: m.Mint(seq, lease, ticket, deadline_ns, site))
        except BaseException:
            with contextlib.suppress(OSError):
                link.endpoint.void_token(ticket)  # nobody was given the ticket
            raise
        return Ticket(
            link.endpoint.id, ticket, self._segment, self._generation, self._size_bytes, deadline_ns, self._name,
            self._layout.encoded,
        )  # fmt: skip

    def release(self) -> None:
        """End the lease; releasing twice does nothing.

        A view of the array that is still alive stays valid, and the segment is held until it dies; a LingeringViewWarning
        says so, and where the lease was taken.

        Raises
        ------
        LingeringViewError
            The same, where the registry was opened with ``on_lingering="error"``.
        """
        lingering = self._let_go()
        if lingering is None or self._on_lingering == "ignore":
            return
        if self._on_lingering == "error":
            raise LingeringViewError(lingering, name=self._name, site=self._site)
        warnings.warn(LingeringViewWarning(lingering), stacklevel=2)

    def __enter__(self) -> Self:
        self._require_held()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.release()
            return
        lingering = self._let_go()  # the traceback of the error holds views itself: no error on top of it
        if lingering is not None and self._on_lingering != "ignore":
            warnings.warn(LingeringViewWarning(lingering), stacklevel=2)

    def __del__(self) -> None:
        if getattr(self, "_anchor", None) is None or self._pid != os.getpid() or self._link.is_ended:
            return
        message = f"{self!r} was never released; it was taken at {self._site}"
        self._let_go(collected=True)
        warnings.warn(LeaseNotHeldWarning(message), stacklevel=2, source=self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be pickled; send lease.ticket() and redeem it, or attach by name")

    # --- parts -------------------------------------------------------------------------------------------------------

    def _seal(self) -> None:
        self._writable = False
        if self._array is not None:
            seal(self._array)

    def _require_held(self) -> Anchor:
        if self._anchor is None:
            raise LeaseClosedError(f"{self!r} was released; it was taken at {self._site}", name=self._name, site=self._site)
        if self._pid != os.getpid():
            self._take_own()
        return self._anchor

    def _take_own(self) -> None:
        """In a forked child: a lease of this process on what the parent's holds; the memory is mapped already."""
        parent, site, link = self._id, calling_site(), self._link
        try:
            attached = link.request(m.Attached, lambda seq: m.Inherit(seq, link.id_of(seq), parent, site))
        except LeaseClosedError as error:
            raise LeaseClosedError(
                f"{self!r} was inherited through a fork from pid {self._pid}, which has released it", site=self._site
            ) from error
        if attached.generation != self._generation or attached.segment != self._segment:
            link.notify(lambda seq: m.Release(seq, attached.lease))
            raise LeaseClosedError(f"{self!r} was inherited through a fork and names another segment now", site=self._site)
        self._id, self._pid = attached.lease, os.getpid()

    def _let_go(self, *, collected: bool = False) -> str | None:
        """End the lease; words about views that are still alive, if any are."""
        anchor, self._anchor, self._array = self._anchor, None, None
        if anchor is None or self._pid != os.getpid():
            return None
        _held.discard(self)
        link, lease, segment, mapping, pid = self._link, self._id, self._segment, anchor.mapping, self._pid

        def released(seq: int) -> m.Notice:
            return m.Release(seq, lease)

        def view_died(reference: weakref.ref[Anchor]) -> None:
            _lingering.discard(reference)
            if os.getpid() == pid:  # in a forked child it is a copy that died
                link.notify_from_collector(released)

        watched = weakref.ref(anchor, view_died)
        _lingering.add(watched)
        del anchor  # if no view holds it, it dies here, and says so
        if watched() is not None:
            del mapping
            say: Callable[[Callable[[int], m.Notice]], object] = link.notify_from_collector if collected else link.notify
            if link.is_ended:  # nothing is held of a registry that is no more; the memory is the view's
                return None
            with contextlib.suppress(LeaseError):
                say(lambda seq: m.Linger(seq, lease))
            return (
                f"{self!r} was released while numpy views of it are alive; the segment stays held until they die. "
                f"The lease was taken at {self._site}"
            )
        if self._shared or self._segment_name is not None:  # never used again, and its pages live as long as any mapping
            mapping.close()
        else:
            link.mappings.give_back(segment, mapping)
        return None


def checked_on_lingering(on_lingering: OnLingering) -> OnLingering:
    """`on_lingering`, or a ValueError."""
    if on_lingering not in get_args(OnLingering):
        raise ValueError(f"on_lingering={on_lingering!r} is none of {', '.join(map(repr, get_args(OnLingering)))}")
    return on_lingering


# Leases of this process that were not released; weak, so that a lost one is collected, and warns.
_held: Final[weakref.WeakSet[Lease]] = weakref.WeakSet()
# References that watch anchors with views alive: a weak reference must itself be kept for its callback to be called.
_lingering: Final[set[weakref.ref[Anchor]]] = set()


def held_leases() -> list[Lease]:
    """The leases that this process holds now."""
    return [lease for lease in list(_held) if lease._pid == os.getpid()]


def _tell_of_fork() -> None:
    """Before a fork: what is leased now will be mapped by a process that the registry does not know."""
    for lease in held_leases():
        if not lease._shared and not lease._link.is_ended:
            lease._shared = True
            identifier = lease._id
            with contextlib.suppress(LeaseError):
                lease._link.notify(lambda seq, identifier=identifier: m.Share(seq, identifier))  # type: ignore[misc]


os.register_at_fork(before=_tell_of_fork)
