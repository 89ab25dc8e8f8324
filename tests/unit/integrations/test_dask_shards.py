"""Which shard has what: every byte of every input once, in order, in groups of about the same size."""

from __future__ import annotations

import gzip
import importlib
import os
import sys
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

import dask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmlease.errors import IngestError
from shmlease.ingestion.reader import pack_reader
from shmlease.integrations.dask import shards as planning
from shmlease.integrations.dask.ingest import ingest_on
from shmlease.integrations.dask.shard_tasks import write_shard
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
    group, path = [FileRange(str(table), (1, 200_001))], str(tmp_path / "1.h5")
    with pytest.raises(IngestError, match="the workers and the client need a file system in common"):
        write_shard(group, path, {"workers": 0, "layout": schema})
    (tmp_path / "plan.json").touch()
    report = write_shard(group, path, {"workers": 0, "layout": schema})
    assert (report.rows, report.shared_peak_bytes) == (100_000, 0)
    again = write_shard(group, path, {"workers": 0, "layout": schema})
    assert again == replace(report, resumed_rows=100_000)
    (tmp_path / "1.h5.json").unlink()
    assert write_shard(group, path, {"workers": 0, "layout": schema}).resumed_rows == 0, "its report was lost"


def test_paths_of_a_reader_are_shared_out_though_they_have_no_size_and_are_never_cut(tmp_path: Path) -> None:
    addresses = [f"s3://bucket/{number}" for number in range(6)]
    plan = Shards.planned(str(tmp_path / "s"), addresses, None, (3, False), {}, resume=False)
    assert [[each.path for each in group] for group in plan.groups] == [addresses[:2], addresses[2:4], addresses[4:]]
    large = tmp_path / "large"
    large.write_text("1\n" * 50_000)
    plan = Shards.planned(str(tmp_path / "t"), [*addresses, str(large)], None, (4, True), {}, resume=False)
    assert [len(group) for group in plan.groups] == [3, 3, 1]
    assert plan.groups[-1] == [FileRange(str(large))]


@pytest.mark.parametrize("address", ["foo:bar", "xyz://host:1", "localhost", "tcp://no host:1"])
def test_an_address_that_is_none_is_told_at_once(address: str, tmp_path: Path) -> None:
    with pytest.raises(IngestError, match=r"is no address of a scheduler, such as tcp://host:8786"):
        ingest_on(address, ["a"], tmp_path / "out.h5")


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "100ms"}),
        pytest.raises(IngestError, match=r"the scheduler at tcp://127\.0\.0\.1:1 cannot be reached"),
    ):
        ingest_on("tcp://127.0.0.1:1", ["a"], tmp_path / "out.h5")


def test_a_reader_that_a_worker_cannot_import_fails_the_run_whatever_is_said_of_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def read(path): return [1]")
    monkeypatch.syspath_prepend(tmp_path)
    packed = pack_reader(importlib.import_module("only_here").read, runs_main=False)
    monkeypatch.undo()
    del sys.modules["only_here"]
    elsewhere = replace(packed, surroundings={})
    (tmp_path / "plan.json").touch()
    with pytest.raises(IngestError, match="reader only_here:read cannot be imported by a worker: ModuleNotFoundError"):
        write_shard([FileRange("a")], str(tmp_path / "1.h5"), {"workers": 0, "reader": elsewhere, "on_error": "skip"})
    assert not (tmp_path / "1.h5").exists()
