"""Processes come from the fork server, end as they like, and are buried once."""

from __future__ import annotations

import os
import signal

import pytest

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
    with pytest.raises(ChildProcessError, match="code 1"):
        ForkServer(["no_such_module"])
    assert "no_such_module" in capfd.readouterr().err
