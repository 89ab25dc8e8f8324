"""The serialization family "shmlease": large buffers lie in shared memory, and the message has tickets for them.

How an object becomes a header and buffers is left to Dask's own families, "dask" and "pickle", so all that they send
without a copy is shared without one: numpy, pandas, pyarrow, scipy, and what has out-of-band buffers. Whether the receiver
is on this node is decided for every message. To any other, to a spill file, and where there is no room, everything goes as
Dask sends it.

A ticket is for the receiver's process, and ends with it: whoever is killed in between, no segment is left.
"""

from __future__ import annotations

from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any, Final

from distributed.protocol.serialize import (
    dask_dumps,
    dask_loads,
    pickle_dumps,
    pickle_loads,
    register_serialization_family,
)

from shmlease import LeaseError, Ticket, connect
from shmlease.integrations.dask.node import Node, receiver_of
from shmlease.integrations.dask.shared_buffers import SharedBuffers

__all__ = ["buffers", "dumps", "loads", "register"]

# A smaller buffer is sent faster than it is leased and mapped: they break even at about 40 KiB between processes by a pipe.
_LEAST_BYTES: Final = 64 << 10

_Header = dict[str, Any]
_LOADS: Final[dict[str, Callable[[_Header, list[Any]], Any]]] = {"dask": dask_loads, "pickle": pickle_loads}

buffers: Final = SharedBuffers()


def register() -> None:
    """Make it known to Dask, and the first choice of whoever has not asked for other serializers.

    Dask has its default list, ("dask", "pickle"), in its code. So "dask" is registered anew, and tries this family first.
    """
    register_serialization_family("shmlease", dumps, loads)
    register_serialization_family("dask", _dumps_first, _loads_first)


def dumps(value: object, context: dict[str, Any] | None = None) -> tuple[_Header, list[Any]]:
    """The header and the small buffers of `value`, for a receiver on this node.

    Raises
    ------
    NotImplementedError
        The receiver is not known to be on this node: Dask tries its next family.
    """
    receiver = receiver_of(context)
    if receiver is None:
        raise NotImplementedError
    try:
        header, frames = dask_dumps(value, context=context)
    except NotImplementedError:
        header, frames = pickle_dumps(value, context=context)
    tickets = [_ticket(frame, *receiver) for frame in frames]
    small = [frame for frame, ticket in zip(frames, tickets, strict=True) if ticket is None]
    return {"shmlease": tickets, "of": header}, small


def loads(header: _Header, frames: list[Any]) -> Any:
    """What `dumps` was given; what lies in shared memory is writable, and copied page by page as it is written to.

    Raises
    ------
    ConnectionError
        A buffer is not there any more, as if the sender could not be reached: Dask asks again, or computes it anew.
    """
    small = iter(frames)
    whole = [next(small) if text is None else _received(text) for text in header["shmlease"]]
    return _LOADS[header["of"]["serializer"]](header["of"], whole)


def _ticket(frame: Any, node: Node, pid: int) -> str | None:
    """A ticket on the content of `frame`, in words; None if it is to be sent as it is."""
    content = PickleBuffer(frame).raw()
    if content.nbytes < _LEAST_BYTES:
        return None
    try:
        return str(buffers.ticket(node.registry, content, pid))
    except LeaseError:  # there is no room, or the receiver has just ended
        return None


def _received(text: str) -> memoryview:
    ticket = Ticket.parse(text)
    try:
        return buffers.received(connect(ticket.registry), ticket)
    except LeaseError as error:
        raise ConnectionError(f"an array that was sent in shared memory cannot be had: {error}") from error


def _dumps_first(value: object, context: dict[str, Any] | None = None) -> tuple[_Header, list[Any]]:
    try:
        return dumps(value, context)
    except NotImplementedError:
        header: _Header
        header, frames = dask_dumps(value, context=context)
        return header, frames


def _loads_first(header: _Header, frames: list[Any]) -> Any:
    return loads(header, frames) if "shmlease" in header else dask_loads(header, frames)
