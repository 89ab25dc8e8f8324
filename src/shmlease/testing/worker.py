"""A worker process of the state machine: it does with leases what it is asked to.

The state machine sends a function and its arguments, and gets back what it returned or raised, and which warnings it gave.
A function takes the `Worker` first, as methods of `shmlease.verification.operations.Client` do; so do those that a user
adds.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

import numpy as np

import shmlease
from shmlease import connect  # imported with this module, so that a fork server has it before it forks
from shmlease.verification import contents
from shmlease.verification.operations import Client

__all__ = ["Answer", "Sight", "Worker", "checksum", "fork", "look", "run"]


class Answer(NamedTuple):
    """What became of a command: its value or its error, and the categories of the warnings it gave."""

    value: Any
    error: BaseException | None
    warnings: list[str]


class Sight(NamedTuple):
    """One array as its process sees it: checksum, and the inode and protection of the memory it lies on."""

    checksum: int
    inode: int
    protection: str
    is_unlinked: bool


class Worker(Client):
    """A client whose calls a commander decides on."""

    def __init__(self, registry: str) -> None:
        super().__init__(connect(registry))
        self.children: list[int] = []
        self.connection: Connection[Any, Any]


def checksum(worker: Worker, key: int) -> int:
    """Of one array."""
    return contents.checksum_of(worker.leases[key].array)


def look(worker: Worker) -> dict[int, Sight]:
    """Every array that this process holds, as it sees it."""
    with open("/proc/self/maps") as file:
        maps = [_map_of(line) for line in file if "/shmlease-" in line]
    arrays = {key: lease.array for key, lease in worker.leases.items() if key not in worker.inherited}
    arrays |= {key: view for key, view in worker.views.items() if key not in arrays}
    return {key: _sight(array, maps) for key, array in arrays.items()}


def fork(worker: Worker, address: str, tag: int) -> int:
    """Fork a process that obeys the same commander; its pid."""
    for child in [child for child in worker.children if os.waitpid(child, os.WNOHANG)[0]]:
        worker.children.remove(child)
    pid = os.fork()
    if pid:
        worker.children.append(pid)
        return pid
    worker.connection.close()
    worker.views.clear()
    worker.children.clear()
    worker.inherited = set(worker.leases)
    obey(worker, address, tag)
    sys.exit()


def _map_of(line: str) -> tuple[int, int, str, int, bool]:
    # the path, which may hold anything, is last
    addresses, protection, _, _, inode, path = line.split(maxsplit=5)
    start, end = (int(address, 16) for address in addresses.split("-"))
    return start, end, protection, int(inode), path.rstrip("\n").endswith(" (deleted)")


def _sight(array: np.ndarray[Any, Any], maps: list[tuple[int, int, str, int, bool]]) -> Sight:
    address = array.__array_interface__["data"][0]
    seen = contents.checksum_of(array)
    for start, end, protection, inode, is_unlinked in maps:
        if start <= address < end and array.nbytes:
            return Sight(seen, inode, protection, is_unlinked)
    return Sight(seen, 0, "", False)


# A process that ends with leases held still holds them when the interpreter shuts down.
_kept: Final[list[Worker]] = []

# --- the process -----------------------------------------------------------------------------------------------------


def run(address: str, tag: int, registry: str) -> None:
    """Run as a worker: connect to the commander at `address`, and obey until it hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the commander
    worker = Worker(registry)
    _kept.append(worker)
    obey(worker, address, tag)
    # a process ends with leases held, as careless ones do; it is the registry that is tested here, not the warning
    warnings.simplefilter("ignore", shmlease.LeaseWarning)


def obey(worker: Worker, address: str, tag: int) -> None:
    """Carry out commands until there are no more."""
    worker.connection = multiprocessing.connection.Client(address, "AF_UNIX")
    worker.connection.send((tag, os.getpid()))
    with contextlib.suppress(EOFError, ConnectionResetError):
        while (command := worker.connection.recv()) is not None:
            worker.connection.send(_answer(worker, *command))
    worker.connection.close()


def _answer(worker: Worker, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Answer:
    value, error = None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = function(worker, *arguments)
        except Exception as raised:
            # frames of the traceback hold arrays
            error = raised.with_traceback(None)
            error.__cause__ = error.__context__ = None
    return Answer(value, error, sorted(warning.category.__name__ for warning in caught))
