"""One client of a stress run: goes through its operations, writes down what happened, and obeys the coordinator between two.

Tickets travel by mail: a file in the receiver's box, so that a letter outlives both its sender and a receiver that is killed
before it looks. Whoever takes the place of a killed client goes on with its operations and its mail.
"""

from __future__ import annotations

import collections
import contextlib
import mmap
import multiprocessing.connection
import os
import select
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import numpy as np

import shmlease
from shmlease import Lease, connect  # imported with this module, so that a fork server has them before it forks
from shmlease.verification.stress import content
from shmlease.verification.stress.generator import SLOTS, Operation, Verb, operation
from shmlease.verification.stress.history import Act, Scribe

__all__ = ["BEACON", "TTL_S", "Assignment", "Letter", "StressClient", "run"]

# How long a letter may wait: longer than any fault lasts, short enough that a run does not wait long for lost ones.
TTL_S: Final = 4.0
BEACON: Final = "beacon"
_WAIT_S: Final = 2.0  # for room
_COUNT: Final = struct.Struct("<Q")
_FORKED_WITHIN_S: Final = 30.0


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


class Letter(msgspec.Struct, frozen=True, array_like=True):
    """A ticket on its way."""

    ticket: str
    stamp: int
    deadline_ns: int


class _Held(msgspec.Struct):
    lease: Lease
    stamp: int
    until: int
    name: str = ""


class WrongReadError(Exception):
    """An array did not hold what its writer wrote."""


