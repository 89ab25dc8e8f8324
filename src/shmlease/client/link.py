"""A process's link to its registry: requests, notices, and what happens when the registry dies.

Rules:

* One link serves all threads of a process. Whoever waits for a reply and finds nobody reading reads for all; there is no
  background thread.
* A notice is written to the journal, where the registry finds it, also one that succeeds the one of now. The registry is rung
  for it unless it was rung lately: then it looks again by itself. A reply confirms the notices written before its request.
* After a takeover the link resumes as the same client and asks again what was not answered.
* The garbage collector may release leases at any moment, also while this very thread holds the lock. What it has to say goes
  to a queue that the next holder of the lock empties.
* A fork leaves the child without a link: its first use makes a new one, as a client of its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from msgspec.structs import replace

from shmlease.client.endpoint import Connection, Endpoint, NoticeLog
from shmlease.client.mappings import MappingCache
from shmlease.client.refusals import error_of
from shmlease.core import messages as m
from shmlease.core.model import NUMBER_BITS
from shmlease.core.wire import decode_registry_packet, encode
from shmlease.errors import LeaseError, ProtocolError, RegistryUnavailableError
from shmlease.system.forks import notice_fork

__all__ = ["Link"]

Reply = TypeVar("Reply", bound=m.RegistryMessage)

# How long a call bears with a registry that died and is not succeeded: a takeover takes some 50 ms, 500 on a bad day.
RECOVER_WITHIN_S: Final = 10.0
# Number of a claim that is yet to be said.
_NOT_SAID: Final = 2**62
# Requests that are answered with a lease after a while.
_GRANTING: Final = (m.Lease, m.Attach, m.Inherit, m.Decline)
# A claim rings for more spares when one in this many is left, which lasts until the registry has answered.
_RING_WHEN_LEFT: Final = 4


class Link:
    """One process's link to the registry at `endpoint`, made when it is first needed."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._begin()

    def _begin(self) -> None:
        """As after a fork: no connection, no client."""
        self.pid = os.getpid()
        self.client = 0
        self.epoch = 0
        self.mappings = MappingCache(self.endpoint)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._connection: Connection | None = None
        self._reading = False
        self._secret = secrets.token_bytes(16)
        self._journal: NoticeLog | None = None
        self._seq = 0
        self._spares: dict[int, m.Spare] = {}  # by lease: told twice, it is still one
        self._ring_at = 0
        self._rung_ns = -m.QUIET_NS
        self._said = 0  # number of the last notice
        self._claims: dict[
            int, tuple[int, int]
        ] = {}  # lease of a spare taken and not confirmed -> number of its claim, lock
        self._outstanding: dict[int, m.Request] = {}
        self._replies: dict[int, m.RegistryMessage] = {}
        self._abandoned: dict[int, m.Request] = {}  # requests that nobody waits for any more
        self._late: deque[Callable[[int], m.Notice]] = deque()
        self._saying_late = False
        self._ended = ""  # why the registry cannot be used any more

    # --- what the client does with it ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect now, so that a missing registry shows here.

        Raises
        ------
        RegistryUnavailableError
            There is none, or it has ended.
        """
        notice_fork()
        with self._lock:
            self._make_ready()
            self._poll()  # that it has ended since may not have been noticed

    def id_of(self, seq: int) -> int:
        """The id of the lease or ticket that message number `seq` is about; no other client can choose it."""
        return self.client << NUMBER_BITS | seq

    def new_id(self) -> int:
        """An id for something that is made before the registry is told of it."""
        notice_fork()
        with self._lock:
            self._make_ready()
            self._seq += 1
            return self.id_of(self._seq)

    def request(self, reply_type: type[Reply], build: Callable[[int], m.Request], timeout_s: float = 0.0) -> Reply:
        """Ask, and wait for the answer.

        Parameters
        ----------
        reply_type : type
            What the answer is.
        build : callable
            Makes the request from its sequence number.
        timeout_s : float
            How long the registry itself may wait before it answers.

        Raises
        ------
        LeaseError
            The registry refused, is gone, or does not answer.
        """
        notice_fork()
        with self._lock:
            self._make_ready()
            self._seq += 1
            seq = self._seq
            message = build(seq)
            reply = self._ask(message, timeout_s)
        if self._late:
            self._say_late()
        if isinstance(reply, m.Refused):
            raise error_of(reply)
        if not isinstance(reply, reply_type):
            raise ProtocolError(f"the registry answered {type(reply).__name__} where {reply_type.__name__} was expected")
        return reply

    def notify(self, build: Callable[[int], m.Notice], *, urgent: bool = False) -> int:
        """Say something that needs no answer; its sequence number.

        Parameters
        ----------
        urgent : bool
            Somebody may be waiting for it: ring in any case.
        """
        notice_fork()
        with self._lock:
            seq = self._say(build, urgent=urgent)
        if self._late:
            self._say_late()
        return seq

    def notify_from_collector(self, build: Callable[[int], m.Notice]) -> None:
        """Say something from a finalizer: now if nobody holds the lock, else as soon as it is let go."""
        if not self._ended and self.pid == os.getpid():
            self._late.append(build)
            self._say_late()

    def take_spare(self, size_bytes: int, most_bytes: int) -> m.Spare | None:
        """A segment granted ahead, if there is one that fits: to be claimed, or its lease released.

        From here on it cannot be revoked: a lock on its file says that it is taken, until the registry has read the claim.
        """
        notice_fork()
        with self._lock:
            self._make_ready()
            if not self._spares:
                self._poll()
            for spare in self._spares.values():
                if size_bytes <= spare.size_bytes <= most_bytes:
                    break
            else:
                return None
            del self._spares[spare.lease]
            claim = self.endpoint.claim_spare(spare.segment, spare.generation)
            if claim is None:
                return None
            self._claims[spare.lease] = (_NOT_SAID, claim)
            return spare

    def claim(self, build: Callable[[int], m.Claim]) -> None:
        """Say that a spare was taken."""
        notice_fork()
        with self._lock:
            self._say(build, urgent=len(self._spares) in (0, self._ring_at))
        if self._late:
            self._say_late()

    def close(self) -> None:
        """Leave in order; whatever is said to this link afterwards is dropped."""
        if self.pid != os.getpid():
            return
        with self._lock:
            try:
                if self._connection is not None and not self._ended:
                    with contextlib.suppress(LeaseError, OSError):
                        self._say(m.Bye, urgent=True)
            finally:
                self._drop_everything("this process has left it")

    def end(self) -> None:
        """This process has closed the registry: wait until it has removed everything, and forget it."""
        with self._lock:
            deadline_ns = self.endpoint.clock.now_ns() + int(RECOVER_WITHIN_S * 1e9)
            while self._connection is not None and self._connection.receive(wait=True) != b"":
                if self.endpoint.clock.now_ns() > deadline_ns:
                    break
            self._drop_everything("it was closed")

    @property
    def is_ended(self) -> bool:
        """Whether the registry is known to have ended, or was left."""
        return bool(self._ended)

    def _drop_everything(self, why: str) -> None:
        self._hang_up()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self.mappings.clear()
        self._spares.clear()
        self._let_go_of_claims(_NOT_SAID + 1)
        self._late.clear()
        self._ended = why
        self._changed.notify_all()

    def _unavailable(self) -> RegistryUnavailableError:
        return RegistryUnavailableError(
            f"registry {self.endpoint.id} cannot be used: {self._ended}", registry=self.endpoint.id
        )

    # --- forks -----------------------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Close what belongs to the parent and begin anew."""
        self._hang_up()
        if self._journal is not None:
            self._journal.close()
        self._let_go_of_claims(_NOT_SAID + 1)
        self.mappings.clear()
        ended = self._ended
        self._begin()
        self._ended = ended

    # --- the lock --------------------------------------------------------------------------------------------------

    def _say_late(self) -> None:
        while self._late and not self._saying_late and self._lock.acquire(blocking=False):
            try:
                if not self._say_what_is_late():
                    return
            finally:
                self._lock.release()

    # --- sending; the lock is held -----------------------------------------------------------------------------------

    def _say_what_is_late(self) -> bool:
        """False if it cannot be said now: the registry cannot be reached, or who says it waits for room in the journal."""
        if self._saying_late:
            return False
        self._saying_late = True
        try:
            while self._late:
                self._make_ready()
                self._write(self._late[0])
                if self._late:  # emptied if the registry has ended
                    self._late.popleft()
                self._ring()
        except (LeaseError, OSError):
            return False  # it is said when the registry can be reached again
        finally:
            self._saying_late = False
        return True

    def _say(self, build: Callable[[int], m.Notice], *, urgent: bool = False) -> int:
        self._make_ready()
        seq = self._write(build)
        self._ring(urgent=urgent)
        return seq

    def _write(self, build: Callable[[int], m.Notice]) -> int:
        """Write a notice into the journal; if that is full, wait for room, and let others have the lock meanwhile."""
        while True:
            self._seq += 1
            notice = build(self._seq)
            if self._journal is None or self._journal.append(notice):
                break
            self._confirm()
        self._said = notice.seq
        if isinstance(notice, m.Claim | m.Release) and notice.lease in self._claims:
            self._claims[notice.lease] = (notice.seq, self._claims[notice.lease][1])
        return notice.seq

    def _ring(self, *, urgent: bool = False) -> None:
        # the clock is read after the journal is written: what is not rung for was there before the registry looks again
        if urgent or self.endpoint.clock.now_ns() - self._rung_ns >= m.QUIET_NS:
            self._seq += 1
            try:
                self._send(m.Ring(self._seq))
            except RegistryUnavailableError:
                if self._ended:
                    raise
                # else it is said: the registry finds it in the journal when it goes on, or its successor does

    def _confirm(self) -> None:
        """Wait until all notices so far have been applied; the journal then has room again."""
        self._seq += 1
        self._ask(m.Ping(self._seq), 0.0)

    def _ask(self, message: m.Request, timeout_s: float) -> m.RegistryMessage:
        seq = message.seq
        deadline_ns = self.endpoint.clock.now_ns() + int((timeout_s + RECOVER_WITHIN_S) * 1e9)
        self._outstanding[seq] = message
        try:
            self._send(message)
            while seq not in self._replies:
                self._await_more()
                if self._late:  # what it waits for may be what is to be released
                    self._say_what_is_late()
                if seq not in self._replies and self.endpoint.clock.now_ns() > deadline_ns:
                    raise RegistryUnavailableError(
                        f"registry {self.endpoint.id} has not answered for {RECOVER_WITHIN_S:.0f} s; is it stopped?",
                        registry=self.endpoint.id,
                    )
            del self._outstanding[seq]
            return self._replies.pop(seq)
        except BaseException:
            self._outstanding.pop(seq, None)
            self._abandoned[seq] = message
            if seq in self._replies:  # interrupted just when it had come
                self._take(self._replies.pop(seq))
            elif isinstance(message, _GRANTING) and not self._outstanding and not self._reading:
                self._hang_up()  # the registry grants nothing to who is not there: nobody waits in this one's place
            raise

    def _send(self, message: m.ClientMessage) -> None:
        assert self._connection is not None
        try:
            self._rung_ns = self.endpoint.clock.now_ns()
            self._connection.send(encode([message]))
        except OSError:
            self._recover()

    # --- receiving; the lock is held ---------------------------------------------------------------------------------

    def _await_more(self) -> None:
        """Let the next packet come in, or whoever is reading read it, or a second pass."""
        self._make_ready()
        if self._reading:
            self._changed.wait(timeout=1.0)
            return
        connection = self._connection
        assert connection is not None
        self._reading = True
        self._lock.release()
        try:
            packet = connection.receive(wait=True)
        finally:
            self._lock.acquire()
            self._reading = False
            self._changed.notify_all()
        self._receive(connection, packet)

    def _poll(self) -> None:
        """Take in what has come, without waiting."""
        while not self._reading and self._connection is not None:
            connection = self._connection
            packet = connection.receive(wait=False)
            self._receive(connection, packet)
            if not packet:
                return

    def _receive(self, connection: Connection, packet: bytes | None) -> None:
        if packet:
            for message in decode_registry_packet(packet):
                self._take(message)
        elif packet is not None and connection is self._connection:
            self._recover()

    def _take(self, message: m.RegistryMessage) -> None:
        if isinstance(message, m.Forget):
            self.mappings.forget(message.segment)
            return
        if isinstance(message, m.Spare):
            self._confirmed(message.applied + 1)
            if message.lease not in self._claims:
                self._spares[message.lease] = message
                self._ring_at = len(self._spares) // _RING_WHEN_LEFT
            return
        self._confirmed(message.seq)
        if message.seq in self._outstanding:
            self._replies[message.seq] = message
        elif message.seq in self._abandoned:
            del self._abandoned[message.seq]
            if isinstance(message, m.Granted | m.Attached):
                lease = message.lease
                self._late.append(lambda seq: m.Release(seq, lease))
        elif isinstance(message, m.Refused):  # of a notice: its sender has gone on, so that only this is left to do
            sys.stderr.write(f"shmlease: {message.message}\n")

    def _confirmed(self, seq: int) -> None:
        """Everything before number `seq` has been applied."""
        if self._said < seq and self._journal is not None:
            self._journal.restart()
        if self._claims:
            self._let_go_of_claims(seq)

    def _let_go_of_claims(self, seq: int) -> None:
        for lease, (said, claim) in list(self._claims.items()):
            if said < seq:
                del self._claims[lease]
                self.endpoint.let_go(claim)

    # --- connecting, and connecting again; the lock is held ------------------------------------------------------------

    def _make_ready(self) -> None:
        if self._ended:
            raise self._unavailable()
        if self._connection is None:
            self._recover()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _recover(self) -> None:
        """Connect; see to a successor first if the registry is dead."""
        clock = self.endpoint.clock
        deadline_ns = clock.now_ns() + int(RECOVER_WITHIN_S * 1e9)
        patience_s = 0.001
        failure = f"registry {self.endpoint.id} did not answer within {RECOVER_WITHIN_S:.0f} s; see `shmlease status`"
        self._hang_up()
        while True:
            if not self.endpoint.exists():
                self._drop_everything(
                    "it does not exist or has ended; start one with `shmlease serve`, or with shmlease.Registry() in a "
                    "process that outlives the others"
                )
                raise self._unavailable()
            try:
                self._shake_hands()
                return
            except LeaseError:  # refused, which is an answer, though some of these are ConnectionErrors
                self._hang_up()
                raise
            except (ConnectionError, FileNotFoundError, TimeoutError):
                self._hang_up()
            except BaseException:  # interrupted: a connection on which nobody was greeted is none
                self._hang_up()
                raise
            try:
                self.endpoint.succeed()
            except RegistryUnavailableError as error:  # the successor died as well, or has no room to start: try again
                failure = error.message  # not the error: its traceback would keep the caller's arrays
            if clock.now_ns() > deadline_ns:
                raise RegistryUnavailableError(failure, registry=self.endpoint.id)
            clock.wait_s(patience_s)
            patience_s = min(patience_s * 1.5, 0.05)

    def _shake_hands(self) -> None:
        """Connect, say who this is, and go on where the last connection ended."""
        connection = self._connection = self.endpoint.connect()
        self._seq += 1
        connection.send(encode([m.Hello(self._seq, m.PROTOCOL, self._secret, self.client, self.endpoint.limits())]))
        deadline_ns = self.endpoint.clock.now_ns() + int(RECOVER_WITHIN_S * 1e9)
        welcome: m.Welcome | m.Refused | None = None
        others: list[m.RegistryMessage] = []  # answers over the connection before, pushed to whoever is there now
        while welcome is None:
            packet = connection.receive(wait=True)
            if packet == b"" or (packet is None and self.endpoint.clock.now_ns() > deadline_ns):
                raise ConnectionResetError("the registry hung up")
            for message in decode_registry_packet(packet) if packet else ():
                if isinstance(message, m.Welcome | m.Refused) and message.seq in (self._seq, 0):
                    welcome = message
                else:
                    others.append(message)
        if isinstance(welcome, m.Refused):
            self._hang_up()
            if welcome.code in (m.RefusalCode.CLOSING, m.RefusalCode.RESUME):
                self._drop_everything(welcome.message)
            raise error_of(welcome)
        self.epoch = welcome.epoch
        self._spares.clear()
        self._rung_ns = -m.QUIET_NS
        if self.client == 0:
            self.client = welcome.client
            self._journal = self.endpoint.open_journal(self.client)
            return
        self.mappings.clear()  # what was to be forgotten in the meantime was not told
        self._confirmed(welcome.applied + 1)
        for message in others:
            self._take(message)
        # what was granted to nobody who waits must be known, to be released: it is asked for again as well
        self._abandoned = {seq: request for seq, request in self._abandoned.items() if isinstance(request, _GRANTING)}
        # in the order of before: what was granted to nobody is known before the answer that a caller may leave with
        for _, request in sorted({**self._outstanding, **self._abandoned}.items()):
            in_vain = request.seq in self._abandoned and not isinstance(request, m.Inherit)
            connection.send(encode([replace(request, timeout_ns=0) if in_vain else request]))
