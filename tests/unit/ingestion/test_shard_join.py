"""Shards of some files, or of ranges of them, are together what one ingest of the files makes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import shmlease
from shmlease.client.handle import RegistryHandle
from shmlease.errors import IngestError, SinkError
from shmlease.hdf5.consolidation import consolidate
from shmlease.ingestion.ingest import ingest
from shmlease.ingestion.load_plan import plan_load
from shmlease.ingestion.shard_join import join_shards

OPTIONS: dict[str, Any] = {
    "workers": 0,
    "capacity": "4MiB",
    "delimiter": ",",
    "header": True,
    "units": True,
    "skip_after_header": 1,
}
LINES = 900
READ: dict[str, dict[str, Any]] = {
    "rows": {"dtype": "name:S6,n:i4,x:f8"},
    "columns": {"dtype": "name:S6,n:i4,x:f8", "columnar": True},
    "variable": {"dtype": "name:vlen6,n:i4,x:f8"},
    "variable columns": {"dtype": "name:vlen6,n:i4,x:f8", "columnar": True},
    "matrix": {"matrix": "f4", "columns": [1]},
    "transposed": {"matrix": "f4", "columns": [1], "transpose": True},
}


def contents(path: Path) -> dict[str, Any]:
    """Values and attributes of all objects; types of columns, where strings are of variable length."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:

        def note(name: str, item: Any) -> None:
            values = (item[...].tolist(), str(item.dtype), item.shape) if isinstance(item, h5py.Dataset) else None
            found[name] = values, {key: str(value) for key, value in item.attrs.items()}

        note("/", file)
        file.visititems(note)
    return found


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    """Three tables with a header and units; some lines are malformed."""
    made = []
    for number in range(3):
        lines = [f"s{line % 11},{line * 7 % 1000},{line}.5\n" for line in range(LINES * (number + 1) // 2)]
        for place in (0, 200, 300, len(lines) - 1):
            lines[place] = f"s1,oops {place},2\n" if number != 1 else lines[place]
        made.append(tmp_path / f"t{number}.csv")
        made[-1].write_text("name,n,x\n,m,V\n" + "".join(lines))
    return made


def write_shards(tables: list[Path], folder: Path, cuts: list[int], **options: Any) -> tuple[list[str], list[Any]]:
    """A shard for the bytes between every two of `cuts`, through all files, one behind the other."""
    shards, reports = [], []
    starts = [0, *itertools.accumulate(table.stat().st_size for table in tables)]
    for start, stop in itertools.pairwise([0, *sorted(cut * starts[-1] // 100 for cut in cuts), starts[-1]]):
        ranges = {
            str(table): (max(start - first, 0), min(stop, last) - first)
            for table, (first, last) in zip(tables, itertools.pairwise(starts), strict=True)
            if first < stop and start < last
        }
        shards.append(str(folder / f"{len(shards)}.h5"))
        reports.append(ingest(list(ranges), shards[-1], ranges=ranges, **OPTIONS, **options))
    return shards, reports


@pytest.mark.parametrize(
    ("how", "into"), [(how, None) for how in READ] + [(how, "all/of them") for how in ("rows", "columns", "transposed")]
)
def test_joined_and_consolidated_they_are_the_file_that_one_ingest_makes(
    tables: list[Path], tmp_path: Path, registry: RegistryHandle, how: str, into: str | None
) -> None:
    options: dict[str, Any] = {"into": into, "on_error": "quarantine", "registry": registry, **READ[how]}
    plain = ingest(tables, tmp_path / "plain.h5", **OPTIONS, **options)
    shards, reports = write_shards(tables, tmp_path, [9, 20, 34, 70, 90], **options)
    out, rejected = str(tmp_path / "out.h5"), str(tmp_path / "rejected.h5")
    joined = join_shards(out, shards, into, is_columnar=bool(options.get("columnar")), rejected=rejected)
    assert joined.files == plain.files
    assert [(each.name, each.rows) for each in joined.datasets] == [(each.name, each.rows) for each in plain.datasets]
    lines = [joined.in_file(number, each) for number, report in enumerate(reports) for each in report.rejected]
    assert tuple(lines) == plain.rejected
    assert len(lines) == 8
    assert shmlease.verify(out, sources=tmp_path).is_good
    consolidate(out, tmp_path / "one.h5")
    assert contents(tmp_path / "one.h5") == contents(tmp_path / "plain.h5")


def test_a_range_is_resumed_where_it_was_interrupted(tmp_path: Path, registry: RegistryHandle) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "out.h5"
    good = "".join(f"{line % 7919},{line}\n" for line in range(300_000))
    bad = good.rindex("\n", 0, len(good) * 95 // 100) + 1
    table.write_text(good[:bad] + "x" + good[bad + 1 :])
    options: dict[str, Any] = {
        **OPTIONS,
        "header": False,
        "units": False,
        "skip_after_header": 0,
        "dtype": "a:i8,b:i8",
        "registry": registry,
        "ranges": {table: (len(good) // 4, len(good))},
    }
    changed_ns = table.stat().st_mtime_ns
    with pytest.raises(IngestError, match=rf"t\.csv:{good[:bad].count(chr(10)) + 1}: a: "):
        ingest(table, out, **options)
    changed = good.index("\n", len(good) // 4 + 20)
    rewritten, elsewhere = good[:changed] + "0" + good[changed + 1 :], "9" + good[1:]
    table.write_text(rewritten)
    os.utime(table, ns=(changed_ns, changed_ns))
    with pytest.raises(IngestError, match="was rewritten since the interrupted run read it"):
        ingest(table, out, resume=True, **options)
    table.write_text(elsewhere)
    os.utime(table, ns=(changed_ns, changed_ns))
    assert ingest(table, out, resume=True, **options).resumed_rows > 50_000
    with h5py.File(out) as file:
        rows = file["t"]["b"][...].tolist()
    assert rows == list(range(rows[0], 300_000))
    assert good[: len(good) // 4].count("\n") <= rows[0] <= good[: len(good) // 4].count("\n") + 1


def test_an_error_names_the_line_of_the_file(tables: list[Path], tmp_path: Path) -> None:
    table = tables[0]
    middle = table.read_text().index("oops 300") - 50
    with pytest.raises(IngestError, match=r"t0\.csv:303: n: "):
        ingest(table, tmp_path / "out.h5", ranges={table: (middle, table.stat().st_size)}, **OPTIONS, **READ["rows"])


def test_a_part_that_is_missing_is_named(tables: list[Path], tmp_path: Path, registry: RegistryHandle) -> None:
    shards, _ = write_shards(tables[1:2], tmp_path, [30, 60], registry=registry, **READ["rows"])
    for left in (shards[:2], shards[1:], shards[::2]):
        with pytest.raises(SinkError, match=r"t1\.csv: (what was read of it goes on after byte|has \d+ bytes, and) "):
            join_shards(str(tmp_path / "out.h5"), left, None, is_columnar=False, rejected=str(tmp_path / "rejected.h5"))
    assert not (tmp_path / "out.h5").exists()


def test_a_range_of_a_file_that_is_not_read_is_an_error(tables: list[Path], tmp_path: Path) -> None:
    with pytest.raises(IngestError, match=r"other\.csv: a range of it is given, and it is not one of the files to read"):
        ingest(tables, tmp_path / "out.h5", ranges={"other.csv": (0, 5)}, **OPTIONS, **READ["rows"])
    with pytest.raises(TypeError, match="ranges says how text is read"):
        ingest(tables, tmp_path / "out.h5", ranges={tables[0]: (0, 5)}, reader=print)


def arrays(path: str) -> Iterator[Any]:
    """Large and small, whole and in parts, of some forms; fails for some paths, before or after something came."""
    number = int(Path(path).stem[1:])
    if number == 2:
        raise ValueError("nothing can be read of it")
    yield "scalar", np.float32(2.5), {"units": "K"}
    yield {"flags": np.arange(number) % 2 == 0, "deep/grid": np.arange(number * 9_000, dtype=">f4").reshape(-1, 2, 25)}
    for part in range(number):
        yield "parts", np.full((900, 4), part, [("i", "<i4"), ("s", "S3")]), {f"of {number}": part}
    yield "wide", np.empty((3, 0), "u1")
    yield "none", np.empty((0, 4), "i2")
    if number == 5:
        yield "often", np.full(3, number)
        raise OSError("no more")
    yield "often", np.full(3, number)


def filled(path: str, out: Any) -> None:
    out("x", int(Path(path).stem[1:]), "f8")[:] = 7


def alone(path: str) -> Any:
    return np.full((int(Path(path).stem[1:]), 2), 3)


@pytest.mark.parametrize("into", [None, "all/of them", "/"])
@pytest.mark.parametrize("reader", [arrays, filled, alone])
def test_shards_of_a_reader_are_together_the_file_that_one_ingest_makes(
    reader: Callable[..., Any], into: str | None, tmp_path: Path
) -> None:
    paths = []
    for number in range(1, 7):
        paths.append(str(tmp_path / ("ab"[number % 2]) / f"t{number}.bin"))
        Path(paths[-1]).parent.mkdir(exist_ok=True)
        Path(paths[-1]).write_bytes(b"x" * number)
    if into == "/" and reader is alone:
        pytest.skip("an array without a name needs a group")
    on_error: Any = "skip" if into == "/" else "quarantine"
    options: dict[str, Any] = {"reader": reader, "into": into, "on_error": on_error, "workers": 0, "attributes": {"run": 7}}
    plain = ingest(paths, tmp_path / "plain.h5", **options)
    shards = [str(tmp_path / f"{number}.h5") for number in range(3)]
    for shard, some in zip(shards, (paths[:1], paths[1:4], paths[4:]), strict=True):
        ingest(some, shard, **options)
    groups = dict(zip(paths, plan_load(paths, reader, into, "gzip", on_error).groups, strict=True))
    out, rejected = str(tmp_path / "out.h5"), None if on_error == "skip" else str(tmp_path / "rejected.h5")
    joined = join_shards(out, shards, None if into is None else into.strip("/"), rejected=rejected, groups=groups)
    assert joined.files == tuple(
        replace(file, rejected=0, size_bytes=0 if not file.rows else file.size_bytes) for file in plain.files
    )
    assert joined.datasets == plain.datasets
    assert shmlease.verify(out, sources=tmp_path).is_good
    consolidate(out, tmp_path / "one.h5")
    assert contents(tmp_path / "one.h5") == contents(tmp_path / "plain.h5")


def scalar(path: str) -> Any:
    return {"n": np.float64(Path(path).stem == "a")}


def other_rank(path: str) -> Any:
    return {"n": np.zeros(() if Path(path).stem == "a" else 2)}


def other_type(path: str) -> Any:
    return {"n": np.zeros(2, "i4" if Path(path).stem == "a" else "f4")}


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (scalar, r"dataset 'all/n' is a scalar, and .*/a\.h5 has another than .*/b\.h5"),
        (other_rank, r"dataset 'all/n' is '<f8' \(\) in .*/a\.h5 and '<f8' \(2,\) in .*/b\.h5$"),
        (other_type, r"dataset 'all/n' is '<i4' \(2,\) in .*/a\.h5 and '<f4' \(2,\) in .*/b\.h5$"),
    ],
)
def test_arrays_that_do_not_go_together_are_not_joined(reader: Callable[..., Any], message: str, tmp_path: Path) -> None:
    shards = [str(tmp_path / f"{name}.h5") for name in "ab"]
    for shard in shards:
        ingest(shard.replace(".h5", ".bin"), shard, reader=reader, into="all", workers=0)
    groups = {shard.replace(".h5", ".bin"): "all" for shard in shards}
    with pytest.raises(SinkError, match=message):
        join_shards(str(tmp_path / "out.h5"), shards, "all", groups=groups)
    assert not (tmp_path / "out.h5").exists()
