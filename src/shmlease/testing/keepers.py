"""Who keeps what a test has left behind, on purpose: a fixture of a wider scope, a library, or a process that lives on.

- **A fixture** keeps what its value, its generator or its finalizers refer to, and what is held by processes that it
  started. That counts when the fixture has been torn down.
- **A library** that reuses what it has made keeps what its own variable refers to; one that has a process of its own for it
  keeps the files that this process will remove. That is set aside, with the reason.
- **A process or a thread** that a test has started and that still runs keeps what it holds, for nobody can tell yet whether
  somebody means to end it, or whether it is just ending. That counts at the end of the session, when all fixtures have been
  torn down.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

import psutil

from shmlease.auditor.judge.findings import Finding, Process
from shmlease.auditor.run.process_tree import descendants_of
from shmlease.testing.reachable import Reachable, reachable_from

__all__ = ["HELPERS", "LIBRARIES", "Helper", "Keeper", "Keepers", "Library"]

_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
# A process's start is counted in ticks.
_TICK_NS: Final = 1_000_000_000 // _CLOCK_TICKS
_MANAGERS: Final = "/multiprocessing/managers.py"


@dataclass(frozen=True, slots=True)
class Library:
    """A variable of a library that keeps something for reuse, and why that is no leak."""

    module: str
    variable: str
    reason: str

    def root(self) -> object:
        """What the variable holds now; None if the library is not in use."""
        return getattr(sys.modules.get(self.module), self.variable, None)


_LOKY = "loky keeps its executor, with its workers and semaphores, for the next parallel call (get_reusable_executor)"
LIBRARIES: Final = (
    Library("joblib.externals.loky.reusable_executor", "_executor", _LOKY),
    Library("loky.reusable_executor", "_executor", _LOKY),
)


@dataclass(frozen=True, slots=True)
class Helper:
    """A program of a library that runs beside each process that shares through it, and removes their files in the end."""

    library: str
    program: str
    files: re.Pattern[str]  # whose first group is the pid of the process that the program was started by
    reason: str

    def keeps(self, finding: Finding, family: Collection[int]) -> bool:
        """Whether the program, which runs, will remove the file, or is all that still holds it."""
        others = _others(finding)
        if others:
            return all(one.pid in family and self._is_run_by(one) for one in others)
        match = self.files.fullmatch(os.path.basename(finding.path))
        if match is None or int(match[1]) not in family:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            return any(map(self._is_run_by, descendants_of(int(match[1]))))
        return False

    def _is_run_by(self, process: Process) -> bool:
        return os.path.basename(process.command) == self.program


HELPERS: Final = (
    Helper(
        "torch",
        "torch_shm_manager",
        re.compile(r"torch_(\d+)_\d+_\d+"),
        'torch_shm_manager keeps what is shared by the strategy "file_system", and descriptors that it inherited, until '
        "the processes that use it have ended",
    ),
)


@dataclass(frozen=True, slots=True)
class Keeper:
    """What keeps something: `name` it goes by; `reason` if that is no leak, whatever happens."""

    name: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Fixture:
    began_ns: int
    ended_ns: int
    roots: Callable[[], Iterable[object]]


class Keepers:
    """The fixtures that are set up at the moment, and the libraries that are known."""

    def __init__(self) -> None:
        self._fixtures: dict[str, _Fixture] = {}

    def enter(self, fixture: str, began_ns: int, roots: Callable[[], Iterable[object]]) -> None:
        """`fixture` has been set up, which took from `began_ns` until now; `roots` gives what it holds."""
        self._fixtures[fixture] = _Fixture(began_ns, time.time_ns(), roots)

    def leave(self, fixture: str) -> None:
        """`fixture` has been torn down."""
        self._fixtures.pop(fixture, None)

    def has(self, fixture: str) -> bool:
        """Whether `fixture` is set up."""
        return fixture in self._fixtures

    def look(self, family: Collection[int]) -> Callable[[Finding], Keeper | None]:
        """A function that tells who of these, and of the processes in `family`, keeps what a finding is about, now."""
        libraries = [(library, functools.cache(lambda one=library: reachable_from([one.root()]))) for library in LIBRARIES]
        fixtures = [
            (name, one, functools.cache(lambda one=one: reachable_from(one.roots())))
            for name, one in reversed(self._fixtures.items())
        ]

        threads = functools.cache(_threads)

        def keeper_of(finding: Finding) -> Keeper | None:
            for helper in HELPERS:
                if helper.keeps(finding, family):
                    return Keeper(helper.library, helper.reason)
            for library, reachable in libraries:
                if _keeps(reachable(), finding):
                    return Keeper(library.module.partition(".")[0], library.reason)
            for name, fixture, reachable in fixtures:
                if _keeps(reachable(), finding) or _started(fixture, _others(finding)):
                    return Keeper(name)
            children = [process for process in _others(finding) if process.pid in family]
            if children:
                return Keeper(str(children[0]))
            return next((Keeper(name) for name, reachable in threads() if _keeps(reachable, finding)), None)

        return keeper_of


def _threads() -> list[tuple[str, Reachable]]:
    """The threads beside this one and the main one, each with what its arguments and attributes refer to."""
    mine = {threading.main_thread(), threading.current_thread()}
    return [
        (f"thread {one.name!r}, which still runs,", reachable_from([one]))
        for one in threading.enumerate()
        if one not in mine
    ]


def _others(finding: Finding) -> list[Process]:
    """The holders beside this process."""
    return [holder for holder in finding.holders if holder.pid != os.getpid()]


def _keeps(reachable: Reachable, finding: Finding) -> bool:
    if finding.path in reachable.paths or finding.subject in reachable.leases:
        return True
    others = {process.pid for process in _others(finding)}
    if others:
        return others <= reachable.pids
    return reachable.has_manager and not finding.holders and _is_of_a_manager(finding)


def _is_of_a_manager(finding: Finding) -> bool:
    """Whether it was made through a SharedMemoryManager, which unlinks it when it is shut down."""
    stack = finding.creator.stack if finding.creator else ()
    return any(place.file.endswith(_MANAGERS) and place.function.startswith("SharedMemoryManager.") for place in stack)


def _started(fixture: _Fixture, processes: Iterable[Process]) -> bool:
    """Whether all of `processes`, of which there is one at least, were started while the fixture was set up."""
    booted_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    started = [booted_ns + (process.start_ticks or 0) * _TICK_NS for process in processes]
    return bool(started) and all(fixture.began_ns - 2 * _TICK_NS <= at <= fixture.ended_ns for at in started)
