"""Processes come from the nursery, end as they like, and are buried once."""

from __future__ import annotations

import os
import signal

import pytest

from shmlease.stress.nursery import Nursery


def test_a_child_calls_what_it_was_asked_to() -> None:
    with Nursery() as nursery:
        assert nursery.fork("os:_exit", 7).bury() == 7


def test_a_killed_child_says_so() -> None:
    with Nursery() as nursery:
        child = nursery.fork("signal:pause")
        assert child.is_alive
        child.kill()
        assert child.bury() == -signal.SIGKILL
        child.signal(signal.SIGTERM)  # nobody is hit


def test_no_child_outlives_the_nursery() -> None:
    with Nursery() as nursery:
        pids = [nursery.fork("signal:pause").pid for _ in range(3)]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_nursery_that_cannot_begin_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ChildProcessError, match="code 1"):
        Nursery(["no_such_module"])
    assert "no_such_module" in capfd.readouterr().err
