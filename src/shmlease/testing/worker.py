"""A worker process of the state machine: it does with leases what it is asked to.

The state machine sends a function and its arguments, and gets back what it returned or raised, and which warnings it gave. The
functions of this module take the `Worker` first; so do those that a user adds.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import warnings
import zlib
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from typing import Any, Final, NamedTuple

import numpy as np

import shmlease
from shmlease import Lease, connect  # imported with this module, so that a fork server has them before it forks

__all__ = ["Answer", "Sight", "Worker", "fill", "raw_bytes", "run"]


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


class Worker:
    """One process with leases and views by key, and its registry."""

    def __init__(self, registry: str) -> None:
        self.registry = connect(registry)
        self.leases: dict[int, Lease] = {}
        self.views: dict[int, np.ndarray[Any, Any]] = {}
        self.inherited: set[int] = set()  # leases that are a parent's, not used here yet
        self.children: list[int] = []
        self.connection: Connection[Any, Any]


def raw_bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """All bytes of a contiguous array, in the order in which they lie in memory."""
    flat = (array if array.flags.c_contiguous else array.T).reshape(-1)
    return flat.view(np.uint8) if array.nbytes else np.empty(0, np.uint8)


def fill(array: np.ndarray[Any, Any], stamp: int) -> None:
    """Write the bytes that `stamp` stands for into all of `array`, padding included."""
    target = raw_bytes(array)
    target[...] = np.resize(np.random.default_rng(stamp).integers(0, 256, 512, dtype=np.uint8), target.size)


def checksum_of(array: np.ndarray[Any, Any]) -> int:
    """Of all bytes, padding included."""
    return zlib.crc32(raw_bytes(array).tobytes())


# --- commands --------------------------------------------------------------------------------------------------------


def take(worker: Worker, key: int, stamp: int, name: str | None, timeout_s: float, layout: dict[str, Any]) -> int:
    """Lease, and write; the checksum of what was written."""
    worker.leases[key] = worker.registry.lease(name, timeout=timeout_s, **layout)
    return write(worker, key, stamp)


def write(worker: Worker, key: int, stamp: int) -> int:
    """Overwrite; the checksum of what was written."""
    fill(worker.leases[key].array, stamp)
    return checksum_of(worker.leases[key].array)


def share(worker: Worker, key: int, stamp: int, name: str | None, timeout_s: float, layout: dict[str, Any]) -> int:
    """Share an array; its checksum."""
    array = np.empty(**layout)
    fill(array, stamp)
    worker.leases[key] = worker.registry.share(array, name, timeout=timeout_s)
    return checksum_of(worker.leases[key].array)


def publish(worker: Worker, key: int, readers: int, ttl_s: float) -> None:
    """Publish, for so many readers to come."""
    worker.leases[key].publish(readers=readers, ttl=ttl_s)


def attach(worker: Worker, key: int, name: str, timeout_s: float) -> None:
    """Attach by name."""
    worker.leases[key] = worker.registry.attach(name, timeout=timeout_s)


def ticket(worker: Worker, key: int, ttl_s: float) -> str:
    """A ticket, as text."""
    made = worker.leases[key].ticket(ttl=ttl_s)
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - of our own making
    return str(made)


def redeem(worker: Worker, key: int, text: str) -> None:
    """Redeem a ticket."""
    worker.leases[key] = worker.registry.redeem(text)


def release(worker: Worker, key: int) -> None:
    """Release in order."""
    worker.leases.pop(key).release()


def forget(worker: Worker, key: int) -> None:
    """Lose a lease: the collector finds it."""
    del worker.leases[key]


def keep_view(worker: Worker, key: int) -> None:
    """Keep a numpy view that will outlive the lease."""
    worker.views[key] = worker.leases[key].array[...]


def drop_view(worker: Worker, key: int) -> None:
    """Let the view die."""
    del worker.views[key]


def expose(worker: Worker, key: int) -> str:
    """The OS name of the segment."""
    return worker.leases[key].segment


def use_inherited(worker: Worker, key: int) -> None:
    """Take an own lease on what the parent process holds."""
    try:
        worker.leases[key].array  # noqa: B018 - using it is what takes the lease
    except shmlease.LeaseClosedError:
        del worker.leases[key]
        raise
    finally:
        worker.inherited.discard(key)


def try_to_write(worker: Worker, key: int) -> None:
    """What a reader must not be able to do."""
    target = worker.leases[key].array
    target.flags.writeable = True
    target[...] = target


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
    checksum = checksum_of(array)
    for start, end, protection, inode, is_unlinked in maps:
        if start <= address < end and array.nbytes:
            return Sight(checksum, inode, protection, is_unlinked)
    return Sight(checksum, 0, "", False)


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
    worker.connection = Client(address, "AF_UNIX")
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
