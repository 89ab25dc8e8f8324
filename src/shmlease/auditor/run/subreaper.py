"""Runs a command and waits for it and all its descendants, also those that it orphans or puts into another session.

This process becomes the reaper of its descendants (PR_SET_CHILD_SUBREAPER): a descendant that loses its parent becomes its
child, resource trackers and daemons included. So waiting until there are no children is waiting for all, without polling.

Source: prctl(2), waitid(2).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shmlease.auditor.run.inotify import Watch
from shmlease.auditor.run.signals import PASSED_ON, Signals

if TYPE_CHECKING:
    from shmlease.auditor.judge.findings import Process

__all__ = ["CommandOutcome", "run_and_wait"]

_PR_SET_CHILD_SUBREAPER: Final = 36
# Python ignores these; a command expects the default.
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
# The kernel's queue of changes holds 16,384; a program creates and removes some hundred segments in this time.
_GATHER_MS: Final = 10
_TRACKER: Final = "resource_tracker import main"  # of multiprocessing, and of loky
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """How the command went; times count from the epoch.

    `returncode` is negative for a signal. `left` is what was still running when the command had ended, `survivors` what was
    still running when waiting for that was given up.
    """

    pid: int
    returncode: int
    began_ns: int
    ended_ns: int
    settled_ns: int
    left: tuple[Process, ...] = ()
    survivors: tuple[Process, ...] = ()

    @property
    def only_trackers_left(self) -> bool:
        """Whether what happened after the command was done by resource trackers alone."""
        return bool(self.left) and all(_TRACKER in process.command for process in self.left)

    @property
    def exit_code(self) -> int:
        """The command's exit code, as a shell would have it: 128 and the signal that ended it."""
        return self.returncode if self.returncode >= 0 else 128 - self.returncode


def run_and_wait(
    command: Sequence[str],
    environment: Mapping[str, str],
    watch: Watch,
    settle_s: float,
    meanwhile: Callable[[], object] = lambda: None,
) -> CommandOutcome:
    """Run `command` until it and its descendants have ended, `settle_s` seconds after it at the latest.

    Signals sent to this process reach the command. While `settle_s` runs, SIGINT or SIGTERM ends the waiting. `meanwhile`
    is called once the command has been started.

    Raises
    ------
    OSError
        The command could not be started.
    """
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        with Signals() as signals:
            began_ns = time.time_ns()
            pid = os.posix_spawnp(
                command[0], list(command), dict(environment), setsigmask=signals.mask, setsigdef=_IGNORED_BY_PYTHON
            )
            meanwhile()
            return _Waiting(pid, began_ns, signals, watch).until_settled(settle_s)
    finally:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class _Waiting:
    def __init__(self, pid: int, began_ns: int, signals: Signals, watch: Watch) -> None:
        self._pid = pid
        self._began_ns = began_ns
        self._signals = signals
        self._watch = watch
        self._status: int | None = None
        self._ended_ns = 0
        self._left: tuple[Process, ...] = ()
        self._is_alone = False
        self._gives_up = False
        self._poll = select.poll()
        self._poll.register(signals, select.POLLIN)
        self._signals_come = select.poll()
        self._signals_come.register(signals, select.POLLIN)
        if watch.fileno() >= 0:
            self._poll.register(watch, select.POLLIN)

    def until_settled(self, settle_s: float) -> CommandOutcome:
        deadline = None
        while not self._is_alone and not self._gives_up:
            if self._status is not None and deadline is None:
                deadline = time.monotonic() + settle_s
            timeout_ms = None if deadline is None else (deadline - time.monotonic()) * 1000
            if timeout_ms is not None and timeout_ms <= 0:
                break
            ready = self._poll.poll(timeout_ms)
            if ready and all(descriptor == self._watch.fileno() for descriptor, _ in ready):
                # changes are read by the handful: being woken for each would take the command's time
                self._signals_come.poll(_GATHER_MS)
            self._watch.drain()  # before the exits are seen: what happened before the command's end is read before it
            for received in self._signals.read():
                self._pass_on(received.number, received.from_process)
            self._reap()
        self._watch.drain()
        survivors = () if self._is_alone else _descendants()
        assert self._status is not None
        return CommandOutcome(
            self._pid,
            os.waitstatus_to_exitcode(self._status),
            self._began_ns,
            self._ended_ns,
            time.time_ns(),
            self._left,
            survivors,
        )

    def _pass_on(self, number: int, from_process: bool) -> None:
        if number not in PASSED_ON:
            return
        if self._status is not None:
            self._gives_up = number in {signal.SIGINT, signal.SIGTERM}
        elif from_process:
            # it has not been waited for, so the pid is still its own
            os.kill(self._pid, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._is_alone = True
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._status, self._ended_ns = status, time.time_ns()
                self._left = _descendants()


def _descendants() -> tuple[Process, ...]:
    from shmlease.auditor.run.process_tree import descendants_of  # noqa: PLC0415 - a command is started without it

    return descendants_of(os.getpid())
