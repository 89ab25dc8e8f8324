"""The way to the registry process that serves now: a connection, and the notice log that outlives it.

If the registry is dead, `open` sees to a successor and goes on with that one where the session stands. Its methods are for
whoever holds the link's lock, and each can be called again after an interrupt.
"""

from __future__ import annotations

from typing import Final

from shmlease.client.endpoint import Connection, Endpoint, NoticeWriter
from shmlease.client.mappings import MappingCache
from shmlease.client.reception import Reception
from shmlease.client.refusals import error_of
from shmlease.core import messages as m
from shmlease.core.session import Session
from shmlease.core.wire import encode
from shmlease.errors import LeaseError, RegistryUnavailableError
from shmlease.interrupts import is_from_handler

__all__ = ["RECOVER_WITHIN_S", "Channel"]

# How long a call waits for a successor of a registry that died: a takeover takes some 50 ms, under load 500.
RECOVER_WITHIN_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.05


class Channel:
    """A connection and a notice log of one client; made closed.

    Attributes
    ----------
    connection : Connection, optional
        To the process that serves; None if there is none.
    notice_log : NoticeWriter, optional
        Where notices are written; None before the first connection.
    is_ready : bool
        Whether the registry knows on this connection who it is talking to, and all that it was asked before.
    ended : str
        Why the registry cannot be used any more, after `open` has found that out.
    """

    def __init__(self, endpoint: Endpoint, session: Session, mappings: MappingCache, reception: Reception) -> None:
        self.connection: Connection | None = None
        self.notice_log: NoticeWriter | None = None
        self.is_ready = False
        self.ended = ""
        self._endpoint = endpoint
        self._session = session
        self._mappings = mappings
        self._reception = reception
        self._rung_ns = -m.QUIET_NS

    def open(self) -> None:
        """Connect; see to a successor first if the registry is dead.

        Raises
        ------
        LeaseError
            The registry has ended, which `ended` tells then; or it refused, or nobody could be reached.
        """
        endpoint = self._endpoint
        clock = endpoint.clock
        deadline_ns = clock.now_ns() + int(RECOVER_WITHIN_S * 1e9)
        pause_s = _FIRST_PAUSE_S
        failure = f"registry {endpoint.id} did not answer within {RECOVER_WITHIN_S:.0f} s; see `shmlease status`"
        while True:
            self.close()
            if not endpoint.exists():
                self.ended = (
                    "it does not exist or has ended; start one with `shmlease serve`, or with shmlease.Registry() in a "
                    "process that outlives the others"
                )
                raise self.unavailable(self.ended)
            try:
                self._shake_hands()
                return
            except LeaseError:  # refused, which is an answer, though some of these are ConnectionErrors
                self.close()
                raise
            except (ConnectionError, FileNotFoundError, TimeoutError) as error:
                if is_from_handler(error):
                    raise
                self.close()
            try:
                endpoint.succeed()
            except RegistryUnavailableError as error:
                if is_from_handler(error):
                    raise
                # the successor died as well, or has no room to start: try again
                failure = error.message  # not the error: its traceback would keep the caller's arrays
            if clock.now_ns() > deadline_ns:
                raise RegistryUnavailableError(failure, registry=endpoint.id)
            clock.wait_s(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    def close(self) -> None:
        """Hang up; the notice log stays."""
        self.is_ready = False
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def send(self, message: m.ClientMessage) -> bool:
        """Send `message`; False if there is no connection, or none any more: then the next one says all that is
        to be said.
        """
        connection = self.connection
        if connection is None or not self.is_ready:
            return False
        try:
            self._rung_ns = self._endpoint.clock.now_ns()
            connection.send(encode([message]))
        except OSError as error:
            if is_from_handler(error):
                raise
            self.close()
            return False
        return True

    def is_ring_due(self) -> bool:
        """Whether the registry may not look into the notice log again by itself.

        The clock is read after the notice log is written: what is not rung for was there before the registry looks again.
        """
        return self._endpoint.clock.now_ns() - self._rung_ns >= m.QUIET_NS

    def unavailable(self, why: str) -> RegistryUnavailableError:
        """The error for a registry that cannot be used any more."""
        return RegistryUnavailableError(f"registry {self._endpoint.id} cannot be used: {why}", registry=self._endpoint.id)

    def _shake_hands(self) -> None:
        """Connect, say who this is, and go on where the last connection ended."""
        session, endpoint = self._session, self._endpoint
        connection = self.connection = endpoint.connection()
        connection.open()
        connection.send(encode([session.hello(endpoint.limits())]))
        deadline_ns = endpoint.clock.now_ns() + int(RECOVER_WITHIN_S * 1e9)
        while session.welcome is None:
            connection.receive(wait=True)
            if not self._reception.take_in(connection) or endpoint.clock.now_ns() > deadline_ns:
                break
        welcome = session.welcome
        if welcome is None:
            raise ConnectionResetError("the registry hung up")
        if isinstance(welcome, m.Refused):
            if welcome.code in (m.RefusalCode.CLOSING, m.RefusalCode.RESUME):
                self.ended = welcome.message
            raise error_of(welcome)
        if self.notice_log is None:
            self.notice_log = endpoint.open_notice_log(session.client)
        self._mappings.clear()  # which of their segments are gone was not told in the meantime
        for request in session.unanswered():
            connection.send(encode([request]))
        self._rung_ns = -m.QUIET_NS
        self.is_ready = True
