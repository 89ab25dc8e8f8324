"""One client of a stress run: goes through its operations, and writes down what happened.

Whoever takes the place of a killed client goes on with its operations and its mail. It is longer than other modules:
each verb that the generator draws is a short method of one class.
"""

from __future__ import annotations

import collections
import contextlib
import os
import select
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, NoReturn

import msgspec
import numpy as np

import shmlease
from shmlease.verification.history import Scribe
from shmlease.verification.operations import Call, Client, Note
from shmlease.verification.stress.generator import SLOTS, Operation, Verb
from shmlease.verification.stress.mail import Letter, Mail

__all__ = ["TTL_S", "Assignment", "StressClient"]

# How long a letter may wait: longer than any fault lasts, short enough that a run does not wait long for lost ones.
TTL_S: Final = 4.0
_WAIT_S: Final = 2.0  # for room
_FORKED_WITHIN_S: Final = 30.0
_MOST_HELD: Final = 32


class Assignment(msgspec.Struct, frozen=True):
    """What one client is to do."""

    client: int
    incarnation: int
    clients: int
    seed: int
    most_words: int
    directory: str
    registry: str
    ranges: list[tuple[int, int]]


class _Held(NamedTuple):
    key: int
    until: int  # which operation


class _NotedError(Exception):
    """A call has failed, and the history has it: whether it may fail is for the checker."""