class StressClient:
    """One process's part of the run."""

    def __init__(self, assignment: Assignment, epoch: int) -> None:
        self.assignment = assignment
        self.registry = connect(assignment.registry)
        self.tag = f"{assignment.client}.{assignment.incarnation}"
        self.mailbox = f"{assignment.directory}/mail/{assignment.client}"
        self.held: collections.deque[_Held] = collections.deque()
        self.views: collections.deque[tuple[np.ndarray[Any, Any], int, int]] = collections.deque()
        self.named: dict[int, _Held] = {}
        self.serial = 0
        self.number = 0
        self.beacon: Lease | None = None
        self.begin_epoch(epoch)

    # --- what the coordinator asks for -------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:
        """A new file of history, and a beacon: a segment that only this process's death or rest ends."""
        self.scribe = Scribe(f"{self.assignment.directory}/history/{epoch}/{self.tag}")
        with self._noting("lease"):
            self.beacon = self.registry.lease(f"{BEACON}/{self.tag}/{epoch}", shape=1, timeout=_WAIT_S)

    def beacon_inode(self) -> int:
        """Which file the beacon is, from this process's own maps; 0 if there was no room for one."""
        if self.beacon is None:
            return 0
        address = self.beacon.array.__array_interface__["data"][0]
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
        while self.views:
            self._drop_view()
        while self.held:
            self._let_go(self.held.popleft())
        for slot in list(self.named):
            self._let_go(self.named.pop(slot))
        if self.beacon is not None:
            self.beacon.release()
            self.beacon = None
        self.scribe.close()

    # --- operations -----------------------------------------------------------------------------------------------------

    def step(self, op: Operation) -> None:
        """One operation, after the mail."""
        self.read_mail()
        while self.held and (self.held[0].until <= self.number or len(self.held) > 32):
            self._let_go(self.held.popleft())
        while self.views and self.views[0][2] <= self.number:
            self._drop_view()
        _DEEDS[op.verb](self, op)

    def read_mail(self) -> int:
        """Redeem what was sent; how many letters there were."""
        letters = os.listdir(self.mailbox)
        for name in letters:
            path = f"{self.mailbox}/{name}"
            with open(path, "rb") as file:
                letter = msgspec.json.decode(file.read(), type=Letter)
            os.unlink(path)
            ticket = str(shmlease.Ticket.parse(letter.ticket).id)
            lease = None
            with self._noting("redeem", letter.stamp, ticket, letter.deadline_ns):
                lease = self.registry.redeem(letter.ticket)
            if lease is not None:
                self._keep(lease, letter.stamp, hold=letter.stamp % 3)
        return len(letters)

    def private(self, op: Operation) -> None:
        """A segment of its own."""
        stamp = self._new_stamp()
        lease = self._lease(None, op.words, stamp)
        if lease is not None:
            self._let_go(_Held(lease, stamp, 0))

    def hand_over(self, op: Operation) -> None:
        """An array for another client."""
        stamp = self._new_stamp()
        lease = self._share(op.words, stamp)
        if lease is None:
            return
        self._send_ticket(lease, stamp, [self._peer(op.peer)])
        self._keep(lease, stamp, op.hold)

    def contend(self, op: Operation) -> None:
        """The same ticket for two."""
        stamp = self._new_stamp()
        lease = self._share(op.words, stamp)
        if lease is not None:
            self._send_ticket(lease, stamp, [self._peer(op.peer), self._peer(op.other)])
            self._let_go(_Held(lease, stamp, 0))

    def publish(self, op: Operation, readers: int = 0) -> None:
        """A named array, held for a while."""
        before = self.named.pop(op.slot, None)
        if before is not None:
            self._let_go(before)
        name, stamp = self._name(self.assignment.client, op.slot), self._new_stamp()
        lease = self._lease(name, op.words, stamp)
        if lease is None:
            return
        limit_ns = time.monotonic_ns() + int(TTL_S * 1e9) if readers else 0
        with self._noting("publish", stamp, name, limit_ns, readers):
            lease.publish(readers=readers, ttl=TTL_S)
        held = _Held(lease, stamp, 0, name)
        if readers:
            self._let_go(held)
        else:
            self.named[op.slot] = held

    def promise(self, op: Operation) -> None:
        """A named array that outlives its lease until its readers have come."""
        self.publish(op, readers=1 + op.variant % 2)

    def attach(self, op: Operation) -> None:
        """Another's array, by name."""
        name = self._name(self._peer(op.peer), op.slot)
        timeout = (0.0, 0.01, 0.1)[op.variant % 3]
        act = self.scribe.begin("attach", 0, name)
        try:
            lease = self.registry.attach(name, timeout=timeout)
        except shmlease.LeaseError as error:
            self.scribe.end(act, error)
            return
        stamp = content.stamp_of(lease.array)
        self.scribe.end(act, stamp=stamp)
        self._keep(lease, stamp, op.hold)

    def view(self, op: Operation) -> None:
        """A view that outlives its lease."""
        stamp = self._new_stamp()
        lease = self._share(op.words, stamp)
        if lease is None:
            return
        view = lease.array[...]
        with self._noting("release", stamp), warnings.catch_warnings():
            warnings.simplefilter("ignore", shmlease.LingeringViewWarning)
            lease.release()
        self.views.append((view, stamp, self.number + op.hold))

    def burst(self, op: Operation) -> None:
        """Many small ones at once."""
        taken = []
        for _ in range(8 + op.variant):
            stamp = self._new_stamp()
            lease = self._lease(None, op.words % 512 + 1, stamp)
            if lease is None:
                break
            taken.append(_Held(lease, stamp, 0))
        while taken:
            self._let_go(taken.pop())

    def lose(self, op: Operation) -> None:
        """A lease that nobody releases."""
        stamp = self._new_stamp()
        lease = self._lease(None, op.words, stamp)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", shmlease.UnreleasedLeaseWarning)
            del lease

    def fork(self, op: Operation) -> None:
        """A child that uses what its parent holds, and ends in one of several ways."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            self._as_a_child(op)
        pidfd = os.pidfd_open(pid)
        act = self.scribe.begin("child")
        ended = select.select([pidfd], [], [], _FORKED_WITHIN_S)[0]
        if not ended:
            os.kill(pid, signal.SIGKILL)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        wrong = None
        if not ended:
            wrong = TimeoutError(f"a forked child had not ended after {_FORKED_WITHIN_S:g} s")
        elif code not in (0, -signal.SIGKILL):
            wrong = TimeoutError(f"a forked child ended with code {code}")
        self.scribe.end(act, wrong)

    def look(self, op: Operation) -> None:
        """The registry's figures."""
        del op
        with self._noting("statistics"):
            self.registry.statistics()

    # --- parts ------------------------------------------------------------------------------------------------------------

    def _as_a_child(self, op: Operation) -> None:
        """In the forked child: never returns."""
        code = 1
        try:
            self.tag += f"f{self.number}"
            epoch_directory = os.path.dirname(os.readlink(f"/proc/self/fd/{self.scribe._fd}"))
            self.scribe = Scribe(f"{epoch_directory}/{self.tag}")
            inherited = [*list(self.held)[:4], *list(self.named.values())[:1]]
            for held in inherited:
                with self._noting("read", held.stamp):
                    self._check(held.lease.array, held.stamp)
            self.serial += 1 << 24
            stamp = self._new_stamp()
            lease = self._share(op.words, stamp)
            if lease is not None:
                self._send_ticket(lease, stamp, [self._peer(op.peer)])
            if op.variant % 3 == 0:
                for held in inherited:
                    self._let_go(held)
            if op.variant % 3 == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            code = 0
        finally:
            os._exit(code)

    def _lease(self, name: str | None, words: int, stamp: int) -> Lease | None:
        lease = None
        with self._noting("lease", stamp, name or ""):
            lease = self.registry.lease(name, shape=words, dtype=np.uint64, timeout=_WAIT_S)
        if lease is not None:
            content.write(lease.array, stamp)
        return lease

    def _share(self, words: int, stamp: int) -> Lease | None:
        array = content.array_of(stamp, words)
        with self._noting("share", stamp):
            return self.registry.share(array, timeout=_WAIT_S)
        return None

    def _send_ticket(self, lease: Lease, stamp: int, receivers: list[int]) -> None:
        ticket = None
        with self._noting("ticket", stamp):
            ticket = lease.ticket(ttl=TTL_S)
        if ticket is None:
            return
        letter = msgspec.json.encode(Letter(str(ticket), stamp, ticket.deadline_ns))
        for copy, receiver in enumerate(receivers):
            box = f"{self.assignment.directory}/mail/{receiver}"
            beside = f"{self.assignment.directory}/outbox-{self.tag}"
            with open(beside, "wb") as file:
                file.write(letter)
            os.rename(beside, f"{box}/{stamp:x}-{copy}")

    def _keep(self, lease: Lease, stamp: int, hold: int) -> None:
        held = _Held(lease, stamp, self.number + hold)
        if not lease.writable:
            with self._noting("read", stamp):
                self._check(lease.array, stamp)
        if hold:
            self.held.append(held)
        else:
            self._let_go(held)

    def _let_go(self, held: _Held) -> None:
        """Look once more, then release."""
        with self._noting("read", held.stamp):
            self._check(held.lease.array, held.stamp)
        with self._noting("release", held.stamp, held.name):
            held.lease.release()

    def _drop_view(self) -> None:
        view, stamp, _ = self.views.popleft()
        with self._noting("read", stamp):
            self._check(view, stamp)

    @staticmethod
    def _check(array: np.ndarray[Any, Any], stamp: int) -> None:
        wrong = content.flaw(array, stamp)
        if wrong:
            raise WrongReadError(wrong)

    @contextlib.contextmanager
    def _noting(
        self,
        what: str,
        stamp: int = 0,
        subject: str = "",
        limit_ns: int = 0,
        readers: int = 0,
    ) -> Iterator[None]:
        """Write down what happens; whether an error may happen is for the checker, and the run goes on."""
        act: Act = self.scribe.begin(what, stamp, subject, limit_ns, readers)
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        self.scribe.end(act, error)

    def _new_stamp(self) -> int:
        self.serial += 1
        return (self.assignment.client + 1) << 48 | (self.assignment.incarnation & 0xFFFF) << 32 | self.serial

    def _peer(self, distance: int) -> int:
        return (self.assignment.client + distance) % self.assignment.clients

    @staticmethod
    def _name(client: int, slot: int) -> str:
        return f"client {client}/{slot % SLOTS}"


