"""A lease: the right of this process to map one segment, from grant to release.

This module is longer than other modules: it is one class, and half of it is what users read in its docstrings.
"""

from __future__ import annotations

import operator
import warnings
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NoReturn, Self, get_args

import numpy as np
import numpy.typing as npt

from shmlease.client.address import Address
from shmlease.client.arrays import Anchor, array_on, seal
from shmlease.client.call_site import calling_site
from shmlease.client.forked_leases import take_own
from shmlease.client.grant import Grant
from shmlease.client.hold import Hold, held
from shmlease.client.link import Link
from shmlease.client.minting import mint
from shmlease.client.objects import unpack
from shmlease.client.ticket import Ticket
from shmlease.core import messages as m
from shmlease.core.model import Identity
from shmlease.core.os_names import can_be_os_name
from shmlease.core.session import Session
from shmlease.errors import (
    CapacityError,
    LeaseClosedError,
    LingeringViewError,
    LingeringViewWarning,
    SegmentExistsError,
    TicketError,
    UnreleasedLeaseWarning,
)
from shmlease.interrupts import is_from_handler
from shmlease.system import syscalls
from shmlease.system.forks import notice_fork
from shmlease.system.identity import identify, own_identity
from shmlease.system.mapping import Mapping
from shmlease.system.shm_shortage import explained
from shmlease.system.signals import deliver_again
from shmlease.units import format_bytes, parse_duration

