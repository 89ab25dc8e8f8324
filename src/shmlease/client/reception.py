"""Receiving for all threads of a process: whoever waits for an answer and finds nobody receiving receives for all.

A lock is taken by a call that notes whether it was (`AT_ONCE`), and what arrives is put into the inbox by one call, so that
an interrupt at any point loses neither.
"""

from __future__ import annotations

from typing import Any, Final

from shmlease.client.endpoint import Connection
from shmlease.core import messages as m
from shmlease.core.session import Session
from shmlease.core.wire import decode_registry_packet
from shmlease.errors import ProtocolError
from shmlease.system.primitives import AT_ONCE, RLock, allocate_lock

__all__ = ["Reception"]

# How long one wait for whoever receives lasts, should that thread have been interrupted before it could wake this one.
_WAIT_S: Final = 1.0
# Messages that answer no request.
_UNASKED: Final = (m.Spare, m.Forget)


class Reception:
    """What the threads of one process wait for, and which of them receives.

    Attributes
    ----------
    receiving : RLock
        Held by the thread that receives.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.receiving: Any = RLock()  # a plain one would not say that this very thread has it
        self._waiting: dict[int, Any] = {}  # lock of each caller that waits, by the number of its request

    @staticmethod
    def new_waiter() -> Any:
        """A lock, taken; it is released when there is something for the caller that waits."""
        waiter = allocate_lock()
        waiter.acquire()
        return waiter

    def expect(self, seq: int, waiter: Any) -> None:
        """From now on `waiter` is released when the answer to request `seq` arrives."""
        self._waiting[seq] = waiter

    def forget(self, seq: int) -> None:
        """Nobody waits for the answer to request `seq` any more."""
        self._waiting.pop(seq, None)

    def wait(self, connection: Connection | None, waiter: Any) -> None:
        """Receive a packet, or wait until whoever is receiving has something for this call, or a second has passed."""
        taken: list[bool] = []
        try:
            taken.extend(map(self.receiving.acquire, AT_ONCE))
            if not taken[0]:
                waiter.acquire(True, _WAIT_S)
            elif connection is not None:
                connection.receive(wait=True)
        finally:
            if taken and taken[0]:
                self.receiving.release()

    def poll(self, connection: Connection | None) -> None:
        """Receive what has come, without waiting, unless another thread is receiving."""
        taken: list[bool] = []
        try:
            taken.extend(map(self.receiving.acquire, AT_ONCE))
            if taken[0] and connection is not None:
                inbox, received = connection.inbox, -1
                while received < len(inbox) and (not inbox or inbox[-1]):  # until there is no more, or will not be
                    received = len(inbox)
                    connection.receive(wait=False)
        finally:
            if taken and taken[0]:
                self.receiving.release()

    def take_in(self, connection: Connection) -> bool:
        """Hand what has been received to the session; False if the registry has hung up. The link's lock is held."""
        inbox = connection.inbox
        while inbox:
            packet = inbox[0]
            if not packet:
                return False
            try:
                for message in decode_registry_packet(packet):
                    self._session.receive(message)
                    waiter = None if isinstance(message, _UNASKED) else self._waiting.get(message.seq)
                    if waiter is not None and waiter.locked():
                        waiter.release()
            except ProtocolError:
                inbox.popleft()
                raise
            inbox.popleft()
        return True

    def wake_one(self) -> None:
        """The caller receives no more: let another that waits see whether it must."""
        for waiter in list(self._waiting.values()):
            if waiter.locked():
                waiter.release()
                return

    def wake_all(self) -> None:
        """Let all see that there is nothing to wait for."""
        for waiter in list(self._waiting.values()):
            if waiter.locked():
                waiter.release()
