"""A call to another process, and its result: wrapped so that each pickles itself as a `message`, whatever pool sends it.

- The lease on the arguments of a call is the parent's, until the call is done; the worker attaches by address. Whoever
  dies, no ticket is left, and a call that is read twice is no error.
- The segment of a result is kept by a ticket that ends with the worker which made it. The parent redeems it as it reads
  the result; a worker that ends in order waits for that. If a worker is killed before, its result is lost, as the pool is
  broken then; results that were read are the parent's own leases.
- A pool cannot starve itself: arguments take at most half of the capacity. Those without room travel in the message, at
  once. A result waits for room, since whoever consumes results makes some; if none comes about for a while, nobody does,
  and this worker's results travel in the message until there is room again.
"""

from __future__ import annotations

import functools
import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import util
from typing import Any, Final, NamedTuple, TypeVar

from shmlease import Address, Lease, LeaseError, PackedObject, RegistryHandle, Ticket, connect, pack
from shmlease.integrations.messages import UNTIL_REDEEMED_S, MessagePickler, is_small, put, received
from shmlease.integrations.plain import is_plain

__all__ = ["Call", "Calls", "as_result", "pool_of_one_way"]

T = TypeVar("T")
_Parts = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

# How long a result waits for room. Longer than most consumers take for one result; short enough to be lost once by a
# program that looks at its first result when the last has come.
_PATIENCE_S: Final = 1.0
# Over `_room_bytes`, `_waiting`, and the leases of calls that end, of all pools of this process. A forked child may leave
# the block of a handle though another thread of its parent had the lock.
_lock: Final = threading.Lock()
os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]


# --- the parent's side -------------------------------------------------------------------------------------------------


class _Pool(NamedTuple):
    """What a worker must know of the pool that called it; `parent` is who reads its results, 0 if they may stay unread."""

    registry: str
    min_nbytes: int
    parent: int
    pickler: type[pickle.Pickler]


