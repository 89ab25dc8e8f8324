"""Threads of which one runs at a time, on a clock that only they move: the scheduler of the simulation.

A **process** is what the simulation calls one: an identity, descriptors, a life that can end between any two system calls.
A **task** is the thread that runs a process. It holds the baton or it sleeps; whoever lays the baton down chooses, by a
seeded random number generator, who takes it up. Nothing else decides the order of things, so that a seed repeats a run.

Every simulated system call is a **step**: time passes, the process may die, another task may go on. A task that waits
says for what and how long; when all wait, time passes to the first that has waited long enough.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from shmlease.core.model import Identity
from shmlease.system.identity import boot_id, own_pid_namespace, own_time_namespace

__all__ = ["FOR_EVER", "Killed", "Machine", "Process", "Stopped", "Task"]

FOR_EVER: Final = 2**62  # nanoseconds, or system calls
_START_NS: Final = 1_000_000_000_000
# A system call takes 1 to 17 us here: of the order of the real ones, so that timeouts and steps stand as they do there.
_LEAST_STEP_NS: Final = 1_000
_STEP_BITS: Final = 14
_TRACE_KEPT: Final = 300
# Simulated processes live in the namespaces of the one that simulates them.
_PID_NAMESPACE: Final = own_pid_namespace()
_TIME_NAMESPACE: Final = own_time_namespace()


class Killed(BaseException):
    """Raised in a task whose process was killed; no code under test may catch it, as none outlives a SIGKILL."""


class Stopped(BaseException):
    """Raised in every task when the simulation ends."""


class Process:
    """A simulated process; `life` is how many more system calls it will make before it is killed."""

    __slots__ = ("alive", "at_death", "descriptors", "identity", "life", "name")

    def __init__(self, name: str, identity: Identity, life: int) -> None:
        self.name = name
        self.identity = identity
        self.life = life
        self.alive = True
        self.descriptors: set[int] = set()
        self.at_death: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"{self.name}[{self.identity.pid}]"


class Task:
    """The thread of a process."""

    __slots__ = ("baton", "deadline_ns", "process", "ready", "stalled_until_ns")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.baton = allocate_lock()
        self.baton.acquire()
        self.ready: Callable[[], bool] | None = None
        self.deadline_ns = FOR_EVER
        self.stalled_until_ns = 0


class Machine:
    """One simulated machine: its clock, its processes, and who of them runs.

    Parameters
    ----------
    seed : int or str
        Decides everything that is left to chance.
    """

    def __init__(self, seed: int | str) -> None:
        self.random = random.Random(seed)
        self.steps = 0
        self.most_steps = FOR_EVER
        self.failure: BaseException | str | None = None
        self.trace: deque[tuple[int, int, str, str]] = deque(maxlen=_TRACE_KEPT)
        self.when_idle: Callable[[], None] | None = None
        self.current: Task
        self._now_ns = _START_NS
        self._bits = self.random.getrandbits
        self._pace = self.random.randrange(1, 5)
        self._until_switch = 1
        self._tasks: list[Task] = []
        self._stopping = False
        self._main = allocate_lock()
        self._main.acquire()
        self._entered: Task | None = None
        self._next_pid = 1_000
        self._next_start = 1

    # --- the clock, as the code under test sees it ---------------------------------------------------------------------

    def now_ns(self) -> int:
        """The time."""
        return self._now_ns

    def elapsed_s(self) -> float:
        """Simulated seconds since the start."""
        return (self._now_ns - _START_NS) / 1e9

    def wait_s(self, seconds: float) -> None:
        """Sleep."""
        self.wait(lambda: False, int(seconds * 1e9))

    # --- processes -----------------------------------------------------------------------------------------------------

    def process(self, name: str, life: int = FOR_EVER) -> Process:
        """A new process; now and then it has the pid of one that is dead."""
        if not self.random.randrange(4) and self._next_pid > 1_000:
            pid = self.random.randrange(1_000, self._next_pid)
            if any(task.process.identity.pid == pid for task in self._tasks):
                pid = self._next_pid
        else:
            pid = self._next_pid
        self._next_pid = max(self._next_pid, pid + 1)
        self._next_start += 1
        return Process(
            name, Identity(pid, self._next_start, boot_id(), _PID_NAMESPACE, os.geteuid(), name, _TIME_NAMESPACE), life
        )

    def start(self, process: Process, body: Callable[[], None]) -> None:
        """Let `process` run `body`, and end with it."""
        task = Task(process)
        self._tasks.append(task)
        threading.Thread(target=self._live, args=(task, body), daemon=True).start()

    def kill(self, process: Process) -> None:
        """SIGKILL, or the end of a process whose body has returned: nothing of it runs any more."""
        if process.alive:
            process.alive = False
            self.note("ended", process)
            for ended in process.at_death:
                ended()

    def stall(self, process: Process, for_ns: int) -> None:
        """SIGSTOP, and SIGCONT after `for_ns`."""
        for task in self._tasks:
            if task.process is process:
                task.stalled_until_ns = self._now_ns + for_ns

    def is_stalled(self, process: Process) -> bool:
        """Whether `process` is stopped."""
        return any(task.process is process and task.stalled_until_ns > self._now_ns for task in self._tasks)

    def resume_all(self) -> None:
        """SIGCONT to everybody."""
        for task in self._tasks:
            task.stalled_until_ns = 0

    def find(self, pid: int, start_ticks: int | None = None) -> Process | None:
        """The live process that has this pid, and this start time if one is given."""
        for task in self._tasks:
            identity = task.process.identity
            if task.process.alive and identity.pid == pid and start_ticks in (None, identity.start_ticks):
                return task.process
        return None

    def processes(self) -> list[Process]:
        """The live ones."""
        return [task.process for task in self._tasks if task.process.alive]

    # --- steps ---------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One system call of the process that runs: before it anything may happen."""
        self._pass()
        self._until_switch -= 1
        if self._until_switch <= 0:
            self._until_switch = 1 + self._bits(self._pace)
            self._lay_down()

    def wait(self, ready: Callable[[], bool], timeout_ns: int | None = None) -> None:
        """Let others run until `ready`, or until the time is up."""
        self._pass()
        task = self.current
        task.ready = ready
        task.deadline_ns = FOR_EVER if timeout_ns is None else self._now_ns + timeout_ns
        self._lay_down()
        task.ready = None

    def note(self, what: str, *about: object) -> None:
        """Remember an event, to be shown if something goes wrong soon."""
        who = self.current.process if hasattr(self, "current") else "outside"
        self.trace.append((self.steps, self._now_ns - _START_NS, str(who), f"{what} {' '.join(map(str, about))}"))

    def report(self, why: BaseException | str) -> None:
        """A promise was broken: end the simulation as soon as somebody takes a step."""
        if self.failure is None:
            self.failure = why
            self._stopping = True

    def fail(self, why: BaseException | str) -> NoReturn:
        """A promise was broken: end the simulation.

        Raises
        ------
        Stopped
            Always; code under test cannot swallow it.
        """
        self.report(why)
        raise Stopped

    def stop(self) -> NoReturn:
        """End the simulation in order.

        Raises
        ------
        Stopped
            Always.
        """
        self._stopping = True
        raise Stopped

    # --- running -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Hand the baton to a task and wait until all have ended, or one has stopped the simulation."""
        while self._tasks:
            self.current = self._tasks[0] if self._stopping else self._choose() or self._tasks[0]
            if self._stopping:
                self.kill(self.current.process)
            self.current.baton.release()
            self._main.acquire()

    @contextlib.contextmanager
    def entered(self, process: Process) -> Iterator[None]:
        """A block in which the thread that is in it runs `process`; all others end with it.

        Raises
        ------
        AssertionError
            A promise was broken.
        """
        task = self.current = self._entered = Task(process)
        self._tasks.append(task)
        try:
            yield
        finally:
            self.kill(process)
            self._entered = None
            self._tasks.remove(task)
            self._stopping = True
            self.run()
        if self.failure is not None:
            raise AssertionError("a process failed") from self.failure if isinstance(self.failure, BaseException) else None

    def _live(self, task: Task, body: Callable[[], None]) -> None:
        task.baton.acquire()
        try:
            if task.process.alive:
                body()
        except (Killed, Stopped):
            pass
        except BaseException as error:  # whatever it is, it is what the simulation was to find
            self.report(error)
        self.kill(task.process)
        self._tasks.remove(task)
        following = None if self._stopping or not self._tasks else self._choose()
        self._hand_over_to(following)

    def _hand_over_to(self, following: Task | None) -> None:
        if following is None:
            following = self._entered
        if following is None:
            self._main.release()
        else:
            self.current = following
            following.baton.release()

    def _pass(self) -> None:
        process = self.current.process
        if not process.alive:  # what the language runs on the way out: it never happened
            raise Killed
        if self._stopping:
            raise Stopped
        self.steps += 1
        if self.steps > self.most_steps:
            self.fail(f"{process} and the others go round in circles: {self.steps} steps, and no end")
        self._now_ns += _LEAST_STEP_NS + self._bits(_STEP_BITS)
        process.life -= 1
        if not process.life:
            self.kill(process)
            raise Killed

    def _lay_down(self) -> None:
        task = self.current
        following = self._choose()
        if following is not task and not (following is None and task is self._entered):
            self._hand_over_to(following)
            task.baton.acquire()
        if not task.process.alive:
            raise Killed
        if self._stopping:
            raise Stopped

    def _choose(self) -> Task | None:
        """Who runs next; None if the simulation is to end."""
        tasks = self._tasks
        while not self._stopping:
            first = int(self.random.random() * len(tasks))
            for task in (*tasks[first:], *tasks[:first]):
                if not task.process.alive:
                    return task
                if task.stalled_until_ns <= self._now_ns and (
                    task.ready is None or task.deadline_ns <= self._now_ns or task.ready()
                ):
                    return task
            if self.when_idle is not None:
                self.when_idle()
            next_ns = min(
                task.stalled_until_ns if task.stalled_until_ns > self._now_ns else task.deadline_ns for task in tasks
            )
            if next_ns >= FOR_EVER:
                self.report("every process waits for another, and none for a time")
            else:
                self._now_ns = max(next_ns, self._now_ns)
        return None