__all__ = ["Lease", "OnLingering", "checked_on_lingering"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # Lease alone, in an annotation, is a lease on an array of any dtype
    T_co = TypeVar("T_co", bound=np.generic, covariant=True, default=Any)
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", bound=np.generic, covariant=True)

OnLingering = Literal["warn", "error", "ignore", "detach"]

# Long enough for a reader that starts a Python interpreter and imports numpy first; short enough that a ticket nobody will
# ever redeem does not hold memory for the rest of a job.
DEFAULT_TTL_S: Final = 60.0
_WRITABLE: Final = 1  # PyBUF_WRITABLE
_DLPACK_CPU: Final = (1, 0)  # kDLCPU


class Lease(Generic[T_co]):
    """The right of this process to map one segment, from grant to release.

    Made by `Registry.lease`, `attach`, `redeem` and `share`; a context manager that releases at its end. Threads may share
    a lease. A process forked while it is held takes its own lease when it first uses it, and cannot release this one.

    What it does not guarantee: that nothing else of this user's writes to the memory. Views taken of a writer's array
    before `publish` stay writable, and so does any plain mapping of `segment`.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_anchor",
        "_array",
        "_grant",
        "_hold",
        "_is_writer",
        "_link",
        "_on_lingering",
        "_segment_name",
        "_site",
        "_writable",
    )
    _grant: Grant

    def __init__(self, link: Link, on_lingering: OnLingering, site: str) -> None:
        self._link = link
        self._hold = Hold(link)  # behind the lease: what the registry must be told when it ends, or does not come about
        self._on_lingering = on_lingering
        self._site = site
        self._segment_name: str | None = None
        self._address: Address | None = None
        self._anchor: Anchor | None = None
        self._array: np.ndarray[Any, np.dtype[T_co]] | None = None

    def _fill(self, grant: Grant, mapping: Mapping, *, is_writer: bool, writable: bool) -> None:
        """From here on it is a lease."""
        hold = self._hold
        hold.site = self._site
        self._grant = grant
        self._is_writer, self._writable = is_writer, writable
        self._anchor = Anchor(mapping)
        hold.anchor = hold.link.loose_ends.watch(self._anchor, hold)
        hold.segment, hold.mapping = grant.segment, mapping
        held[hold] = weakref.ref(self)
        self.__class__ = _HeldLease

    # --- what it is ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str | None:
        """The name that others attach by, or None."""
        return self._grant.name

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self._grant.layout.nbytes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self._grant.layout.shape

    @property
    def dtype(self) -> np.dtype[T_co]:
        """Dtype of the array."""
        return self._grant.layout.dtype

    @property
    def writable(self) -> bool:
        """Whether the array may be written: before `publish`, on a mutable segment, or copy-on-write."""
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
    def array(self) -> np.ndarray[Any, np.dtype[T_co]]:
        """The array on the segment, from its first byte on, exact to dtype, shape and strides.

        A writer's is writable until `publish`; its first content is undefined, as that of `numpy.empty`. A reader's is
        read-only: writing raises ValueError; unless it attached in another mode. Views may outlive the lease; the segment
        then stays held until the last of them dies.

        Raises
        ------
        LeaseClosedError
            The lease was released, or was inherited through a fork from a process that has released it since.
        """
        if self._array is not None:
            self._require_held()
            return self._array
        array = array_on(self._require_held(), self._grant.layout)
        if not self._writable and array.flags.writeable:  # not on a read-only mapping
            seal(array)
        self._array = array
        return array

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
            lease = self._hold.lease
            self._hold.tell()
            self._hold.is_exposed = True
            self._segment_name = self._link.request(m.Exposed, lambda seq: m.Expose(seq, lease)).alias
        return self._segment_name

    def link(self, *, while_alive: Iterable[int] | None = None) -> str:
        """Give the segment its own name in /dev/shm, as `shm_open` would have made it, and let the name keep it.

        Any program can open it by that name then; the file is as large as the array. The segment stays, also without a
        lease, until `RegistryHandle.withdraw` takes the name, or the last of the processes `while_alive` has ended; then
        the name goes, and who holds the segment keeps it.

        Parameters
        ----------
        while_alive : iterable of int, optional
            Pids of processes; if not given, the name stays until the registry ends.

        Returns
        -------
        str
            What `segment` is from now on: the name.

        Raises
        ------
        SegmentExistsError
            /dev/shm has another file of that name.
        ValueError
            The segment has no name, or one that no file in /dev/shm can have; or there are no such processes, or too many.
        LeaseClosedError
            The lease was released, its segment is not published, or `segment` has given it another name.
        TicketError
            A process is not there, or cannot be seen from here.
        """
        self._require_held()
        if self.name is None or not can_be_os_name(self.name):
            raise ValueError(
                f"{self!r} cannot be linked in /dev/shm: it needs a name without '/', of at most 255 bytes, that does not "
                "begin with 'shmlease-'"
            )
        if self._is_writer and self._writable and not self._grant.mutable:
            raise LeaseClosedError(f"{self!r} cannot be linked before it is published; publish() it first", name=self.name)
        processes: list[Identity | None] = (
            [None]
            if while_alive is None
            else [self._own_process() if pid == syscalls.getpid() else _process(pid) for pid in while_alive]
        )
        if not 1 <= len(processes) <= m.MAX_KEEPERS:
            raise ValueError(f"while_alive names {len(processes)} processes, not 1 to {m.MAX_KEEPERS}")
        link, grant, name = self._link, self._grant, self.name
        self._hold.tell()
        self._hold.is_exposed = True
        link.send(link.session.link_of(self._hold.lease, processes))
        try:
            with link.lock:  # the registry does so, too, if this is interrupted
                link.endpoint.link_alias(grant.segment, name, max(grant.layout.nbytes, 1))
        except BaseException as error:
            link.session.outbox.append(link.session.link_of(self._hold.lease, ()))
            link.settle()
            if not isinstance(error, OSError) or is_from_handler(error):
                raise
            if isinstance(error, FileExistsError):
                raise SegmentExistsError(
                    f"/dev/shm has another file called {name!r}; choose another name, or remove that file", name=name
                ) from None
            raise CapacityError(f"{self!r} cannot be linked in /dev/shm: {explained(error)}") from error
        self._segment_name = name
        self._note_address(os_name=name)
        return name

    def __repr__(self) -> str:
        what = "unnamed" if self.name is None else repr(self.name)
        state = "released" if not self.held else "writable" if self._writable else "read-only"
        return f"<Lease {what} {self.dtype} {self.shape} {format_bytes(self.nbytes)} {state}>"

    # --- what can be done with it ------------------------------------------------------------------------------------

    def load(self) -> Any:
        """The object that was `put` on the segment, made anew; on any other segment, the array.

        The object's arrays lie on the segment, as views of `array` do.

        Raises
        ------
        ObjectError
            It cannot be loaded; see `RegistryHandle.get`.
        LeaseClosedError
            The lease was released.
        """
        layout = self._grant.layout
        if layout.kind == "array":
            return self.array
        content = array_on(self._require_held(), layout)
        if not self._writable and layout.kind == "object":
            seal(content)
        return unpack(content, f"segment {self._grant.segment if self.name is None else self.name!r}")

    def detach(self) -> np.ndarray[Any, np.dtype[T_co]]:
        """The array, which carries the lease from now on: it ends, in order, when the last view of the array has died.

        As `io.TextIOWrapper.detach`, it leaves this object without what it was made for: it counts as released. The array
        can be returned, stored, and dropped anywhere, at any time, also at the end of the interpreter. A fork makes the
        segment one that is not used again; the child's copy of the array is not counted.

        Raises
        ------
        LeaseClosedError
            The lease was released, or its segment is not published.
        """
        self._require_held()
        if self._is_writer and self._writable and not self._grant.mutable:
            raise LeaseClosedError(
                f"{self!r} cannot be detached before it is published; publish() it first", name=self.name
            )
        array = self.array
        self._hold.is_detached = True
        self._end()
        return array

    def address(self) -> Address:
        """Where the segment is: something to attach by, in any process and any number of times, while it lives.

        It can be pickled, and keeps nothing alive. An array that is not published yet is published.

        Raises
        ------
        LeaseClosedError
            The lease was released.
        """
        self._require_held()
        if self._address is None:
            self._publish_if_unpublished()  # written by now, so that the registry reads it before it answers any attacher
            self._note_address(self.name or "" if self._hold.is_exposed else "")
        assert self._address is not None
        return self._address

    def _own_process(self) -> Identity:
        session = self._link.session  # a forked child has another
        known = _own.get(session)
        if known is None:
            _own.clear()
            known = _own[session] = own_identity()
        return known

    def _note_address(self, os_name: str = "") -> None:
        self._address = Address(self._link.endpoint.id, self._grant.segment, self._grant.generation, os_name)

    def publish(self, *, readers: int = 0, ttl: float | str | None = None) -> None:
        """Declare the array finished: from now on others may attach, and it is read-only here as well.

        A mutable segment is published from the beginning and stays writable; publishing it announces readers.

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
            `readers` is negative, or `ttl` is not a duration.
        """
        self._require_held()
        if not self._is_writer:
            raise LeaseClosedError(f"{self!r} is a reader's lease; only its writer can publish a segment")
        readers = operator.index(readers)
        if not 0 <= readers <= 1_000_000:
            raise ValueError(f"readers={readers} is not between 0 and 1,000,000")
        ttl_s = DEFAULT_TTL_S if ttl is None else parse_duration(ttl)
        lease, deadline_ns = self._hold.lease, self._link.endpoint.clock.now_ns() + int(ttl_s * 1e9)
        if not self._grant.mutable:
            self._seal()
        self._hold.tell()
        self._link.send(
            lambda seq: m.Publish(seq, lease, readers, deadline_ns if readers else 0), urgent=self.name is not None
        )

    def ticket(self, *, ttl: float | str | None = None, to: int | None = None) -> Ticket:
        """A single-use ticket for one reader, which keeps the segment alive until it is redeemed or `ttl` has passed.

        It may be pickled or sent as `str(ticket)`, and outlives this lease and this process. An array that is not published
        yet is published.

        Parameters
        ----------
        ttl : float or str
            Seconds, or words such as ``"2min"``; 60 s if not given.
        to : int, optional
            The pid of the process that is to redeem it: the ticket ends when that process does, rather than hold the
            segment for a message that nobody will read. Others may redeem it too, a child of that process for one.

        Raises
        ------
        LeaseClosedError
            The lease was released.
        TicketError
            There is no process `to`, or none that is seen from here.
        CapacityError
            /dev/shm has no room for the ticket's token.
        """
        self._require_held()
        ttl_s = DEFAULT_TTL_S if ttl is None else parse_duration(ttl)
        receiver = None if to is None else _process(to)
        self._publish_if_unpublished()
        return mint(self, self._link.endpoint.clock.now_ns() + int(ttl_s * 1e9), receiver, calling_site())

    def release(self) -> None:
        """End the lease; releasing twice does nothing.

        A view of the array that is still alive stays valid, and the segment is held until it dies; a LingeringViewWarning
        says so, and where the lease was taken.

        Raises
        ------
        LingeringViewError
            The same, where the registry was opened with ``on_lingering="error"``.
        """
        self._release(stacklevel=3)

    def __enter__(self) -> Self:
        self._require_held()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._release(stacklevel=3)
            return
        # the traceback of the error holds views itself: no error on top of it
        if self._on_lingering == "detach":
            self._hold.is_detached = True
        if self._end() and self._on_lingering not in ("ignore", "detach"):
            warnings.warn(LingeringViewWarning(self._words_of_views()), stacklevel=2)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be pickled; send lease.ticket() and redeem it, or attach by name")

    # --- as an array -------------------------------------------------------------------------------------------------

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """What ``np.asarray(lease)`` gives: the array itself, or a copy of it in another dtype."""
        array = self.array
        if dtype is not None and array.dtype != np.dtype(dtype):
            if copy is False:
                raise ValueError(f"{self!r} is no array of {np.dtype(dtype)} without a copy")
            return array.astype(dtype)
        return array.copy(order="K") if copy else array

    def __buffer__(self, flags: int) -> memoryview:
        """The memory of the array, for Python 3.12 and later."""
        if flags & _WRITABLE and not self.array.flags.writeable:
            raise BufferError(f"{self!r} is read-only")
        return self.array.data

    def __dlpack__(self, **options: Any) -> Any:
        """The array for another library; a read-only one is copied, for such libraries write to what they get."""
        array = self.array
        if not array.flags.writeable:
            if options.get("copy") is False:
                raise BufferError(f"{self!r} is read-only; attach with mode='c', or let it be copied")
            array = array.copy(order="K")
        given: Any = array
        return given.__dlpack__(**{key: value for key, value in options.items() if key != "copy"})

    def __dlpack_device__(self) -> tuple[int, int]:
        """The processor's memory."""
        return _DLPACK_CPU

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError(f"{self!r} is a lease, not an array: use lease.array")

    __getitem__ = __setitem__ = __delitem__ = __len__ = __iter__ = __contains__ = _refuse
    __add__ = __sub__ = __mul__ = __matmul__ = __truediv__ = __floordiv__ = __mod__ = __pow__ = _refuse
    __radd__ = __rsub__ = __rmul__ = __rmatmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rpow__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __abs__ = __invert__ = __and__ = __or__ = __xor__ = _refuse
    __float__ = __int__ = __complex__ = __round__ = _refuse

    def __bool__(self) -> bool:
        """True, as of any object: an array's truth is asked of ``lease.array``."""
        return True

    # --- parts -------------------------------------------------------------------------------------------------------

    def _release(self, stacklevel: int) -> None:
        if self._on_lingering == "detach":
            self._hold.is_detached = True
        if not self._end() or self._on_lingering in ("ignore", "detach"):
            return
        if self._on_lingering == "error":
            raise LingeringViewError(self._words_of_views(), name=self.name, site=self._site)
        warnings.warn(LingeringViewWarning(self._words_of_views()), stacklevel=stacklevel)

    def _publish_if_unpublished(self) -> None:
        if self._is_writer and self._writable and not self._grant.mutable:
            self.publish()

    def _zero(self) -> None:
        """Clear the whole segment, which was used before."""
        np.asarray(self._require_held())[:] = 0

    def _seal(self) -> None:
        self._writable = False
        if self._array is not None:
            seal(self._array)

    def _require_held(self) -> Anchor:
        notice_fork()
        if self._anchor is None:
            raise LeaseClosedError(f"{self!r} was released; it was taken at {self._site}", name=self.name, site=self._site)
        if self._hold.session is not self._link.session:
            take_own(self)
        return self._anchor

    def _end(self) -> bool:
        """End the lease; whether views of it are alive, and it was not ended before."""
        notice_fork()
        hold, link = self._hold, self._link
        if self._anchor is None:
            return False
        is_ours = hold.session is link.session and not link.ended
        loose_end = link.loose_ends.queue.append
        unwatched = weakref.ref(self._anchor)
        self.__class__ = Lease
        hold.anchor = unwatched
        self._array = self._anchor = None
        if is_ours:
            loose_end(hold)  # no call between: as soon as the lease has ended, its end is queued
        held.pop(hold, None)
        if not is_ours:
            return False
        link.settle()
        return hold.anchor is not None and hold.anchor() is not None

    def _words_of_views(self) -> str:
        return (
            f"{self!r} was released while numpy views of it are alive; the segment stays held until they die. "
            f"If they are meant to live on, use lease.detach(). The lease was taken at {self._site}"
        )


class _HeldLease(Lease[T_co]):
    """A lease until it ends: an object that is collected then runs no Python code, in which an interrupt would be lost."""

    __slots__ = ()

    def __del__(self) -> None:
        try:
            if not self._hold.is_ours or self._link.ended:
                return
            message = f"{self!r} was never released; it was taken at {self._site}"
            self._end()
            warnings.warn(UnreleasedLeaseWarning(message), stacklevel=2, source=self)
        except BaseException as error:
            deliver_again(error)


_HeldLease.__name__ = _HeldLease.__qualname__ = Lease.__name__  # in messages that name the type of what was misused


# This process, by a session of it: to look itself up takes longer than to make a segment.
_own: Final[dict[Session, Identity]] = {}


def _process(pid: int) -> Identity:
    try:
        return identify(operator.index(pid))
    except (ProcessLookupError, PermissionError) as error:
        if is_from_handler(error):
            raise
        raise TicketError(
            f"a ticket cannot be made for pid {pid}: there is no such process, or none that is seen from here"
        ) from None


def checked_on_lingering(on_lingering: OnLingering) -> OnLingering:
    """`on_lingering`, or a ValueError."""
    if on_lingering not in get_args(OnLingering):
        raise ValueError(f"on_lingering={on_lingering!r} is not one of {', '.join(map(repr, get_args(OnLingering)))}")
    return on_lingering
