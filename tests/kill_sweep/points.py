"""One point: who is killed and when, and what must hold afterwards.

The runner of a point is the parent of all its processes, also of those that are nobody's child: it is their subreaper, and
it is the tracer of the victim. So a point is over when the runner has no children left, and one that has not ended in time
is hung.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Final

import msgspec

from kill_sweep import processes
from kill_sweep.roles import play_victim, play_witness
from kill_sweep.tracing import WALL, Tracer, ask_to_be_traced
from kill_sweep.workloads import WORKLOADS, Line
from shmlease import RegistryUnavailableError, connect
from shmlease.core.settings import Settings
from shmlease.system.directory import RegistryDirectory
from shmlease.system.reclaim import sweep
from shmlease.verification.oracle import Oracle

__all__ = ["PLANS", "Outcome", "Point", "run_point"]

_SHM: Final = "/dev/shm"
_HUNG_AFTER_S: Final = 90.0


@dataclass(frozen=True, order=True)
class Point:
    """The n-th stop of a victim in a workload; 0 for a run in which nobody is killed."""

    workload: str
    victim: str
    at: int = 0

    def __str__(self) -> str:
        return f"--only {self.workload}/{self.victim} --at {self.at}"


@dataclass(frozen=True)
class Outcome:
    """What came of it: stops counted, who was killed where, and what was wrong; `is_swept` if the next start had to clean
    up.
    """

    point: Point
    stops: int
    is_killed: bool
    place: str
    is_swept: bool
    failures: list[str] = field(default_factory=list)


class _Play:
    """The processes of one point while it lasts."""

    def __init__(self, point: Point) -> None:
        self.workload = WORKLOADS[point.workload]
        self.tracer = Tracer(point.at, follow=point.victim == "starter")
        self.words = os.memfd_create("words")  # of all of them
        self.launcher = processes.Launcher(self.words)
        self.pids: dict[str, int] = {}
        self.runner_to: dict[str, Line] = {}
        self.killed: set[int] = set()
        self.ended: dict[int, int] = {}  # exit codes by pid, as those of subprocess

    def start(self, *, traced: bool = False, holds: bool = False) -> None:
        """Fork witness and victim."""
        between = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for role, end in zip(("witness", "victim"), between, strict=True):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            is_traced = traced and role == "victim"
            play = partial(self._be, role, Line(end), Line(theirs), is_traced=is_traced, holds=holds)
            keep = [end.fileno(), theirs.fileno(), self.launcher.fd]
            self.pids[role] = processes.fork(play, keep=keep, words=self.words)
            self.runner_to[role] = Line(ours)
            theirs.close()
            if is_traced:
                self.tracer.adopt(self.pids[role])
        for end in between:
            end.close()

    def _be(self, role: str, line: Line, runner: Line, *, is_traced: bool, holds: bool) -> None:
        if is_traced:
            ask_to_be_traced()
        if role == "witness":
            play_witness(self.workload, line, runner)
        else:
            play_victim(self.workload, line, runner, holds=holds)

    def hear_of_registry(self) -> tuple[str, int]:
        """Id and pid of the registry, from the one that has started it."""
        id, pid = self.runner_to[self.owner].must_hear().split()
        return id, int(pid)

    @property
    def owner(self) -> str:
        """Who starts the registry."""
        return "victim" if self.workload.victim_owns else "witness"

    def wait(self, until: Callable[[], object] = lambda: False) -> None:
        """Bury who ends and let go on who is traced, until there is nobody left or `until` holds."""
        while not until():
            try:
                pid, status = os.waitpid(-1, WALL)
            except ChildProcessError:
                return
            if self.tracer.handle(pid, status):
                self.killed.add(self.tracer.killed)
            elif self.tracer.process_of(pid) == pid:  # the end of another thread is nobody's end
                self.ended[pid] = os.waitstatus_to_exitcode(status)

    def failures(self) -> list[str]:
        """Who did not end as it should."""
        roles = {pid: role for role, pid in self.pids.items()}
        found = []
        for pid, code in self.ended.items():
            # a successor that finds its registry closed says so and ends with 1
            is_right = code == 0 or pid in self.killed or (code == 1 and pid not in roles)
            if not is_right:
                found.append(f"the {roles.get(pid, 'process')} {pid} ended with {code}")
        if found:
            found.append(os.pread(self.words, 1 << 16, 0).decode(errors="replace"))
        return found

    def close(self) -> None:
        """End what is left."""
        self.launcher.close()
        while left := processes.children():
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, WALL)
        os.close(self.words)


# --- who is killed ---------------------------------------------------------------------------------------------------


def _kill_client(play: _Play) -> None:
    """The victim of the workload, from its connection, or the start of its registry, to its exit."""
    play.start(traced=True)
    play.runner_to[play.owner].say("go")


def _kill_registry(play: _Play) -> None:
    """The registry, from when it serves to its end."""
    play.start()
    play.tracer.seize(play.hear_of_registry()[1])
    play.runner_to[play.owner].say("go")


def _kill_successor(play: _Play) -> None:
    """The successor of a killed registry, from its start to its end, while clients come to it."""
    directory = RegistryDirectory(_lose_registry(play))
    lock = directory.lock()
    assert lock is not None
    lock_fd = os.dup(lock)  # a child that is forked loses the other
    directory.unlock(lock)
    settings = msgspec.json.encode(Settings(directory.id, directory.root)).decode()
    report_fd = os.open(os.devnull, os.O_WRONLY)

    def succeed() -> None:
        ask_to_be_traced()
        processes.start_registry(settings, lock_fd, report_fd)

    play.pids["successor"] = processes.fork(succeed, keep=[lock_fd, report_fd], words=play.words)
    os.close(lock_fd)
    os.close(report_fd)
    play.tracer.adopt(play.pids["successor"])
    play.runner_to["victim"].say("go")


def _kill_starter(play: _Play) -> None:
    """A client that starts a successor as a fresh interpreter, and that interpreter: whichever makes the stop."""
    id = _lose_registry(play)

    def elect() -> None:
        ask_to_be_traced()
        processes.install(None)
        try:
            connect(id).statistics()
        except RegistryUnavailableError:  # what it had started was killed, and it says so
            pass

    play.pids["starter"] = processes.fork(elect, words=play.words)
    play.tracer.adopt(play.pids["starter"])
    play.wait(lambda: play.pids["starter"] in play.ended or play.tracer.killed)
    play.runner_to["victim"].say("go")


def _lose_registry(play: _Play) -> str:
    """Have the registry killed while the victim holds something; its id."""
    play.start(holds=True)
    id, pid = play.hear_of_registry()
    play.runner_to["witness"].say("go")
    play.runner_to["victim"].must_hear()
    play.killed.add(pid)
    os.kill(pid, signal.SIGKILL)
    play.wait(lambda: pid in play.ended)
    return id


_VICTIMS: Final = {
    "client": _kill_client,
    "registry": _kill_registry,
    "successor": _kill_successor,
    "starter": _kill_starter,
}
# What is swept. A starter's stops have little to do with the workload.
PLANS: Final = [
    *(Point(workload, victim) for workload in WORKLOADS for victim in ("client", "registry")),
    *(Point(workload, "successor") for workload in WORKLOADS if not WORKLOADS[workload].victim_owns),
    Point("hand_over", "starter"),
]


# --- from begin to end -----------------------------------------------------------------------------------------------


def run_point(point: Point, *, is_private: bool) -> Outcome:
    """Run it, and judge; `is_private` if nobody else uses this /dev/shm."""
    before = set(os.listdir(_SHM))
    play = _Play(point)
    processes.install(play.launcher)
    failures = []
    try:
        with _time_limit(_HUNG_AFTER_S):
            _VICTIMS[point.victim](play)
            play.launcher.close()
            play.wait()
    except TimeoutError:
        failures.append(f"not ended within {_HUNG_AFTER_S:g} s: {processes.children()}")
    processes.install(None)
    failures += play.failures()
    play.close()
    left = set(os.listdir(_SHM)) - before
    # nobody of a registry that was killed with all its clients can have cleaned up; the next start does
    is_swept = bool(left) and (point.victim != "client" or WORKLOADS[point.workload].victim_owns)
    if is_swept:
        sweep()
        left = set(os.listdir(_SHM)) - before
    if left:
        failures.append(f"left in {_SHM}: {sorted(left)}")
    if is_private and (dark_bytes := Oracle("", is_private=True).dark_bytes()):
        failures.append(f"{dark_bytes} bytes of {_SHM} are in use by no file")
    tracer = play.tracer
    return Outcome(point, tracer.stops, tracer.killed > 0, tracer.place, is_swept, failures)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def expire(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
