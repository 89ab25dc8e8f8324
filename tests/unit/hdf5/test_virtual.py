"""Virtual datasets over files that sinks have written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import shmlease
from shmlease.hdf5.consolidation import consolidate
from shmlease.hdf5.virtual import join, parts_of

ROWS = np.dtype([("name", "S4"), ("value", "<f8"), ("side", "i1")])
LABELS = {"side": ["buy", "sell"]}


def table(start: int, stop: int, dtype: Any = ROWS) -> np.ndarray[Any, Any]:
    rows = np.zeros(stop - start, dtype)
    rows["name"], rows["value"], rows["side"] = b"ab", np.arange(start, stop), np.arange(start, stop) % 2
    return rows


def write_shard(path: Path, start: int, stop: int, dtype: Any = ROWS) -> str:
    with shmlease.HDF5Sink(path) as sink:
        for middle in (start, (start + stop) // 2):
            sink.append("rows", table(middle, stop if middle != start else (start + stop) // 2, dtype), labels=LABELS)
        sink.source("rows", path=f"{path.stem}.txt", rows=(0, stop - start), size_bytes=7, digest="crc32:00000000", lines=9)
        sink.attributes("rows")["units"] = "V"
    return str(path)


@pytest.fixture
def joined(tmp_path: Path) -> Path:
    """A file over two shards, in a directory that has been moved since."""
    made = tmp_path / "made"
    made.mkdir()
    shards = [write_shard(made / "a.h5", 0, 50_000), write_shard(made / "b.h5", 50_000, 70_000)]
    join(str(made / "all.h5"), {"rows": [part for shard in shards for part in parts_of(shard)]})
    moved = tmp_path / "moved"
    made.rename(moved)
    return moved / "all.h5"


def test_virtual_dataset_has_the_rows_and_the_records_of_its_parts(joined: Path) -> None:
    with h5py.File(joined) as file:
        assert file["rows"].is_virtual
        np.testing.assert_array_equal(file["rows"][...], table(0, 70_000))
        assert h5py.check_enum_dtype(file["rows"].dtype["side"]) == {"buy": 0, "sell": 1}
        assert file["rows"].attrs["units"] == "V"
    (check,) = shmlease.verify(joined).datasets
    assert not check.mismatches
    assert [(source.path, source.start, source.stop) for source in check.sources] == [
        ("a.txt", 0, 50_000),
        ("b.txt", 50_000, 70_000),
    ]


def test_missing_part_is_named(joined: Path, tmp_path: Path) -> None:
    (joined.parent / "b.h5").unlink()
    report = shmlease.verify(joined)
    assert not report.is_good
    assert str(report.mismatches[0]) == "rows rows: expected the file b.h5, seen none"
    with pytest.raises(shmlease.SinkError, match=r"b\.h5, where rows of '/rows' are, is not there"):
        consolidate(joined, tmp_path / "one.h5")
    assert not os.path.exists(tmp_path / "one.h5")


def test_part_that_was_changed_is_found(joined: Path, tmp_path: Path) -> None:
    with h5py.File(joined.parent / "b.h5", "r+") as file:
        file["rows"][7] = (b"xy", 0, 0)
    assert not shmlease.verify(joined).is_good
    with pytest.raises(shmlease.SinkError, match="shmlease verify says which"):
        consolidate(joined, tmp_path / "one.h5")
    assert not os.path.exists(tmp_path / "one.h5")


def test_consolidated_file_is_as_if_one_sink_had_written_it(joined: Path, tmp_path: Path) -> None:
    consolidate(joined, tmp_path / "one.h5")
    with h5py.File(joined) as virtual, h5py.File(tmp_path / "one.h5") as plain:
        assert not plain["rows"].is_virtual
        np.testing.assert_array_equal(plain["rows"][...], virtual["rows"][...])
        assert plain["rows"].dtype == virtual["rows"].dtype
        assert h5py.check_enum_dtype(plain["rows"].dtype["side"]) == {"buy": 0, "sell": 1}
        assert dict(plain["rows"].attrs) == dict(virtual["rows"].attrs)
    assert shmlease.verify(tmp_path / "one.h5").is_good
    with pytest.raises(shmlease.SinkError, match="there already"):
        consolidate(joined, tmp_path / "one.h5")


def test_parts_that_differ_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    longer = np.dtype([("name", "S5"), ("value", "<f8"), ("side", "i1")])
    shards = [write_shard(tmp_path / "a.h5", 0, 9), write_shard(tmp_path / "b.h5", 9, 20, longer)]
    with pytest.raises(shmlease.SinkError, match="give types with lengths"):
        join(str(tmp_path / "all.h5"), {"rows": [part for shard in shards for part in parts_of(shard)]})
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "b.h5"]
