"""What an object keeps alive in shared memory: the segments, leases and processes that can be reached from it.

It follows references as the garbage collector does, downwards, and stops at what is everybody's: modules, classes, the
globals of functions, and the objects of pytest.

What it does not cover: a segment that only C code, or a bare `mmap` without an array on it, refers to.
"""

from __future__ import annotations

import bisect
import gc
import os
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from shmlease.auditor.observe.procfs import parse_maps

__all__ = ["Reachable", "reachable_from"]

_SHM: Final = "/dev/shm"
# An application held by a fixture has some ten thousand objects; 200,000 are followed in a fifth of a second.
_MOST_OBJECTS: Final = 200_000
_ATOMS: Final = (str, bytes, int, float, complex, type(None), types.CodeType)
_EVERYBODYS: Final = (type, types.ModuleType, types.FrameType)
_FRAMEWORK: Final = frozenset({"_pytest", "pytest", "pluggy"})


@dataclass(slots=True)
class Reachable:
    """Paths of files, subjects of leases, and pids; `has_manager` if a SharedMemoryManager is among the objects.

    `addresses` are where arrays and tensors have their elements.
    """

    paths: set[str] = field(default_factory=set)
    leases: set[str] = field(default_factory=set)
    pids: set[int] = field(default_factory=set)
    addresses: set[int] = field(default_factory=set)
    has_manager: bool = False


def reachable_from(roots: Iterable[object]) -> Reachable:
    """What `roots` keep alive."""
    found = Reachable()
    notes: dict[type, Callable[[Any, Reachable], None] | None] = {}
    for one in _walk(roots):
        kind = type(one)
        if kind not in notes:
            names = (f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__)
            notes[kind] = next((_NOTES[name] for name in names if name in _NOTES), None)
        note = notes[kind]
        if note is not None:
            note(one, found)
    if found.addresses:
        found.paths |= _mapped_at(sorted(found.addresses))
    return found


def _mapped_at(addresses: list[int]) -> set[str]:
    """The files in /dev/shm of which a mapping of this process includes one of `addresses`, which are sorted."""
    with open("/proc/self/maps", errors="surrogateescape") as maps:
        entries = list(parse_maps(maps.read(), [os.stat(_SHM).st_dev]))
    return {
        entry.path
        for entry in entries
        if (at := bisect.bisect_left(addresses, entry.start)) < len(addresses) and addresses[at] < entry.end
    }


def _walk(roots: Iterable[object]) -> Iterator[object]:
    pending, seen = list(roots), dict[int, object]()  # the objects are kept, so that their ids stay theirs
    while pending and len(seen) < _MOST_OBJECTS:
        one = pending.pop()
        if id(one) not in seen and not isinstance(one, _ATOMS):
            seen[id(one)] = one
            yield one
            pending += _referents(one)


def _referents(one: object) -> Iterable[object]:
    kind = type(one)
    if issubclass(kind, _EVERYBODYS) or kind.__module__.partition(".")[0] in _FRAMEWORK:
        return ()
    if isinstance(one, types.FunctionType):
        return (*(one.__closure__ or ()), *(one.__defaults__ or ()))
    return gc.get_referents(one)


def _note_memory(one: Any, found: Reachable) -> None:
    if one._name:
        found.paths.add(f"{_SHM}/{one._name.lstrip('/')}")


def _note_semaphore(one: Any, found: Reachable) -> None:
    if one.name:
        found.paths.add(f"{_SHM}/sem.{one.name.lstrip('/')}")


def _note_process(one: Any, found: Reachable) -> None:
    pid = getattr(vars(one).get("_popen", one), "pid", None)
    if isinstance(pid, int):
        found.pids.add(pid)


def _note_command(one: Any, found: Reachable) -> None:
    if one.returncode is None:
        found.pids.add(one.pid)


def _note_manager(_: Any, found: Reachable) -> None:
    found.has_manager = True


def _note_memmap(one: Any, found: Reachable) -> None:
    if one.filename:
        found.paths.add(str(one.filename))


def _note_array(one: Any, found: Reachable) -> None:
    found.addresses.add(one.__array_interface__["data"][0])


def _note_tensor(one: Any, found: Reachable) -> None:
    if one.device.type == "cpu" and not one.is_sparse:
        found.addresses.add(one.data_ptr())


def _note_lease(one: Any, found: Reachable) -> None:
    found.leases.add(f"lease:{one._link.endpoint.id}:{one._hold.lease}")


# By name, so that nothing is imported for it.
_NOTES: Final[dict[str, Callable[[Any, Reachable], None]]] = {
    "multiprocessing.shared_memory.SharedMemory": _note_memory,
    "_multiprocessing.SemLock": _note_semaphore,
    "multiprocessing.process.BaseProcess": _note_process,
    "subprocess.Popen": _note_command,
    "multiprocessing.managers.SharedMemoryManager": _note_manager,
    "numpy.memmap": _note_memmap,
    "numpy.ndarray": _note_array,
    "torch.Tensor": _note_tensor,
    "shmlease.client.lease.Lease": _note_lease,
}
