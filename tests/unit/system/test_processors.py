"""Idle processors: what the system says runs, taken from what this process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmlease.system.processors import count_running, idle_processors


def test_what_runs_is_the_fourth_field() -> None:
    assert count_running("4.83 6.54 6.93 2/96 3358\n") == 2


@pytest.mark.parametrize("text", ["", "4.83 6.54", "4.83 6.54 6.93 96 3358\n", "4.83 6.54 6.93 x/96 3358\n"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"loadavg|invalid literal"):
        count_running(text)


@pytest.mark.parametrize(
    ("running", "allowed", "idle"), [(1, 4, 4), (2, 4, 3), (4, 4, 1), (9, 4, 1), (1, 2, 2), (2, 2, 2), (4, 2, 1)]
)
def test_idle_are_those_that_nobody_else_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: int, allowed: int, idle: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)))
    (tmp_path / "loadavg").write_text(f"1.00 1.00 1.00 {running}/96 3358\n")
    assert idle_processors(f"{tmp_path}/loadavg") == idle


@pytest.mark.parametrize("text", [None, "nonsense"])
def test_all_count_as_idle_where_the_system_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    if text is not None:
        (tmp_path / "loadavg").write_text(text)
    assert idle_processors(f"{tmp_path}/loadavg") == 3