_DEEDS: Final[dict[Verb, Callable[[StressClient, Operation], None]]] = {
    Verb.PRIVATE: StressClient.private,
    Verb.HAND_OVER: StressClient.hand_over,
    Verb.CONTEND: StressClient.contend,
    Verb.PUBLISH: StressClient.publish,
    Verb.PROMISE: StressClient.promise,
    Verb.ATTACH: StressClient.attach,
    Verb.VIEW: StressClient.view,
    Verb.BURST: StressClient.burst,
    Verb.LOSE: StressClient.lose,
    Verb.FORK: StressClient.fork,
    Verb.LOOK: StressClient.look,
}


def run(address: str, text: str, epoch: int) -> None:
    """Run as a client: work until told to be quiet, rest, and go on or end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the coordinator
    assignment = msgspec.json.decode(text, type=Assignment)
    client = StressClient(assignment, epoch)
    connection = multiprocessing.connection.Client(address, "AF_UNIX")
    connection.send(client.beacon_inode())
    numbers = (number for start, end in assignment.ranges for number in range(start, end))
    with open(f"{assignment.directory}/progress", "r+b") as file:
        progress = mmap.mmap(file.fileno(), 0)
    is_quiet, is_through = False, False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    while True:
        if poll.poll(None if is_quiet else 100 if is_through else 0):
            try:
                order, *rest = connection.recv()
            except (EOFError, ConnectionResetError):
                sys.exit("the coordinator has gone")
            if order == "end":
                break
            if order == "quiet":
                is_quiet = True
            elif order == "rest":
                client.rest()
            elif order == "call":  # a client learns of what it should forget when it next calls
                client.registry.statistics()
            elif order == "go":
                client.begin_epoch(rest[0])
                is_quiet = False
            elif order == "fork":
                client.fork(
                    operation(assignment.seed, assignment.client, rest[0], assignment.clients, assignment.most_words)
                )
            connection.send((order, client.beacon_inode() if order == "go" else 0))
            continue
        if is_through:
            client.read_mail()
            continue
        number = next(numbers, None)
        if number is None:
            is_through = True
            connection.send(("through", 0))
            continue
        client.number = number
        client.step(operation(assignment.seed, assignment.client, number, assignment.clients, assignment.most_words))
        _COUNT.pack_into(progress, assignment.client * _COUNT.size, number + 1)
    connection.close()
