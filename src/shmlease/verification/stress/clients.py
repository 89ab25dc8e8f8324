"""The clients of a stress run: started, told when to work and when to rest, replaced when killed."""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

import msgspec

from shmlease.errors import LeaseError
from shmlease.system.forkserver import Child, ForkServer
from shmlease.verification.stress.client import Assignment
from shmlease.verification.stress.client_process import CANNOT_GO_ON, COUNT
from shmlease.verification.stress.mail import make_boxes

__all__ = ["Clients", "Ranges", "Worker"]

Ranges = Mapping[int, Sequence[tuple[int, int]]]


@dataclasses.dataclass(slots=True)
class Worker:
    """One client as its coordinator knows it."""

    number: int
    incarnation: int
    child: Child
    connection: Connection[Any, Any]
    beacon_inode: int
    is_through: bool = False
    owes: int = 0  # answers to orders

    def __str__(self) -> str:
        return f"client {self.number}.{self.incarnation}"


class Clients:
    """All clients.

    Parameters
    ----------
    forkserver : ForkServer
        Where they come from.
    directory : str
        A directory for their mail, histories and progress.
    registry, seed, most_words
        What they work with.
    ranges : mapping of int to sequence of (int, int)
        The operations of each.
    """

    def __init__(
        self, forkserver: ForkServer, directory: str, registry: str, seed: int, most_words: int, ranges: Ranges
    ) -> None:
        self._forkserver = forkserver
        self._directory = directory
        self._registry = registry
        self._seed = seed
        self._most_words = most_words
        self._ranges = ranges
        self._workers: dict[int, Worker] = {}
        self.epoch = 0
        make_boxes(directory, ranges)
        with open(f"{directory}/progress", "wb") as file:
            file.write(bytes(COUNT.size * (max(ranges) + 1)))
        with open(f"{directory}/progress", "r+b") as file:
            self._progress = mmap.mmap(file.fileno(), 0)

    # --- who there is ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._workers)

    def all(self) -> list[Worker]:
        """Everybody."""
        return list(self._workers.values())

    def target(self, number: int) -> Worker:
        """The one that any `number` means."""
        workers = self.all()
        return workers[number % len(workers)]

    @property
    def is_through(self) -> bool:
        """Whether all have done all their operations."""
        return all(worker.is_through for worker in self._workers.values())

    # --- beginnings and ends ------------------------------------------------------------------------------------------

    def open_epoch(self) -> None:
        """From now on histories go to a new directory."""
        self.epoch += 1
        os.makedirs(self.history)

    @property
    def history(self) -> str:
        """Where the histories of this epoch lie."""
        return f"{self._directory}/history/{self.epoch}"

    def start_all(self) -> None:
        """The first incarnation of each."""
        for number in self._ranges:
            self._start(number, 0)

    def replace(self, worker: Worker) -> int:
        """Replace one that has ended by another, which goes on with its operations; how it ended."""
        code = self.reap(worker)
        self._start(worker.number, worker.incarnation + 1)
        return code

    def reap(self, worker: Worker) -> int:
        """Wait for the end of one; how it ended.

        Raises
        ------
        LeaseError
            It ran out of something that this system does not give it: that is no broken promise, and no run.
        """
        worker.connection.close()
        del self._workers[worker.number]
        code = worker.child.reap()
        if code == CANNOT_GO_ON:
            raise LeaseError(f"the stress run cannot go on without {worker}, which has said why")
        return code

    def close(self) -> None:
        """Let go of everything; the fork server kills who is left."""
        for worker in self.all():
            worker.connection.close()
        self._progress.close()

    def _start(self, number: int, incarnation: int) -> None:
        # the operation that its predecessor died in is not done again
        ranges = _after(self._ranges[number], self._done(number) + 1 if incarnation else 0)
        assignment = Assignment(
            number,
            incarnation,
            max(self._ranges) + 1,
            self._seed,
            self._most_words,
            self._directory,
            self._registry,
            ranges,
        )
        text = msgspec.json.encode(assignment).decode()
        ours, theirs = Pipe()
        with theirs:  # the only one of its kind in this process: the client's death is the end of what can be received
            child = self._forkserver.fork(
                "shmlease.verification.stress.client_process:run", text, self.epoch, descriptor=theirs.fileno()
            )
        worker = self._workers[number] = Worker(number, incarnation, child, ours, 0)
        try:
            worker.beacon_inode = ours.recv()
        except (EOFError, ConnectionResetError):
            code = self.reap(worker)
            raise LeaseError(f"{worker} of the stress run ended with code {code} before its first operation") from None

    # --- talk ---------------------------------------------------------------------------------------------------------

    def order(self, worker: Worker, order: str, *rest: int) -> None:
        """Tell one something that it will answer."""
        with contextlib.suppress(BrokenPipeError):  # its death is heard of in a moment
            worker.connection.send((order, *rest))
            worker.owes += 1

    def order_all(self, order: str, *rest: int) -> None:
        """Tell everybody."""
        for worker in self.all():
            self.order(worker, order, *rest)

    def late(self) -> list[Worker]:
        """Those who owe an answer."""
        return [worker for worker in self._workers.values() if worker.owes > 0]

    def hear(self, within_s: float) -> list[Worker]:
        """Take in what is said; those who have died by themselves."""
        dead = []
        speakers = wait([worker.connection for worker in self._workers.values()], within_s)
        for worker in [worker for worker in self._workers.values() if worker.connection in speakers]:
            try:
                said, inode = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                dead.append(worker)
                continue
            if said == "through":
                worker.is_through = True
            else:
                worker.owes -= 1
                worker.beacon_inode = inode or worker.beacon_inode
        return dead

    # --- progress -----------------------------------------------------------------------------------------------------

    def operations(self) -> int:
        """What all together have done."""
        return sum(end - start for ranges in self.done().values() for start, end in ranges)

    def done(self) -> dict[int, list[tuple[int, int]]]:
        """What each has done."""
        return {number: _until(ranges, self._done(number)) for number, ranges in self._ranges.items()}

    def _done(self, number: int) -> int:
        done: int = COUNT.unpack_from(self._progress, number * COUNT.size)[0]
        return done


def _after(ranges: Sequence[tuple[int, int]], number: int) -> list[tuple[int, int]]:
    """What is left of `ranges` from `number` on."""
    return [(max(start, number), end) for start, end in ranges if end > number]


def _until(ranges: Sequence[tuple[int, int]], number: int) -> list[tuple[int, int]]:
    """What is done of `ranges` up to `number`."""
    return [(start, min(end, number)) for start, end in ranges if start < number]
