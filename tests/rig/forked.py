"""Tests that change their process, or that another thread would disturb, run in a child that has one thread."""

from __future__ import annotations

import functools
import os
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest

_SKIPPED = "skipped: "


def in_a_child(test: Callable[..., None]) -> Callable[..., None]:
    """Run `test` in a forked child; its failures and skips are those of the test."""

    @functools.wraps(test)
    def forked(*args: Any, **kwargs: Any) -> None:
        read_end, write_end = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking a process with threads
            child = os.fork()
        if child == 0:
            os.close(read_end)
            os.write(write_end, _outcome(functools.partial(test, *args, **kwargs)).encode())
            os._exit(0)
        os.close(write_end)
        with open(read_end, "rb") as pipe:
            outcome = pipe.read().decode()
        _, status = os.waitpid(child, 0)
        if outcome.startswith(_SKIPPED):
            pytest.skip(outcome.removeprefix(_SKIPPED))
        assert outcome == "passed", outcome or f"the child ended with {os.waitstatus_to_exitcode(status)}"

    return forked


def _outcome(test: Callable[[], None]) -> str:
    try:
        test()
    except pytest.skip.Exception as skip:
        return f"{_SKIPPED}{skip}"
    except BaseException:
        return traceback.format_exc()
    return "passed"