class Calls:
    """The calls of a pool that are not done, and the memory that their arguments take.

    Parameters
    ----------
    registry : RegistryHandle
        Whose memory is used.
    min_nbytes : int
        Bytes that an array, a buffer or a pickle of a result has at least to travel as a lease.
    pickler : type
        What pickles calls and results.
    """

    def __init__(self, registry: RegistryHandle, min_nbytes: int, pickler: type[pickle.Pickler] = MessagePickler) -> None:
        self.registry = registry
        self.min_nbytes = min_nbytes
        self.pool = tuple(_Pool(registry.id, min_nbytes, os.getpid(), pickler))  # pickled with every call
        self._pickler = pickler
        self._room_bytes = registry.statistics().capacity_bytes // 2
        self._pending: set[Call] = set()
        self._waiting: list[tuple[set[Call], Callable[[], object]]] = []

    def submit(
        self, submit: Callable[..., Future[Any]], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        """The future that `submit` gives for the call."""
        call = Call(self, fn, args, kwargs)
        self._pending.add(call)
        try:
            future = submit(call)
        except BaseException:
            self.done(call)
            raise
        future.add_done_callback(call.done)
        return future

    def packed(self, call: Call) -> PackedObject:
        """The message for a call."""
        return pack(call.parts, min_nbytes=self.min_nbytes, pickler=self._pickler)

    def lease(self, call: Call, message: PackedObject) -> Lease[Any] | None:
        """A lease on the arguments of a call, until it is done; None where there is no room."""
        if not self._take_room(message.nbytes):
            return None
        call.lease = put(self.registry, message, 0)
        if call.lease is None:
            self._give_room(message.nbytes)
        elif call not in self._pending:
            self._release(call)
        return call.lease

    def done(self, call: Call) -> None:
        """The call has its result, or will have none."""
        self._pending.discard(call)
        if call.lease is not None:
            self._release(call)
        if self._waiting:
            self._act_if_due()

    def when_done(self, act: Callable[[], object]) -> None:
        """Call `act` when all calls that are not done now are done."""
        with _lock:
            self._waiting.append((self._pending.copy(), act))
        self._act_if_due()

    def _act_if_due(self) -> None:
        with _lock:
            due = [act for calls, act in self._waiting if not calls & self._pending]
            self._waiting = [(calls, act) for calls, act in self._waiting if calls & self._pending]
        for act in due:
            act()

    def _release(self, call: Call) -> None:
        with _lock:
            lease, call.lease = call.lease, None
        if lease is not None:
            try:
                lease.release()
            finally:
                self._give_room(lease.nbytes)  # not before: another thread would fill it at once

    def _take_room(self, nbytes: int) -> bool:
        with _lock:
            is_room = nbytes <= self._room_bytes
            self._room_bytes -= nbytes if is_room else 0
            return is_room

    def _give_room(self, nbytes: int) -> None:
        with _lock:
            self._room_bytes += nbytes


def pool_of_one_way(registry: RegistryHandle, min_nbytes: int) -> tuple[Any, ...]:
    """What `as_result` takes where results are sent that may stay unread, as those of a loop that is left."""
    return tuple(_Pool(registry.id, min_nbytes, 0, MessagePickler))


class Call:
    """A call that has been submitted; it pickles itself when the pool sends it."""

    __slots__ = ("_calls", "lease", "parts")

    def __init__(self, calls: Calls, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._calls = calls
        self.parts: _Parts = (fn, args, kwargs)
        self.lease: Lease[Any] | None = None

    def done(self, _: Future[Any]) -> None:
        """Let go of the function and its arguments; the future, which may live on, refers to this."""
        self.parts = _nothing, (), {}
        self._calls.done(self)

    def __reduce__(self) -> tuple[Any, ...]:
        calls, parts = self._calls, self.parts
        pool = calls.pool
        message = calls.packed(self)
        if is_small(message, calls.min_nbytes):
            return _task, (pool, message.stream)
        lease = calls.lease(self, message)
        return (_Task, (pool, *parts)) if lease is None else (_task, (pool, lease.address()))


def _nothing() -> None:
    """What a call that is done calls."""


# --- the worker's side ---------------------------------------------------------------------------------------------------


class _Task:
    """What a worker calls."""

    __slots__ = ("_parts", "_pool")

    def __init__(self, pool: tuple[Any, ...], *parts: Any) -> None:
        self._pool, self._parts = pool, parts

    def __call__(self) -> Any:
        (fn, args, kwargs), self._parts = self._parts, ()  # let go of before the result is sent, and others need the room
        return as_result(fn(*args, **kwargs), self._pool)


class _LostTask:
    """A call whose arguments cannot be had: an error of this call alone."""

    __slots__ = ("_error",)

    def __init__(self, error: LeaseError) -> None:
        self._error = error

    def __call__(self) -> Any:
        raise self._error


def _task(pool: tuple[Any, ...], source: bytes | Address) -> _Task | _LostTask:
    """Where a call is unpickled."""
    try:
        parts = pickle.loads(source) if isinstance(source, bytes) else received(source)  # noqa: S301 - the parent's
    except LeaseError as error:
        return _LostTask(error)
    return _Task(pool, *parts)


def as_result(value: object, pool: tuple[Any, ...]) -> object:
    """What a worker is to send for the result `value`."""
    return value if is_plain(value, pool[1]) or type(value) is _Result else _Result(pool, value)


class _Result:
    """A result; it pickles itself when the worker sends it."""

    __slots__ = ("_pool", "_value")

    def __init__(self, pool: tuple[Any, ...], value: object) -> None:
        self._pool, self._value = pool, value

    def __reduce__(self) -> tuple[Any, ...]:
        pool = _Pool(*self._pool)
        message = pack(self._value, min_nbytes=pool.min_nbytes, pickler=pool.pickler)
        if is_small(message, pool.min_nbytes):
            return pickle.loads, (message.stream,)
        ticket = _sender(os.getpid(), self._pool).ticket_for(message)
        return (_same, (self._value,)) if ticket is None else (received, (ticket,))


class _Sender:
    """What a worker process has sent to a pool."""

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._patience_s = _PATIENCE_S
        self._last: Ticket | None = None  # the parent reads results in order
        util.Finalize(None, self._wait_until_read, exitpriority=0)

    def ticket_for(self, message: PackedObject) -> Ticket | None:
        """Of a segment with a result; None where there is no room."""
        try:
            lease = put(connect(self._pool.registry), message, self._patience_s)
            self._patience_s = 0.0 if lease is None else _PATIENCE_S
            if lease is None:
                return None
            with lease:
                self._last = lease.ticket(to=os.getpid(), ttl=UNTIL_REDEEMED_S)
        except LeaseError:  # the registry has ended, or there is no room for a ticket
            return None
        return self._last

    def _wait_until_read(self) -> None:
        """At the end of this process, with which its tickets end."""
        pause_s = 1e-4
        try:
            while self._last is not None and self._pool.parent and _is_there(self._pool.parent):
                if not connect(self._pool.registry).is_redeemable(self._last):
                    return
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.01)
        except LeaseError:
            return


@functools.cache
def _sender(_process: int, pool: tuple[Any, ...]) -> _Sender:
    return _Sender(_Pool(*pool))


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _same(value: T) -> T:
    return value
