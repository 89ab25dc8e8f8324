"""Work that is done whole in a thread of its own, or said not to have been begun."""

from __future__ import annotations

import pytest

from shmlease.system import primitives
from shmlease.system.primitives import complete


def test_work_is_done_and_what_it_raises_is_raised() -> None:
    done: list[int] = []
    complete(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(ZeroDivisionError):
        complete(lambda: 1 / 0)


def test_thread_that_had_no_memory_to_begin_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first step fails where no Python code of it runs yet."""
    monkeypatch.setattr(primitives, "start_new_thread", lambda function, arguments: None)
    with pytest.raises(MemoryError):
        complete(lambda: None)


def test_work_is_done_here_if_no_thread_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(function: object, arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(primitives, "start_new_thread", refused)
    done: list[int] = []
    complete(lambda: done.append(1))
    assert done == [1]
