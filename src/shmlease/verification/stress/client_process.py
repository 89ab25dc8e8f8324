"""The process of one client of a stress run: obeys the coordinator between two operations."""

from __future__ import annotations

import mmap
import select
import signal
import struct
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, Final, NoReturn

import msgspec

from shmlease.errors import LeaseError
from shmlease.exhaustion import shortage_behind
from shmlease.system.shm_shortage import explained
from shmlease.verification.stress.client import Assignment, StressClient
from shmlease.verification.stress.generator import Operation, operation

__all__ = ["CANNOT_GO_ON", "COUNT", "run"]

COUNT: Final = struct.Struct("<Q")  # of the operations that a client has done, at its place in the file `progress`
CANNOT_GO_ON: Final = 2  # exit code of a client that ran out of memory, descriptors, or bytes that a file may have


def run(text: str, epoch: int, descriptor: int) -> None:
    """Work until told to be quiet, rest, and go on or end; orders come through `descriptor`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the coordinator
    assignment = msgspec.json.decode(text, type=Assignment)
    connection: Connection[Any, Any] = Connection(descriptor)
    with connection:
        try:
            client = StressClient(assignment, epoch)
        except LeaseError as error:
            _end(assignment, str(error))
        try:
            _ClientProcess(assignment, client, connection).work()
        except (OSError, MemoryError, RuntimeError) as error:
            shortage = shortage_behind(error)
            if shortage is None:
                raise
            _end(assignment, explained(shortage))


def _end(assignment: Assignment, words: str) -> NoReturn:
    sys.stderr.write(f"shmlease: client {assignment.client}.{assignment.incarnation}: {words}\n")
    sys.exit(CANNOT_GO_ON)


class _ClientProcess:
    """A client, and where it has got to."""

    def __init__(self, assignment: Assignment, client: StressClient, connection: Connection[Any, Any]) -> None:
        self._assignment = assignment
        self._client = client
        self._connection = connection
        self._is_quiet = self._is_through = False
        with open(f"{assignment.directory}/progress", "r+b") as file:
            self._progress = mmap.mmap(file.fileno(), 0)
        connection.send(client.beacon_inode())

    def work(self) -> None:
        """One operation after another, with the orders in between, until told to end."""
        numbers = (number for start, end in self._assignment.ranges for number in range(start, end))
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLIN)
        while True:
            if poll.poll(None if self._is_quiet else 100 if self._is_through else 0):
                order, *rest = self._receive()
                if order == "end":
                    return
                self._connection.send((order, self._obey(order, rest)))
            elif self._is_through:
                self._client.read_mail()
            else:
                self._go_on(numbers)

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            sys.exit("the coordinator has gone")

    def _obey(self, order: str, rest: list[int]) -> int:
        """Do as told; the inode of a new beacon."""
        if order == "quiet":
            self._is_quiet = True
        elif order == "rest":
            self._client.rest()
        elif order == "call":  # a client learns of what it should forget when it next calls
            self._client.client.registry.statistics()
        elif order == "go":
            self._client.begin_epoch(rest[0])
            self._is_quiet = False
            return self._client.beacon_inode()
        elif order == "fork":
            self._client.fork(self._operation(rest[0]))
        return 0

    def _go_on(self, numbers: Iterator[int]) -> None:
        number = next(numbers, None)
        if number is None:
            self._is_through = True
            self._connection.send(("through", 0))
            return
        self._client.number = number
        self._client.step(self._operation(number))
        COUNT.pack_into(self._progress, self._assignment.client * COUNT.size, number + 1)

    def _operation(self, number: int) -> Operation:
        mine = self._assignment
        return operation(mine.seed, mine.client, number, mine.clients, mine.most_words)
