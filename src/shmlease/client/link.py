"""A process's link to its registry: the socket, the journal and the lock around one `Session`.

Rules:

* One link serves all threads of a process. Whoever waits for an answer and finds nobody reading reads for all.
* A notice is written to the journal, where the registry finds it, also one that succeeds the one of now. The registry is rung
  for it unless it was rung lately: then it looks again by itself.
* An exception may end any method early, wherever Python runs signal handlers: where a function begins, where a loop jumps back, and
  after a call of a function written in C. Locks are therefore taken by `with`, or by a call that notes it (`AT_ONCE`); what arrives
  is received into the inbox by one call, and taken from it when it has been taken in; what a call had taken on goes into
  `loose_ends`. The next call carries on from there, or a thread that `sweep_soon` starts for the purpose.
* A signal handler or a finalizer may use the link while its own thread is in a call. It must not wait for that thread, which is
  itself: what can be queued is, anything else is refused.
* A fork leaves the child without a link: its first use makes a new one, as a client of its own. One that Python was not told of is
  noticed where a `Hold` is made, a lease is used or ended, and a request begins.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import weakref
from _queue import Empty, SimpleQueue
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from shmlease.client.arrays import Anchor
from shmlease.client.endpoint import Connection, Endpoint, NoticeWriter
from shmlease.client.hold import Hold, Minting, Redemption, Watch
from shmlease.client.mappings import MappingCache
from shmlease.client.refusals import error_of
from shmlease.core import messages as m
from shmlease.core.session import GRANTS, Build, Session
from shmlease.core.wire import decode_registry_packet, encode
from shmlease.errors import CapacityError, LeaseError, ProtocolError, ReentrantCallError, RegistryUnavailableError
from shmlease.system.exhaustion import explained, shortage_behind
from shmlease.system.forks import after_fork_in_child, notice_fork
from shmlease.system.primitives import AT_ONCE, RLock, allocate_lock
from shmlease.system.signals import is_from_handler

__all__ = ["Link"]

Reply = TypeVar("Reply", bound=m.RegistryMessage)

# How long a call bears with a registry that died and is not succeeded: a takeover takes some 50 ms, 500 on a bad day.
RECOVER_WITHIN_S: Final = 10.0
# How long one wait for whoever reads lasts, should that thread have been interrupted before it could wake this one.
_WAIT_S: Final = 1.0


class _LooseEnd(Protocol):
    def settle(self) -> None: ...


class Link:
    """One process's link to the registry at `endpoint`, made when it is first needed."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._ended = ""  # why the registry cannot be used any more
        self._begin()
        _all[:] = [reference for reference in _all if reference() is not None]
        _all.append(weakref.ref(self))

    def _begin(self) -> None:
        """As after a fork: no connection, no client."""
        self.session = Session(secrets.token_bytes(16))
        self.mappings = MappingCache(self.endpoint)
        self.loose_ends: deque[_LooseEnd] = deque()
        self.lingering: dict[int, Hold] = {}
        self._deaths: SimpleQueue[Any] = SimpleQueue()  # watches; None ends the thread that attends to them
        self._is_attended = False
        self._lock: Any = RLock()  # a plain one would not say that this very thread has it
        self._reader: Any = RLock()
        self._waiting: dict[int, Any] = {}  # lock of each caller that waits, by the number of its request
        self._connection: Connection | None = None
        self._journal: NoticeWriter | None = None
        self._is_ready = False
        self._rung_ns = -m.QUIET_NS

    @property
    def is_ended(self) -> bool:
        """Whether the registry is known to have ended, or was left."""
        return bool(self._ended)

    # --- what the client does with it ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect now, so that a missing registry shows here.

        Raises
        ------
        RegistryUnavailableError
            There is none, or it has ended.
        """
        self._require_outside()
        with self._lock:
            self._make_ready()
            self._poll()
            self._make_ready()  # that it has ended since may not have been noticed
        if self.loose_ends or self.session.outbox:
            self.settle()

    def request(
        self, reply_type: type[Reply], build: Callable[[int], m.Request], timeout_s: float = 0.0, hold: Hold | None = None
    ) -> Reply:
        """Ask, and wait for the answer.

        Parameters
        ----------
        reply_type : type
            What the answer is.
        build : callable
            Makes the request from its sequence number.
        timeout_s : float
            How long the registry itself may wait before it answers.
        hold : Hold, optional
            Takes the lease that the answer grants.

        Raises
        ------
        LeaseError
            The registry refused, is gone, or does not answer.
        """
        self._require_outside()
        asked = hold or Hold(self)
        try:
            reply = self._ask(build, timeout_s, asked)
        except BaseException as error:
            if hold is None:
                self.loose_ends.append(asked)
            shortage = shortage_behind(error)
            if shortage is not None:
                raise CapacityError(f"registry {self.endpoint.id} cannot be asked: {explained(shortage)}") from error
            raise
        if self.loose_ends or self.session.outbox:  # queued by a signal handler while this thread had the lock
            self.settle()
        if isinstance(reply, m.Refused):
            raise error_of(reply)
        if not isinstance(reply, reply_type):
            raise ProtocolError(f"the registry answered {type(reply).__name__} where {reply_type.__name__} was expected")
        return reply

    def send(self, notice: Build, *, urgent: bool = False) -> None:
        """Send something that needs no answer.

        Parameters
        ----------
        notice : callable
            Makes it from its sequence number.
        urgent : bool
            Somebody may be waiting for it: ring in any case.
        """
        if self._lock._is_owned():
            raise self._reentrant()
        if self._ended:
            raise self._unavailable()
        self.session.outbox.append(notice)
        self._flush(urgent=urgent)

    def settle(self) -> None:
        """See to loose ends, and send what is queued, if the registry can be reached; else the next call does."""
        if self._ended or self._lock._is_owned():  # within a call of this very thread, which goes on with it
            return
        try:
            self._flush()
        except (LeaseError, OSError) as error:
            if is_from_handler(error):
                raise

    def take_spare(self, hold: Hold, size_bytes: int, most_bytes: int) -> m.Spare | None:
        """A segment granted ahead, if there is one that fits: to be claimed, or its lease released.

        From here on it cannot be revoked: a lock on its file says that it is taken, until the registry has read the claim.
        """
        if self._lock._is_owned():
            raise self._reentrant()
        session = self.session
        with self._lock:
            if not self._is_ready:
                self._make_ready()
            if not session.spares:
                self._poll()
            spare = session.fitting_spare(size_bytes, most_bytes)
            if spare is not None:
                token = self.endpoint.new_claim()
                hold.is_unsure = True
                session.claim(spare, token)
                hold.lease = spare.lease
                if self.endpoint.claim_spare(spare.segment, spare.generation, token):
                    hold.is_unsure = False
                else:
                    token.close()
                    hold.lease = 0
                    del session.claims[spare.lease]
                    spare = None
        if self.loose_ends or session.outbox:
            self.settle()
        return spare

    def redeem(self, hold: Hold, ticket: int, site: str, due_ns: int) -> bool:
        """Take a ticket's token, which only one can; whether it was there."""
        self._require_outside()
        session = self.session
        with self._lock:
            self._make_ready()
            lease = session.id_of(session.next_seq())
            redemption = Redemption(lease, lambda seq: m.Redeemed(seq, lease, ticket, site, due_ns))
            hold.redemption = redemption
            if not self.endpoint.claim_token(ticket, session.client, redemption.claimed):
                hold.redemption = None
                return False
            hold.redeemed()
        self._flush()
        return True

    def mint(self, minting: Minting) -> None:
        """Make a ticket.

        Raises
        ------
        OSError
            There is no room for its token.
        """
        self._require_outside()
        session = self.session
        with self._lock:
            self._make_ready()
            minting.ticket = session.id_of(session.next_seq())
            self.endpoint.mint_token(minting.ticket, minting.minted)
            minting.is_queued = True
            session.outbox.append(minting.notice)
        self._flush()

    def watch(self, anchor: Anchor, hold: Hold) -> Watch:
        """See to it that `hold` is settled when `anchor` has died."""
        watch = Watch(anchor, self._attend_now if self.endpoint.spawn is None else self._deaths.put)
        watch.hold = hold
        return watch

    def attend(self) -> None:
        """From now on a thread sees to deaths at once, though this process may be idle; else the next call does."""
        if not self._is_attended and self.endpoint.spawn is not None:
            with contextlib.suppress(RuntimeError):  # no thread is to be had
                self.endpoint.spawn(self._attend, (self._deaths,))
                self._is_attended = True

    def close(self) -> None:
        """Leave in order; whatever is sent over this link afterwards is dropped."""
        self._require_outside()
        with self._lock:
            if self._journal is not None and not self._ended:
                self.session.outbox.append(m.Bye)
                try:
                    self._write_all(urgent=True)
                except (LeaseError, OSError) as error:
                    if is_from_handler(error):
                        raise
            self._drop_everything("this process has left it")

    def end(self) -> None:
        """This process has closed the registry: wait until it has removed everything, and forget it."""
        self._require_outside()
        with self._lock:
            deadline_ns = self.endpoint.clock.now_ns() + int(RECOVER_WITHIN_S * 1e9)
            connection = self._connection
            while connection is not None and self._take_from(connection):
                connection.receive(wait=True)
                if self.endpoint.clock.now_ns() > deadline_ns:
                    break
            self._drop_everything("it was closed")

    def after_fork_in_child(self) -> None:
        """Close what belongs to the parent, and begin anew."""
        self._hang_up()
        for claim in self.session.claims.values():
            claim.token.close()
        self.endpoint.close()
        self._begin()

    # --- calls that were interrupted ---------------------------------------------------------------------------------

    def see_to_loose_ends(self, error: BaseException) -> None:
        """A call has ended by `error`, and what it had taken on is a loose end now."""
        if isinstance(error, LeaseError | OSError) and not is_from_handler(error):
            self.settle()
        else:
            self.sweep_soon()

    def sweep_soon(self) -> None:
        """Have a thread see to what an interrupted call has left: no signal handler runs there."""
        if self.endpoint.spawn is not None:
            with contextlib.suppress(RuntimeError):  # no thread is to be had: the next call does it
                self.endpoint.spawn(self._sweep, ())

    def abandon(self, seq: int) -> None:
        """Nobody waits for the answer to request `seq` any more. The lock is held."""
        if self.session.abandon(seq) and not self.session.outstanding:
            self._hang_up()  # the registry grants nothing to who is not there: nobody waits in this one's place
        self._waiting.pop(seq, None)

    def _sweep(self) -> None:
        with contextlib.suppress(LeaseError, OSError):
            self._flush(urgent=True)
            if self.session.abandoned:
                self.request(m.Done, m.Ping)

    def _attend(self, deaths: SimpleQueue[Any]) -> None:
        while (watch := deaths.get()) is not None:
            self.loose_ends.append(watch)
            self.settle()

    def _attend_now(self, watch: Any) -> None:
        self.loose_ends.append(watch)
        self.settle()

    def _require_outside(self) -> None:
        notice_fork()
        if self._lock._is_owned() or self._reader._is_owned():
            raise self._reentrant()

    @staticmethod
    def _reentrant() -> ReentrantCallError:
        return ReentrantCallError(
            "shmlease was called by a signal handler or finalizer while its own thread was in the middle of a call of shmlease; "
            "let the handler set a flag or raise an exception, and call shmlease after that"
        )

    # --- sending -------------------------------------------------------------------------------------------------------

    def _flush(self, *, urgent: bool = False) -> None:
        """See to loose ends and write all notices; wait for room in the journal if it is full."""
        try:
            while True:
                with self._lock:
                    if self._journal is None or self._ended:
                        self._make_ready()
                    is_written = self._write_all(urgent=urgent)
                if not is_written:
                    self.request(m.Done, m.Ping)  # answered when all notices so far have been applied
                elif not (self.loose_ends or self.session.outbox):
                    return
        except BaseException as error:
            if not isinstance(error, LeaseError | OSError) or is_from_handler(error):
                self.sweep_soon()
            shortage = shortage_behind(error)
            if shortage is not None:
                raise CapacityError(f"registry {self.endpoint.id} cannot be told: {explained(shortage)}") from error
            raise

    def _write_all(self, *, urgent: bool = False) -> bool:
        """Write what can be written, and ring; False if the journal is full. The lock is held."""
        if not self._deaths.empty():
            with contextlib.suppress(Empty):
                self.loose_ends.extend(map(SimpleQueue.get_nowait, (self._deaths,)))
        while self.loose_ends:
            self.loose_ends[0].settle()
            self.loose_ends.popleft()
        session, journal = self.session, self._journal
        outbox, is_written = session.outbox, True
        if not outbox and not urgent:
            return True
        assert journal is not None
        while outbox and is_written:
            notice = session.next_notice(journal.last)
            if notice is not None:
                if journal.last < session.confirmed:
                    journal.restart()
                is_written = journal.append(notice)
                if is_written:
                    session.written(notice)
        # the clock is read after the journal is written: what is not rung for was there before the registry looks again
        if urgent or self.endpoint.clock.now_ns() - self._rung_ns >= m.QUIET_NS:
            try:
                self._transmit(m.Ring(session.next_seq()))
            except RegistryUnavailableError as error:
                if self._ended or is_from_handler(error):
                    raise
                # else it is written: the registry finds it in the journal when it goes on, or its successor does
        return is_written

    def _transmit(self, message: m.ClientMessage) -> None:
        """Send a message, over a new connection if need be: that says all that is to be said. The lock is held."""
        connection = self._connection
        if connection is None or not self._is_ready:
            self._make_ready()
            return
        try:
            self._rung_ns = self.endpoint.clock.now_ns()
            connection.send(encode([message]))
        except OSError as error:
            if is_from_handler(error):
                raise
            self._hang_up()
            self._make_ready()

    def _ask(self, build: Callable[[int], m.Request], timeout_s: float, hold: Hold) -> m.RegistryMessage:
        session, clock = self.session, self.endpoint.clock
        waiting = allocate_lock()
        waiting.acquire()
        while True:
            with self._lock:
                self._make_ready()
                if self._write_all() or build is m.Ping:  # what is asked for may depend on what was said before
                    seq = session.next_seq()
                    request = build(seq)
                    hold.seq = seq
                    session.outstanding[seq] = request
                    self._waiting[seq] = waiting
                    self._transmit(request)
                    break
            self.request(m.Done, m.Ping)
        deadline_ns = clock.now_ns() + int((timeout_s + RECOVER_WITHIN_S) * 1e9)
        while True:
            with self._lock:
                self._make_ready()
                self._take_in()
                answer = session.answers.get(seq)
                if answer is not None:
                    lease = answer.lease if isinstance(answer, GRANTS) else 0
                    self._waiting.pop(seq, None)
                    hold.lease, hold.is_unsure = lease, False
                    hold.seq = 0
                    del session.outstanding[seq], session.answers[seq]
                    self._wake_a_reader()
                    return answer
                if clock.now_ns() > deadline_ns:
                    raise RegistryUnavailableError(
                        f"registry {self.endpoint.id} has not answered for {RECOVER_WITHIN_S:.0f} s; is it stopped?",
                        registry=self.endpoint.id,
                    )
                if self.loose_ends or session.outbox:  # what it waits for may be what is to be released
                    self._write_all()
            self._read(waiting)

    # --- receiving -----------------------------------------------------------------------------------------------------

    def _read(self, waiting: Any) -> None:
        """Receive a packet, or wait until whoever is reading has something for this call, or a second has passed."""
        taken: list[bool] = []
        try:
            taken.extend(map(self._reader.acquire, AT_ONCE))
            connection = self._connection
            if not taken[0]:
                waiting.acquire(True, _WAIT_S)
            elif connection is not None:
                connection.receive(wait=True)
        finally:
            if taken and taken[0]:
                self._reader.release()

    def _poll(self) -> None:
        """Take in what has come, without waiting. The lock is held."""
        taken: list[bool] = []
        try:
            taken.extend(map(self._reader.acquire, AT_ONCE))
            connection = self._connection
            if taken[0] and connection is not None:
                inbox, received = connection.inbox, -1
                while received < len(inbox) and (not inbox or inbox[-1]):  # until there is no more, or will not be
                    received = len(inbox)
                    connection.receive(wait=False)
        finally:
            if taken and taken[0]:
                self._reader.release()
        self._take_in()

    def _take_in(self) -> None:
        """Carry out what has arrived. The lock is held."""
        connection, session = self._connection, self.session
        if connection is not None and not self._take_from(connection):
            self._hang_up()
            self._make_ready()
        while session.forgotten:
            self.mappings.forget(session.forgotten[0])
            session.forgotten.popleft()
        if session.claims:
            for lease, claim in session.confirmed_claims():
                claim.token.close()
                session.claims.pop(lease, None)
        while session.complaints:
            sys.stderr.write(f"shmlease: {session.complaints[0]}\n")
            session.complaints.popleft()

    def _take_from(self, connection: Connection) -> bool:
        """Take in what has been received; False if the registry has hung up. The lock is held."""
        inbox = connection.inbox
        while inbox:
            packet = inbox[0]
            if not packet:
                return False
            try:
                for message in decode_registry_packet(packet):
                    self.session.receive(message)
                    waiting = None if isinstance(message, m.Spare | m.Forget) else self._waiting.get(message.seq)
                    if waiting is not None and waiting.locked():
                        waiting.release()
            except ProtocolError:
                inbox.popleft()
                raise
            inbox.popleft()
        return True

    def _wake_a_reader(self) -> None:
        """This call reads no more: let another that waits see whether it must."""
        for waiting in list(self._waiting.values()):
            if waiting.locked():
                waiting.release()
                return

    # --- connecting, and connecting again; the lock is held ------------------------------------------------------------

    def _make_ready(self) -> None:
        if self._ended:
            raise self._unavailable()
        if not self._is_ready:
            self._recover()

    def _hang_up(self) -> None:
        self._is_ready = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _recover(self) -> None:
        """Connect; see to a successor first if the registry is dead."""
        clock = self.endpoint.clock
        deadline_ns = clock.now_ns() + int(RECOVER_WITHIN_S * 1e9)
        patience_s = 0.001
        failure = f"registry {self.endpoint.id} did not answer within {RECOVER_WITHIN_S:.0f} s; see `shmlease status`"
        while True:
            self._hang_up()
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
            except (ConnectionError, FileNotFoundError, TimeoutError) as error:
                if is_from_handler(error):
                    raise
                self._hang_up()
            try:
                self.endpoint.succeed()
            except RegistryUnavailableError as error:
                if is_from_handler(error):
                    raise
                # the successor died as well, or has no room to start: try again
                failure = error.message  # not the error: its traceback would keep the caller's arrays
            if clock.now_ns() > deadline_ns:
                raise RegistryUnavailableError(failure, registry=self.endpoint.id)
            clock.wait_s(patience_s)
            patience_s = min(patience_s * 1.5, 0.05)

    def _shake_hands(self) -> None:
        """Connect, say who this is, and go on where the last connection ended."""
        session, clock = self.session, self.endpoint.clock
        connection = self._connection = self.endpoint.connection()
        connection.open()
        connection.send(encode([session.hello(self.endpoint.limits())]))
        deadline_ns = clock.now_ns() + int(RECOVER_WITHIN_S * 1e9)
        while session.welcome is None:
            connection.receive(wait=True)
            if not self._take_from(connection) or clock.now_ns() > deadline_ns:
                break
        welcome = session.welcome
        if welcome is None:
            raise ConnectionResetError("the registry hung up")
        if isinstance(welcome, m.Refused):
            if welcome.code in (m.RefusalCode.CLOSING, m.RefusalCode.RESUME):
                self._drop_everything(welcome.message)
            raise error_of(welcome)
        if self._journal is None:
            self._journal = self.endpoint.open_notice_log(session.client)
        self.mappings.clear()  # what was to be forgotten in the meantime was not told
        for request in session.unanswered():
            connection.send(encode([request]))
        self._rung_ns = -m.QUIET_NS
        self._is_ready = True

    def _drop_everything(self, why: str) -> None:
        session = self.session
        self._hang_up()
        self._journal = None
        self.mappings.clear()
        session.spares.clear()
        for claim in session.claims.values():
            claim.token.close()
        session.claims.clear()
        session.outbox.clear()
        self.loose_ends.clear()
        self.lingering.clear()
        self._ended = why
        self.endpoint.close()
        self._deaths.put(None)
        for waiting in list(self._waiting.values()):
            if waiting.locked():
                waiting.release()

    def _unavailable(self) -> RegistryUnavailableError:
        return RegistryUnavailableError(
            f"registry {self.endpoint.id} cannot be used: {self._ended}", registry=self.endpoint.id
        )


# Every link of this process; not a WeakSet, which runs Python code when one of its members dies.
_all: Final[list[weakref.ref[Link]]] = []


def _after_fork_in_child() -> None:
    for reference in _all:
        link = reference()
        if link is not None:
            link.after_fork_in_child()


after_fork_in_child(_after_fork_in_child)
