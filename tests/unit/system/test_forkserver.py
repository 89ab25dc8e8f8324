"""Processes come from the fork server, end as they like, and are buried once."""

from __future__ import annotations

import os
import signal

import pytest

from rig.until import until
from shmlease.system.forkserver import ForkServer


def test_a_child_calls_what_it_was_asked_to() -> None:
    with ForkServer() as forkserver:
        assert forkserver.fork("os:_exit", 7).reap() == 7


def test_a_killed_child_says_so() -> None:
    with ForkServer() as forkserver:
        child = forkserver.fork("signal:pause")
        assert child.is_alive
        child.kill()
        assert child.reap() == -signal.SIGKILL
        child.signal(signal.SIGTERM)  # nobody is hit


def test_no_child_outlives_the_forkserver() -> None:
    with ForkServer() as forkserver:
        pids = [forkserver.fork("signal:pause").pid for _ in range(3)]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_forkserver_that_cannot_begin_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    with ForkServer(["no_such_module"]) as forkserver, pytest.raises(ChildProcessError, match="code 1"):
        forkserver.fork("signal:pause")
    assert "no_such_module" in capfd.readouterr().err


def test_a_descriptor_is_handed_over() -> None:
    ours, theirs = os.pipe()
    with ForkServer() as forkserver:
        child = forkserver.fork("os:close", descriptor=theirs)
        os.close(theirs)
        assert os.read(ours, 1) == b""  # nobody has the other end: the fork server did not keep it
        assert child.reap() == 0
    os.close(ours)


@pytest.mark.parametrize("number", [signal.SIG_DFL, signal.SIG_IGN])
def test_children_outlive_a_forkserver_that_leaves_but_not_its_close(number: signal.Handlers) -> None:
    before = signal.signal(signal.SIGCHLD, number)
    try:
        forkserver = ForkServer(detached=True)
        child = forkserver.fork("signal:pause")
        assert os.getsid(child.pid) == forkserver.pid != os.getsid(0)
        forkserver.leave()
        until(lambda: not is_running(forkserver.pid))
        assert child.is_alive
        with pytest.raises(ChildProcessError, match="has ended"):
            forkserver.fork("signal:pause")
        forkserver.close()
        until(lambda: not is_running(child.pid))
    finally:
        signal.signal(signal.SIGCHLD, before)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
