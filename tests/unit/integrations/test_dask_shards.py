"""Which shard has what: every byte of every input once, in order, in groups of about the same size."""

from __future__ import annotations

import gzip
import os
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmlease.errors import IngestError
from shmlease.integrations.dask import shards as planning
from shmlease.integrations.dask.ingest import _write_shard
from shmlease.integrations.dask.shards import FileRange, Shards
from shmlease.text.schema import Schema


def planned(folder: Path, names: list[str], shards: int, *, resume: bool = False) -> list[list[FileRange]]:
    return Shards.planned(str(folder / "s"), names, Schema(), (shards, True), {"paths": names}, resume=resume).groups


@given(st.lists(st.integers(0, 900), min_size=1, max_size=9), st.integers(1, 12))
def test_shards_have_every_byte_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, lines: list[int], shards: int
) -> None:
    folder = tmp_path_factory.mktemp("files")
    names = [str(folder / f"{number}") for number in range(len(lines))]
    for name, count in zip(names, lines, strict=True):
        Path(name).write_bytes(b"1\n" * count)
    groups = planned(folder, names, shards)
    assert 1 <= len(groups) <= shards
    for group in groups:
        assert len({each.path for each in group}) == len(group), "a shard has a file once"
    units = [each for group in groups for each in group]
    assert [path for path, _ in groupby(each.path for each in units)] == names
    sizes = [os.path.getsize(name) for name in names]
    for name, size in zip(names, sizes, strict=True):
        ranges = [each.bytes or (0, size) for each in units if each.path == name]
        assert (ranges[0][0], ranges[-1][1]) == (0, size)
        assert all(one[1] == other[0] for one, other in pairwise(ranges))
    of_groups = [
        sum((each.bytes[1] - each.bytes[0]) if each.bytes else sizes[names.index(each.path)] for each in group)
        for group in groups
    ]
    assert max(of_groups) <= 2.5 * sum(sizes) / shards + 2


def test_what_cannot_be_read_in_parts_and_what_is_small_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(os.urandom(9000).hex().encode()))
    (tmp_path / "b").write_text("1\n" * 5000)
    names = [str(tmp_path / "a.gz"), str(tmp_path / "b")]
    assert [[each.bytes is None for each in group] for group in planned(tmp_path, names, 4)] == [[True], [False], [False]]
    monkeypatch.setattr(planning, "_LEAST_BYTES", 9000)
    plan = Shards.planned(str(tmp_path / "t"), names, Schema(), (8, False), {}, resume=False)
    assert [each.bytes for group in plan.groups for each in group] == [None, None]


def test_a_plan_is_that_of_the_interrupted_run_until_a_file_that_was_cut_is_changed(tmp_path: Path) -> None:
    table = tmp_path / "a"
    table.write_text("1\n" * 5000)
    groups = planned(tmp_path, [str(table)], 3)
    assert planned(tmp_path, [str(table)], 5, resume=True) == groups
    (tmp_path / "s" / "00000.h5").touch()
    table.write_text("1\n" * 6000)
    assert planned(tmp_path, [str(table)], 5, resume=True) != groups
    assert os.listdir(tmp_path / "s") == ["plan.json"]


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    table = tmp_path / "a"
    table.write_text("1\n" * 50)
    plan = Shards.planned(str(tmp_path / "s"), [str(table)], Schema(), (2, True), {}, resume=False)
    plan.require_unchanged()
    table.write_text("1\n" * 51)
    with pytest.raises(IngestError, match="was changed while it was read"):
        plan.require_unchanged()


def test_a_shard_needs_no_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a registry was started")

    monkeypatch.setattr("shmlease.client.registry.Registry.__init__", started)
    table = tmp_path / "a.txt"
    table.write_text("1\n" * 200_000)
    schema = Schema().with_dtype("n:i4")
    report = _write_shard([FileRange(str(table), (1, 200_001))], str(tmp_path / "1.h5"), {"workers": 0, "layout": schema})
    assert report is not None
    assert (report.rows, report.shared_peak_bytes) == (100_000, 0)
