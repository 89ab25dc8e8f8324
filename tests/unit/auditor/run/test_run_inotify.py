from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rig.neighbour import deep_directories
from shmlease.auditor.run import inotify
from shmlease.auditor.run.inotify import Watch


def changes(watch: Watch, below: Path) -> list[tuple[str, str]]:
    watch.drain()
    return [(os.path.relpath(change.path, below), "+" if change.appeared else "-") for change in watch.changes]


def test_files_that_come_and_go_are_noted_in_order(tmp_path: Path) -> None:
    with Watch(str(tmp_path)) as watch:
        (tmp_path / "a").touch()
        (tmp_path / "b").touch()
        (tmp_path / "a").unlink()
        assert changes(watch, tmp_path) == [("a", "+"), ("b", "+"), ("a", "-")]
    assert watch.lost == ""
    assert all(first.at_ns <= second.at_ns for first, second in zip(watch.changes, watch.changes[1:], strict=False))


def test_file_that_is_renamed_disappears_and_appears(tmp_path: Path) -> None:
    with Watch(str(tmp_path)) as watch:
        (tmp_path / "a").touch()
        (tmp_path / "a").rename(tmp_path / "b")
        assert changes(watch, tmp_path) == [("a", "+"), ("a", "-"), ("b", "+")]


def test_directory_made_meanwhile_is_watched_with_what_is_in_it_already(tmp_path: Path) -> None:
    with Watch(str(tmp_path)) as watch:
        (tmp_path / "folder" / "below").mkdir(parents=True)
        (tmp_path / "folder" / "below" / "early").touch()
        watch.drain()
        (tmp_path / "folder" / "below" / "late").touch()
        (tmp_path / "folder" / "below" / "early").unlink()
        assert changes(watch, tmp_path) == [
            ("folder/below/early", "+"),
            ("folder/below/late", "+"),
            ("folder/below/early", "-"),
        ]


def test_directory_of_a_registry_is_not_watched(tmp_path: Path) -> None:
    with Watch(str(tmp_path)) as watch:
        (tmp_path / "shmlease-ab12").mkdir()
        watch.drain()
        (tmp_path / "shmlease-ab12" / "s1").touch()
        assert changes(watch, tmp_path) == []


def test_nothing_is_read_when_nothing_happened(tmp_path: Path) -> None:
    with Watch(str(tmp_path)) as watch:
        assert changes(watch, tmp_path) == []
        assert watch.fileno() >= 0
    assert watch.fileno() == -1


def test_more_changes_than_are_kept_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inotify, "_MAX_CHANGES", 10)
    with Watch(str(tmp_path)) as watch:
        for number in range(12):
            (tmp_path / str(number)).touch()
        seen = changes(watch, tmp_path)
    assert seen[-1] == ("11", "+")
    assert len(seen) <= 10
    assert "forgotten" in watch.lost


def test_queue_that_overflowed_is_reported(tmp_path: Path) -> None:
    with open("/proc/sys/fs/inotify/max_queued_events") as file:
        limit = int(file.read())
    if limit > 20_000:
        pytest.skip(f"the queue holds {limit} events")
    with Watch(str(tmp_path)) as watch:
        for number in range(limit // 2 + 10):
            name = tmp_path / str(number)
            name.touch()
            name.unlink()
        watch.drain()
    assert "faster" in watch.lost


def test_directory_that_is_not_there_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Watch(str(tmp_path / "file")) as watch:
        watch.drain()
        assert watch.changes == []


def test_directories_without_end_are_watched_to_a_depth_and_that_is_reported(tmp_path: Path) -> None:
    with Watch(str(tmp_path)) as watch:
        deep_directories(str(tmp_path / "d"))
        (tmp_path / "file").touch()
        assert ("file", "+") in changes(watch, tmp_path)
    assert "deep" in watch.lost
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # shutil.rmtree goes no deeper than Python's stack


def test_directory_is_watched_at_once_though_files_came_before_it(tmp_path: Path) -> None:
    """What only concerns files is parsed later."""
    with Watch(str(tmp_path)) as watch:
        (tmp_path / "first").touch()
        watch.drain()
        (tmp_path / "folder").mkdir()
        watch.drain()
        (tmp_path / "folder" / "second").touch()
        assert changes(watch, tmp_path) == [("first", "+"), ("folder/second", "+")]
