"""A process's link to its registry: the lock around one `Session`, and the parts that carry out what it decides.

Rules:

* One link serves all threads of a process; `Reception` says which of those that wait receives for all.
* A notice is written to the notice log, where the registry finds it, also one that succeeds the one of now. The registry is
  rung for it unless it was rung lately: then it looks again by itself.
* An exception may end any method early, wherever Python runs signal handlers: where a function begins, where a loop jumps
  back, and after a call of a function written in C. Locks are therefore taken by `with`, or by a call that notes it; what a
  call had taken on becomes one of the `LooseEnds`, which the next call settles, or a thread that was started for it.
* A signal handler or a finalizer may use the link while its own thread is in a call. It must not wait for that thread,
  which is itself: what can be queued is, anything else is refused.
* Nothing is logged under the lock: a handler of logging's may be anybody's code.
* A fork leaves the child without a link: its first use makes a new one, as a client of its own. One that Python was not
  told of is noticed where a `Hold` is made, a lease is used or ended, and a request begins.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from shmlease.client.channel import RECOVER_WITHIN_S, Channel
from shmlease.client.endpoint import Endpoint
from shmlease.client.forked_links import begin_anew_in_child
from shmlease.client.hold import Hold
from shmlease.client.loose_ends import LooseEnds
from shmlease.client.mappings import MappingCache
from shmlease.client.reception import Reception
from shmlease.client.refusals import error_of, explain_shortage, log_refusals
from shmlease.core import messages as m
from shmlease.core.session import GRANTS, Build, Session
from shmlease.errors import LeaseError, ProtocolError, ReentrantCallError, RegistryUnavailableError
from shmlease.interrupts import is_from_handler
from shmlease.system.forks import notice_fork
from shmlease.system.primitives import RLock

__all__ = ["Link"]

Reply = TypeVar("Reply", bound=m.RegistryMessage)


class Link:
    """One process's link to the registry at `endpoint`, made when it is first needed; `ended` says why it is of no use."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.ended = ""
        self._begin()
        begin_anew_in_child(self)

    def _begin(self) -> None:
        """As after a fork: no connection, no client."""
        self.session = Session(os.urandom(16))
        self.mappings = MappingCache(self.endpoint)
        self.loose_ends = LooseEnds(self.endpoint.spawn)
        self._reception = Reception(self.session)
        self.channel = Channel(self.endpoint, self.session, self.mappings, self._reception)
        self.lock: Any = RLock()  # a plain one would not say that this very thread has it

    # --- what the client does with it ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect now, so that a missing registry shows here.

        Raises
        ------
        RegistryUnavailableError
            There is none, or it has ended.
        """
        self.require_outside()
        with self.lock:
            self.make_ready()
            self.poll()
            self.make_ready()  # that it has ended since may not have been noticed
        self.see_to_the_rest()

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
        self.require_outside()
        asked = hold or Hold(self)
        try:
            reply = self._ask(build, timeout_s, asked)
        except BaseException as error:
            if hold is None:
                self.loose_ends.queue.append(asked)
            explain_shortage(error, f"registry {self.endpoint.id} cannot be asked")
            raise
        self.see_to_the_rest()
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
        if self.lock._is_owned():
            raise _reentrant()
        if self.ended:
            raise self.channel.unavailable(self.ended)
        self.session.outbox.append(notice)
        self.flush(urgent=urgent)

    def settle(self) -> None:
        """See to loose ends, and send what is queued, if the registry can be reached; else the next call does."""
        if self.ended or self.lock._is_owned():  # within a call of this very thread, which goes on with it
            return
        try:
            self.flush()
        except (LeaseError, OSError) as error:
            if is_from_handler(error):
                raise

    def close(self) -> None:
        """Leave in order; whatever is sent over this link afterwards is dropped."""
        self.require_outside()
        with self.lock:
            if self.channel.notice_log is not None and not self.ended:
                self.session.outbox.append(m.Bye)
                try:
                    self._write_all(urgent=True)
                except (LeaseError, OSError) as error:
                    if is_from_handler(error):
                        raise
            self._drop_everything("this process has left it")

    def end(self) -> None:
        """This process has closed the registry: wait until it has removed everything, and forget it."""
        self.require_outside()
        with self.lock:
            deadline_ns = self.endpoint.clock.now_ns() + int(RECOVER_WITHIN_S * 1e9)
            connection = self.channel.connection
            while connection is not None and self._reception.take_in(connection):
                connection.receive(wait=True)
                if self.endpoint.clock.now_ns() > deadline_ns:
                    break
            self._drop_everything("it was closed")

    def after_fork_in_child(self) -> None:
        """Close what belongs to the parent, and begin anew."""
        self.channel.close()
        self.session.drop()
        self.endpoint.close()
        self._begin()

    # --- calls that were interrupted ---------------------------------------------------------------------------------

    def see_to_loose_ends(self, error: BaseException) -> None:
        """A call has ended by `error`, and what it had taken on is a loose end now."""
        if isinstance(error, LeaseError | OSError) and not is_from_handler(error):
            self.settle()
        else:
            self.loose_ends.sweep_soon(self.give_back_abandoned)

    def abandon(self, seq: int) -> None:
        """Nobody waits for the answer to request `seq` any more. The lock is held."""
        if self.session.abandon(seq) and not self.session.outstanding:
            self.channel.close()  # the registry grants nothing to who is not there: nobody waits in this one's place
        self._reception.forget(seq)

    def give_back_abandoned(self) -> None:
        """See to loose ends, and give back what the registry grants to calls that were interrupted before it answered."""
        self.require_outside()
        self.flush(urgent=True)
        if self.session.abandoned:
            self.request(m.Done, m.Ping)  # answered after them

    def see_to_the_rest(self) -> None:
        """The lock is free again: see to what has come up meanwhile, or was queued by a signal handler."""
        session = self.session
        if self.loose_ends.queue or session.outbox:
            self.settle()
        if session.complaints:
            log_refusals(self.endpoint.id, session.complaints)

    # --- for calls that change the session themselves ------------------------------------------------------------------

    def require_outside(self) -> None:
        """Refuse a call that may wait, made within another call of this very thread.

        Raises
        ------
        ReentrantCallError
            A signal handler or finalizer makes it.
        """
        notice_fork()
        if self.lock._is_owned() or self._reception.receiving._is_owned():
            raise _reentrant()

    # --- sending -------------------------------------------------------------------------------------------------------

    def flush(self, *, urgent: bool = False) -> None:
        """See to loose ends and write all notices; wait for room in the notice log if it is full."""
        try:
            while True:
                with self.lock:
                    if self.channel.notice_log is None or self.ended:
                        self.make_ready()
                    is_written = self._write_all(urgent=urgent)
                if not is_written:
                    self.request(m.Done, m.Ping)  # answered when all notices so far have been applied
                elif not (self.loose_ends.queue or self.session.outbox):
                    return
        except BaseException as error:
            if not isinstance(error, LeaseError | OSError) or is_from_handler(error):
                self.loose_ends.sweep_soon(self.give_back_abandoned)
            explain_shortage(error, f"registry {self.endpoint.id} cannot be told")
            raise

    def _write_all(self, *, urgent: bool = False) -> bool:
        """Write what can be written, and ring; False if the notice log is full. The lock is held."""
        channel = self.channel
        self.loose_ends.settle()
        if not self.session.outbox and not urgent:
            return True
        notice_log = channel.notice_log
        assert notice_log is not None  # since the link was first ready
        is_written = self.session.write_into(notice_log)
        if urgent or channel.is_ring_due():
            try:
                if not channel.send(m.Ring(self.session.next_seq())):
                    self.make_ready()
            except RegistryUnavailableError as error:
                if self.ended or is_from_handler(error):
                    raise
                # else it is written: the registry finds it in the notice log when it goes on, or its successor does
        return is_written

    def _ask(self, build: Callable[[int], m.Request], timeout_s: float, hold: Hold) -> m.RegistryMessage:
        session, reception, clock = self.session, self._reception, self.endpoint.clock
        waiter = reception.new_waiter()
        while True:
            with self.lock:
                self.make_ready()
                if self._write_all() or build is m.Ping:  # what is asked for may depend on what was said before
                    seq = session.next_seq()
                    request = build(seq)
                    hold.seq = seq
                    session.outstanding[seq] = request
                    reception.expect(seq, waiter)
                    if not self.channel.send(request):
                        self.make_ready()  # which asks again over a new connection
                    break
            self.request(m.Done, m.Ping)
        deadline_ns = clock.now_ns() + int((timeout_s + RECOVER_WITHIN_S) * 1e9)
        while True:
            with self.lock:
                self.make_ready()
                self._take_in()
                answer = session.answers.get(seq)
                if answer is not None:
                    lease = answer.lease if isinstance(answer, GRANTS) else 0
                    reception.forget(seq)
                    hold.lease, hold.is_unsure = lease, False
                    hold.seq = 0
                    del session.outstanding[seq], session.answers[seq]
                    reception.wake_one()
                    return answer
                if clock.now_ns() > deadline_ns:
                    raise RegistryUnavailableError(
                        f"registry {self.endpoint.id} has not answered for {RECOVER_WITHIN_S:.0f} s; is it stopped?",
                        registry=self.endpoint.id,
                    )
                if self.loose_ends.queue or session.outbox:  # what it waits for may be what is to be released
                    self._write_all()
            reception.wait(self.channel.connection, waiter)

    # --- receiving, connecting, leaving; the lock is held --------------------------------------------------------------

    def poll(self) -> None:
        """Take in what has come, without waiting."""
        self._reception.poll(self.channel.connection)
        self._take_in()

    def _take_in(self) -> None:
        """Carry out what has arrived."""
        connection, session = self.channel.connection, self.session
        if connection is not None and not self._reception.take_in(connection):
            self.channel.close()
            self.make_ready()
        while session.forgotten:
            self.mappings.forget(session.forgotten[0])
            session.forgotten.popleft()
        if session.claims:
            for lease, claim in session.confirmed_claims():
                claim.token.close()
                session.claims.pop(lease, None)

    def make_ready(self) -> None:
        channel = self.channel
        if self.ended:
            raise channel.unavailable(self.ended)
        if not channel.is_ready:
            try:
                channel.open()
            except LeaseError:
                if channel.ended:
                    self._drop_everything(channel.ended)
                raise

    def _drop_everything(self, why: str) -> None:
        channel = self.channel
        channel.close()
        channel.notice_log = None
        self.mappings.clear()
        self.session.drop()
        self.ended = why
        self.loose_ends.drop()
        self.endpoint.close()
        self._reception.wake_all()


def _reentrant() -> ReentrantCallError:
    return ReentrantCallError(
        "shmlease was called by a signal handler or finalizer while its own thread was in a call of shmlease; "
        "let the handler set a flag or raise an exception, and call shmlease after that"
    )
