"""`carrying`: what multiprocessing sends has its large parts in shared memory.

Pool, Queue, SimpleQueue, Pipe, Manager and ProcessPoolExecutor pickle a message with ``ForkingPickler.dumps``, in whatever
thread, and send the bytes. While somebody carries, those bytes are a `message`: a ticket, from a certain size on. A
receiver needs nothing for that. Children carry too: a forked one as the copy it is, others because a carrier is part of
what multiprocessing gives each process on its way, where its authentication key is.

A ticket is redeemed once, so a message can be unpickled once, which is what all of these do; the second time is a
TicketError. A message that is never unpickled keeps its segment as a pipe keeps its bytes: nobody can know whether it will
be read. The ticket ends with the process that began to carry, and with the registry.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

from shmlease import LeaseError, RegistryHandle, Ticket, connect
from shmlease.integrations.messages import MIN_NBYTES, UNTIL_REDEEMED_S, is_small, packed, put, received
from shmlease.integrations.own_registry import RegistryUse
from shmlease.units import parse_bytes

__all__ = ["carrying"]


@contextlib.contextmanager
def carrying(registry: RegistryHandle | None = None, *, min_nbytes: int | str = MIN_NBYTES) -> Iterator[RegistryHandle]:
    """While it lasts, large arrays and buffers that multiprocessing sends travel as leases.

    That holds for all threads of this process, and for the processes that are started meanwhile, as long as they live:
    Pool, Queue, SimpleQueue, Pipe, Manager, and concurrent.futures. What arrives is writable, as what was pickled is: it is
    mapped copy-on-write. Where there is no room, it travels in the message, as it does without this. May be nested: the
    innermost counts.

    A message can be unpickled once. One that nobody unpickles holds its memory until the process that entered the outermost
    block has ended, or the registry.

    Parameters
    ----------
    registry : RegistryHandle, optional
        Whose memory is used. It must outlive the messages. If not given, as of `Executor`.
    min_nbytes : int or str
        Bytes that an array, a buffer or a pickle has at least to travel as a lease.
    """
    least, use = parse_bytes(min_nbytes), RegistryUse(registry)
    carrier = _Carrier(use.registry.id, least, os.getpid())
    try:
        _begin(carrier)
        yield use.registry
    finally:
        _end(carrier)
        use.end()


class _Carrier:
    """Who carries: pickled, as a part of a process that is started, it carries in that process."""

    def __init__(self, registry: str, min_nbytes: int, owner: int) -> None:
        self._registry = registry
        self._min_nbytes = min_nbytes
        self._owner = owner

    def dumps(self, value: object) -> memoryview | None:
        """The bytes of a message; None where it is to be sent as it is."""
        message = packed(value, self._min_nbytes)
        if is_small(message, self._min_nbytes):
            return memoryview(message.stream)
        try:
            lease = put(connect(self._registry), message, 0)
            if lease is None:
                return None
            with lease:
                ticket = lease.ticket(to=self._owner, ttl=UNTIL_REDEEMED_S)
        except LeaseError:  # the registry has ended, or the owner, or there is no room for a ticket
            return None
        dumped: memoryview = _dumps_as_ever(ForkingPickler, _Carried(ticket))
        return dumped

    def __reduce__(self) -> tuple[Any, ...]:
        return _carry_here, (self._registry, self._min_nbytes, self._owner)


class _Carried:
    """Stands for a message in what is sent."""

    __slots__ = ("_ticket",)

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket

    def __reduce__(self) -> tuple[Any, ...]:
        return received, (self._ticket,)


def _carry_here(registry: str, min_nbytes: int, owner: int) -> _Carrier:
    carrier = _Carrier(registry, min_nbytes, owner)
    _begin(carrier)
    return carrier


def _begin(carrier: _Carrier) -> None:
    ForkingPickler.dumps = classmethod(_dumps)  # type: ignore[method-assign, assignment] # it stays: nobody may carry
    _carriers.append(carrier)
    _tell_children()


def _end(carrier: _Carrier) -> None:
    if carrier in _carriers:
        _carriers.remove(carrier)
    _tell_children()


def _tell_children() -> None:
    """Make the innermost carrier a part of each process that is started from now on."""
    given = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if _carriers:
        given[__name__] = _carriers[-1]
    else:
        given.pop(__name__, None)


def _dumps(pickler: type[ForkingPickler], value: object, protocol: int | None = None) -> Any:
    innermost = _carriers[-1:]
    if innermost and protocol is None and pickler is ForkingPickler:
        message = innermost[0].dumps(value)
        if message is not None:
            return message
    return _dumps_as_ever(pickler, value, protocol)


_dumps_as_ever: Final = ForkingPickler.dumps.__func__  # type: ignore[attr-defined]
# Without a lock, which a fork could leave locked in the child: each operation on a list is one step.
_carriers: Final[list[_Carrier]] = []
