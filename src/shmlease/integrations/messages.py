"""A message between processes, its large parts in shared memory: what the executor, `carrying` and joblib send.

`packed` pickles as multiprocessing does. What of it is large lies beside the pickle; then `put` brings all of it into one
segment, and what is sent is a ticket, or an address where the sender holds a lease until it is answered. A receiver needs
nothing: unpickling takes the lease, copy-on-write, and the arrays hold it. Where there is no room, or no registry any more,
the message travels as it would without shmlease.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

import numpy as np

from shmlease import (
    Address,
    CapacityError,
    Lease,
    PackedObject,
    RegistryHandle,
    RegistryUnavailableError,
    Ticket,
    TicketError,
    connect,
    pack,
)

__all__ = ["MIN_NBYTES", "UNTIL_REDEEMED_S", "MessagePickler", "is_small", "packed", "put", "received"]

# Sent one at a time, a lease and its mapping are quicker than a pipe from about 40 KiB on. In a pool whose tasks do nothing
# they take some 0.5 ms more, up to about 1 MiB: set it higher for many such tasks.
MIN_NBYTES: Final = "64KiB"
# A message waits for its reader as long as it must. What ends a ticket that is never redeemed is the end of a process.
UNTIL_REDEEMED_S: Final = 1e9


class MessagePickler(ForkingPickler):
    """As multiprocessing pickles, by the protocol that has buffers."""

    _extra_reducers: dict[type, Any]

    def __init__(self, stream: io.BytesIO, protocol: int, buffer_callback: Any) -> None:
        pickle.Pickler.__init__(self, stream, protocol, fix_imports=True, buffer_callback=buffer_callback)
        # a plain dict, which the pickler looks into without running Python code; multiprocessing's own is a chain of maps
        self.dispatch_table = copyreg.dispatch_table | self._extra_reducers


def packed(value: object, min_nbytes: int) -> PackedObject:
    """`value` as a message."""
    return pack(value, min_nbytes=min_nbytes, pickler=MessagePickler)


def is_small(message: PackedObject, min_nbytes: int) -> bool:
    """Whether the pickle is the whole message, and a pipe is quick enough for it."""
    return not message.buffers and len(message.stream) < min_nbytes


def put(registry: RegistryHandle, message: PackedObject, timeout_s: float) -> Lease[np.uint8] | None:
    """A lease on the message; None where there is no room for it within `timeout_s`, or no registry any more."""
    try:
        return registry.put(message, timeout=timeout_s)
    except (CapacityError, RegistryUnavailableError):
        return None


def received(source: Ticket | Address) -> Any:
    """What was sent as `source`: where a message is unpickled."""
    try:
        return connect(source.registry).get(source, mode="c")
    except TicketError as error:
        error.add_note("It is in a message between processes; such a message can be unpickled once.")
        raise