class StressClient:
    """One process's part of the run."""

    def __init__(self, assignment: Assignment, epoch: int) -> None:
        self.assignment = assignment
        self.client = Client(shmlease.connect(assignment.registry), self._noting)
        self.number = 0
        self._tag = f"{assignment.client}.{assignment.incarnation}"
        self._mail = Mail(assignment.directory, assignment.client, self._tag)
        self._held: collections.deque[_Held] = collections.deque()
        self._views: collections.deque[_Held] = collections.deque()
        self._named: dict[int, int] = {}  # slot -> key
        self._serial = self._keys = 0
        self._beacon: shmlease.Lease | None = None
        self.begin_epoch(epoch)

    # --- what the coordinator asks for -------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:
        """A new file of history, and a beacon: a segment that only this process's death or rest ends."""
        self._epoch = epoch
        self._begin_history()
        with contextlib.suppress(_NotedError), self._noting(Note(Call.LEASE)):
            self._beacon = self.client.registry.lease(f"beacon/{self._tag}/{epoch}", shape=1, timeout=_WAIT_S)

    def beacon_inode(self) -> int:
        """Which file the beacon is, from this process's own maps; 0 if there was no room for one."""
        if self._beacon is None:
            return 0
        address = self._beacon.array.__array_interface__["data"][0]
        with open("/proc/self/maps") as file:
            for line in file:
                addresses, _, _, _, inode = line.split(maxsplit=5)[:5]
                start, end = (int(bound, 16) for bound in addresses.split("-"))
                if start <= address < end:
                    return int(inode)
        return 0

    def rest(self) -> None:
        """Read what mail there is, then let go of everything."""
        while self.read_mail():
            pass
        while self._views:
            self._drop_view()
        for key in (*(held.key for held in self._held), *self._named.values()):
            self._let_go(key)
        self._held.clear()
        self._named.clear()
        if self._beacon is not None:
            self._beacon.release()
            self._beacon = None
        self._scribe.close()

    # --- operations --------------------------------------------------------------------------------------------------

    def step(self, op: Operation) -> None:
        """One operation, after the mail."""
        self.read_mail()
        while self._held and (self._held[0].until <= self.number or len(self._held) > _MOST_HELD):
            self._let_go(self._held.popleft().key)
        while self._views and self._views[0].until <= self.number:
            self._drop_view()
        with contextlib.suppress(_NotedError):
            _ACTIONS[op.verb](self, op)

    def read_mail(self) -> int:
        """Redeem what was sent; how many letters there were."""
        count = 0
        for letter in self._mail.receive():
            count += 1
            key = self._new_key()
            with contextlib.suppress(_NotedError):
                self.client.redeem(key, letter.ticket, letter.stamp)
                if letter.is_object:
                    self._load_and_let_go(key)
                else:
                    self._keep(key, hold=letter.stamp % 3)
        return count

    def private(self, op: Operation) -> None:
        """A segment of its own."""
        self._let_go(self._lease(None, op.words))

    def hand_over(self, op: Operation) -> None:
        """An array for another client."""
        key = self._share(op.words)
        self._send_ticket(key, op.peer)
        self._keep(key, op.hold)

    def contend(self, op: Operation) -> None:
        """The same ticket for two."""
        key = self._share(op.words)
        self._send_ticket(key, op.peer, op.other)
        self._let_go(key)

    def publish(self, op: Operation, readers: int = 0) -> None:
        """A named array, held for a while; one for `readers` is let go of at once."""
        if op.slot in self._named:
            self._let_go(self._named.pop(op.slot))
        key = self._lease(self._name(self.assignment.client, op.slot), op.words)
        with contextlib.suppress(_NotedError):
            self.client.publish(key, readers, TTL_S)
        if readers:
            self._let_go(key)
        else:
            self._named[op.slot] = key

    def promise(self, op: Operation) -> None:
        """A named array that outlives its lease until its readers have come."""
        self.publish(op, readers=1 + op.variant % 2)

    def attach(self, op: Operation) -> None:
        """Another's array, by name."""
        key = self._new_key()
        self.client.attach(key, self._name(self._peer(op.peer), op.slot), (0.0, 0.01, 0.1)[op.variant % 3])
        self._keep(key, op.hold)

    def view(self, op: Operation) -> None:
        """A view that outlives its lease."""
        key = self._share(op.words)
        self.client.keep_view(key)
        self._views.append(_Held(key, self.number + op.hold))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", shmlease.LingeringViewWarning)
            self.client.release(key)

    def burst(self, op: Operation) -> None:
        """Many small ones at once."""
        taken: list[int] = []
        with contextlib.suppress(_NotedError):
            for _ in range(8 + op.variant):
                taken.append(self._lease(None, op.words % 512 + 1))
        while taken:
            self._let_go(taken.pop())

    def mutable(self, op: Operation) -> None:
        """A segment that all its holders might write."""
        key = self._new_key()
        self.client.lease_mutable(key, self._new_stamp(), None, _WAIT_S, _words(op.words))
        self._let_go(key)

    def detach(self, op: Operation) -> None:
        """An array that carries its lease."""
        key = self._share(op.words)
        self._send_ticket(key, op.peer)
        try:
            self.client.detach(key)
        except _NotedError:
            self._let_go(key)
        else:
            self._views.append(_Held(key, self.number + op.hold))

    def put(self, op: Operation) -> None:
        """An object for another client."""
        key, stamp = self._new_key(), self._new_stamp()
        self.client.put(key, stamp, None, _WAIT_S, _words(op.words))
        with contextlib.suppress(_NotedError):
            self._mail.send(Letter(self.client.ticket(key, TTL_S), stamp, is_object=True), [self._peer(op.peer)])
        self._load_and_let_go(key)

    def take_back(self, op: Operation) -> None:
        """A ticket that another client has, who may be quicker."""
        key = self._share(op.words)
        stamp = self.client.stamps[key]
        with contextlib.suppress(_NotedError):
            ticket = self.client.ticket(key, TTL_S)
            self._mail.send(Letter(ticket, stamp), [self._peer(op.peer)])
            self.client.revoke(ticket, stamp)
        self._let_go(key)

    def withdraw(self, op: Operation) -> None:
        """A name that is free again while its array is held."""
        self.publish(op)
        key, name = self._named.pop(op.slot), self._name(self.assignment.client, op.slot)
        with contextlib.suppress(_NotedError):
            self.client.withdraw(name, self.client.stamps[key])
        self._let_go(key)

    def lose(self, op: Operation) -> None:
        """A lease that nobody releases."""
        key = self._lease(None, op.words)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", shmlease.UnreleasedLeaseWarning)
            self.client.forget(key)

    def fork(self, op: Operation) -> None:
        """A child that uses what its parent holds, and ends in one of several ways.

        It is noted before there is a child: that tells of a parent that is killed, and so of what its child may not read.
        """
        with contextlib.suppress(_NotedError), self._noting(Note(Call.CHILD)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                self._live_as_a_child(op)
            pidfd = os.pidfd_open(pid)
            ended = select.select([pidfd], [], [], _FORKED_WITHIN_S)[0]
            if not ended:
                os.kill(pid, signal.SIGKILL)
            os.close(pidfd)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if not ended:
                raise TimeoutError(f"a forked child had not ended after {_FORKED_WITHIN_S:g} s")
            if code not in (0, -signal.SIGKILL):
                raise ChildProcessError(f"a forked child ended with code {code}")

    def look(self, op: Operation) -> None:
        """The registry's figures."""
        del op
        with self._noting(Note(Call.STATISTICS)):
            self.client.registry.statistics()

    # --- parts -------------------------------------------------------------------------------------------------------

    def _live_as_a_child(self, op: Operation) -> NoReturn:
        """In the forked child."""
        code = 1
        try:
            self._tag += f"f{self.number}"
            self._begin_history()
            self._mail = Mail(self.assignment.directory, self.assignment.client, self._tag)
            self._serial += 1 << 24
            inherited = [*(held.key for held in list(self._held)[:4]), *list(self._named.values())[:1]]
            for key in inherited:
                with contextlib.suppress(_NotedError):
                    self.client.read(key)
            with contextlib.suppress(_NotedError):
                self._send_ticket(self._share(op.words), op.peer)
            if op.variant % 3 == 0:
                for key in inherited:
                    self._let_go(key)
            if op.variant % 3 == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            code = 0
        finally:
            os._exit(code)

    def _begin_history(self) -> None:
        self._scribe = Scribe(f"{self.assignment.directory}/history/{self._epoch}/{self._tag}")

    def _lease(self, name: str | None, words: int) -> int:
        key = self._new_key()
        self.client.lease(key, self._new_stamp(), name, _WAIT_S, _words(words))
        return key

    def _share(self, words: int) -> int:
        key = self._new_key()
        self.client.share(key, self._new_stamp(), None, _WAIT_S, _words(words))
        return key

    def _send_ticket(self, key: int, *distances: int) -> None:
        with contextlib.suppress(_NotedError):
            ticket = self.client.ticket(key, TTL_S)
            self._mail.send(Letter(ticket, self.client.stamps[key]), map(self._peer, distances))

    def _keep(self, key: int, hold: int) -> None:
        if not self.client.leases[key].writable:
            with contextlib.suppress(_NotedError):
                self.client.read(key)
        if hold:
            self._held.append(_Held(key, self.number + hold))
        else:
            self._let_go(key)

    def _load_and_let_go(self, key: int) -> None:
        for act in (self.client.load, self.client.release):
            with contextlib.suppress(_NotedError):
                act(key)

    def _let_go(self, key: int) -> None:
        """Look once more, then release."""
        with contextlib.suppress(_NotedError):
            self.client.read(key)
        with contextlib.suppress(_NotedError):
            self.client.release(key)

    def _drop_view(self) -> None:
        key = self._views.popleft().key
        with contextlib.suppress(_NotedError):
            self.client.read(key)
        self.client.drop_view(key)

    @contextlib.contextmanager
    def _noting(self, note: Note) -> Iterator[None]:
        """Write down what happens."""
        act = self._scribe.begin(note)
        try:
            yield
        except Exception as error:
            self._scribe.end(act, error)
            raise _NotedError from error
        self._scribe.end(act, stamp=note.stamp)

    def _new_key(self) -> int:
        self._keys += 1
        return self._keys

    def _new_stamp(self) -> int:
        self._serial += 1
        return (self.assignment.client + 1) << 48 | (self.assignment.incarnation & 0xFFFF) << 32 | self._serial

    def _peer(self, distance: int) -> int:
        return (self.assignment.client + distance) % self.assignment.clients

    @staticmethod
    def _name(client: int, slot: int) -> str:
        return f"client {client}/{slot % SLOTS}"


def _words(words: int) -> dict[str, Any]:
    return {"shape": words, "dtype": np.uint64}


_ACTIONS: Final[dict[Verb, Callable[[StressClient, Operation], None]]] = {
    Verb.PRIVATE: StressClient.private,
    Verb.HAND_OVER: StressClient.hand_over,
    Verb.CONTEND: StressClient.contend,
    Verb.PUBLISH: StressClient.publish,
    Verb.PROMISE: StressClient.promise,
    Verb.ATTACH: StressClient.attach,
    Verb.VIEW: StressClient.view,
    Verb.BURST: StressClient.burst,
    Verb.MUTABLE: StressClient.mutable,
    Verb.DETACH: StressClient.detach,
    Verb.PUT: StressClient.put,
    Verb.TAKE_BACK: StressClient.take_back,
    Verb.WITHDRAW: StressClient.withdraw,
    Verb.LOSE: StressClient.lose,
    Verb.FORK: StressClient.fork,
    Verb.LOOK: StressClient.look,
}
