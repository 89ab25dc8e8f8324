"""Tests that remove things, or count all there is, run in a /dev/shm of their own."""

from __future__ import annotations

import functools
import os
import traceback
import warnings
from collections.abc import Callable

import pytest

from leasehold.errors import UnsupportedPlatformError
from leasehold.runner.isolation import enter_isolation


def isolated(test: Callable[[], None]) -> Callable[[], None]:
    """Run `test`, which takes no fixtures, in a forked child that has an empty /dev/shm of its own."""

    @functools.wraps(test)
    def in_a_child() -> None:
        read_end, write_end = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking a process with threads
            child = os.fork()
        if child == 0:
            os.close(read_end)
            os.write(write_end, _outcome(test).encode())
            os._exit(0)
        os.close(write_end)
        with open(read_end, "rb") as pipe:
            outcome = pipe.read().decode()
        os.waitpid(child, 0)
        if outcome.startswith("skip "):
            pytest.skip(outcome)
        assert outcome == "passed", outcome

    return in_a_child


def _outcome(test: Callable[[], None]) -> str:
    try:
        enter_isolation()
    except UnsupportedPlatformError as refusal:
        return f"skip this system has no private /dev/shm: {refusal}"
    try:
        test()
    except BaseException:
        return traceback.format_exc()
    return "passed"
