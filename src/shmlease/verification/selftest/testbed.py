"""The testbed that one leak is planted in: names that nobody else uses, processes that end with it, and nothing
left behind.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from shmlease.auditor.audit import audit, begin_scope
from shmlease.auditor.judge.detect_system import coverage_of
from shmlease.auditor.judge.evidence import Scope
from shmlease.auditor.judge.findings import Finding, Report
from shmlease.auditor.observe.observer import Observer
from shmlease.errors import LeaseError
from shmlease.system.interpreter import find_interpreter, module_command

__all__ = ["Actor", "NotPermittedError", "Testbed"]

_PATIENCE_S: Final = 20.0
# Another program may change /dev/shm while its memory is counted; the count is then taken again.
_ATTEMPTS: Final = 5
_ACTS: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "acts.py")
_LEASE_ACTS: Final = "shmlease.verification.selftest.lease_acts"
_SHM: Final = "/dev/shm"


class NotPermittedError(LeaseError):
    """This system, or this user, does not permit what was to be planted; the message says what."""


class Actor:
    """A process of the selftest, and what it replied when it was ready."""

    def __init__(self, process: subprocess.Popen[str], reply: str) -> None:
        self.process = process
        self.pid = process.pid
        self.reply = reply

    def kill(self) -> None:
        """End it with SIGKILL, and wait."""
        self.process.kill()
        self.process.wait()


class Testbed:
    """Where one leak, or its clean twin, is planted; a context manager that clears it.

    Rules that are `ignored` do not look. `concerns` tells a finding about what was planted here from findings about the
    rest of the system.
    """

    def __init__(self, ignored: frozenset[str] = frozenset()) -> None:
        self.token = secrets.token_hex(4)
        self.ignored = ignored
        self._scope: Scope | None = None
        self._foreign = False
        self._stack = ExitStack()
        self._marks: set[str] = {self.token}
        self._names: set[str] = set()
        self._pids: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def path(self, name: str = "segment") -> str:
        """A path in /dev/shm that nobody else uses; what is there at the end is removed."""
        path = f"{_SHM}/shmlease-selftest-{self.token}-{name}"
        self._stack.callback(_unlink, path)
        return path

    def directory(self) -> str:
        """A new directory in /dev/shm; it is to be empty at the end."""
        path = f"{_SHM}/shmlease-selftest-{self.token}"
        os.mkdir(path, 0o700)
        self._stack.callback(os.rmdir, path)
        return path

    def act(self, act: str, *arguments: str) -> Actor:
        """Have another process do one of the acts of `acts`; it is ended with the testbed.

        Raises
        ------
        NotPermittedError
            The system does not permit it.
        """
        return self._start([find_interpreter(), "-I", "-S", _ACTS, act, *arguments], act)

    def act_with_leases(self, act: str, *arguments: str) -> Actor:
        """The same with one of the acts of `lease_acts`."""
        return self._start(module_command(_LEASE_ACTS, act, *arguments), act)

    def _start(self, command: list[str], act: str) -> Actor:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._stack.callback(_end, process)
        self._pids.add(process.pid)
        assert process.stdout is not None
        word, _, reply = process.stdout.readline().strip().partition(" ")
        if word == "cannot":
            raise NotPermittedError(reply)
        if word != "ready":
            error = process.communicate()[1].strip().rpartition("\n")[2]
            raise NotPermittedError(f"the process that was to {act.replace('_', ' ')} ended: {error or process.returncode}")
        return Actor(process, reply)

    def wait_until_ended(self, actor: Actor) -> None:
        """Wait until a process that does not stay has gone."""
        actor.process.wait(_PATIENCE_S)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` holds.

        Raises
        ------
        LeaseError
            It never did.
        """
        deadline_s = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise LeaseError(f"the selftest waited {_PATIENCE_S:.0f} s in vain: {what}")
            time.sleep(0.005)

    def begin_scope(self) -> None:
        """From now on, audit only what is new."""
        self._scope = begin_scope("the selftest", foreign=False)

    def audit(self) -> Report:
        """What an audit says now."""
        return audit(scope=self._scope, ignore=self.ignored, foreign=self._foreign)

    def look_abroad(self) -> None:
        """Audit other mount namespaces as well: what others leak there takes time."""
        self._foreign = True

    def require_count(self) -> None:
        """Refuse where memory in use cannot be counted, and dark memory therefore not be found.

        Raises
        ------
        NotPermittedError
            It cannot, and why.
        """
        for _ in range(_ATTEMPTS):
            indexed = Observer(foreign=False).observe()
            for dark_memory in indexed.dark_memory:
                if dark_memory.usage.root.path == _SHM:
                    # done after the processes have ended; a ring is taken down a while after its process
                    self._stack.callback(self._wait_until_not_darker_than, dark_memory.dark_bytes)
                    return
        gaps = (gap for gap in coverage_of(indexed).gaps if _SHM in gap.what)
        raise NotPermittedError(f"memory cannot be counted: {'; '.join(f'{gap.what}: {gap.why}' for gap in gaps)}")

    def _wait_until_not_darker_than(self, dark_bytes: int) -> None:
        def is_bright() -> bool:
            dark_memory = Observer(foreign=False).observe().dark_memory
            return all(one.dark_bytes <= dark_bytes for one in dark_memory if one.usage.root.path == _SHM)

        self.wait_for(is_bright, "for unlinked memory to be freed after its last holder had ended")

    def at_the_end(self, action: Callable[[], object]) -> None:
        """Have `action` done when the testbed is cleared; the last comes first."""
        self._stack.callback(action)

    def mark(self, text: str) -> None:
        """Findings whose name, path, label or registry contains `text` are about what was planted here."""
        self._marks.add(text)

    def mark_exactly(self, name: str) -> None:
        """Findings of that name are about what was planted here."""
        self._names.add(name)

    def concerns(self, finding: Finding) -> bool:
        """Whether `finding` is about what was planted here."""
        texts = (finding.name, finding.path, finding.label, finding.registry)
        if finding.name in self._names or any(mark in text for mark in self._marks for text in texts):
            return True
        return any(holder.pid in self._pids for holder in finding.holders)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _end(process: subprocess.Popen[str]) -> None:
    """Close its stdin, on which it waits; kill it if that does not help."""
    try:
        process.communicate(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
