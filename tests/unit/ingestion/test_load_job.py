"""What a reader gives becomes the same file in whatever order workers do it, and however often it is interrupted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from shmlease.errors import IngestError
from shmlease.hdf5 import HDF5Sink, verify
from shmlease.ingestion.bad_rows import BadRows
from shmlease.ingestion.budget import Budget
from shmlease.ingestion.coordinator import Coordinator
from shmlease.ingestion.load_job import LoadJob
from shmlease.ingestion.load_plan import plan_load
from shmlease.ingestion.reader import StepLimit
from shmlease.units import parse_bytes

BUDGET = Budget(
    block_bytes=300_000, step_bytes=600_000, parse_bytes=600_000, chunks_a_task=2, encode_bytes=2 << 20, limit_bytes=8 << 20
)
PAIR = np.dtype([("i", "<i4"), ("x", "<f8")], align=True)


class InterruptedRunError(Exception):
    """As a kill would, but in this process."""


def size_of(path: str) -> int:
    return int(Path(path).read_text())


def arrays(path: str):
    """Large and small, in parts and as a whole, some larger than a chunk."""
    size = size_of(path)
    yield "index", np.arange(size)
    yield "grid", np.arange(size * 5_000, dtype=">f4").reshape(-1, 2, 25)
    yield "scalar", np.float32(2.5), {"units": "K"}
    buffer = np.empty((1700, 3), "i4")
    for number in range(size * 10):
        buffer[:] = number
        yield "parts", buffer  # the same memory again and again
        if number % 7 == 0:
            yield {"often": np.full(3, number, PAIR)}
    yield "none", np.empty((0, 4), "u1")


def expected(*paths: Path) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for path in paths:
        for given in arrays(str(path)):
            for name, array in given.items() if isinstance(given, dict) else [given[:2]]:
                found.setdefault(name, []).append(np.array(array))
    return {
        name: each[0] if name == "scalar" else np.concatenate(each, dtype=each[0].dtype) for name, each in found.items()
    }


def contents(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[...], {key: str(value) for key, value in item.attrs.items()}

    with h5py.File(path) as file:
        file.visititems(note)
    return found


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, (values, attributes) in first.items():
        assert values.dtype == second[name][0].dtype
        assert np.array_equal(values, second[name][0]), name
        assert attributes == second[name][1], name


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    sizes = {"a.txt": 5, "b.txt": 1, "c.txt": 9, "d.txt": 2}
    for name, size in sizes.items():
        (tmp_path / name).write_text(str(size))
    return [tmp_path / name for name in sizes]


def run(
    paths: list[Path],
    out: Path,
    pool: Any,
    registry: Any,
    *,
    reader: Callable[..., Any] = arrays,
    into: str | None = None,
    on_error: Any = "fail",
    resume: bool = False,
    results: float = float("inf"),
) -> LoadJob:
    """Read the paths; interrupted after so many results."""
    plan = plan_load(paths, reader, into, "gzip", on_error)
    sink = HDF5Sink(out, encoders=1, resume=resume, keep_partial=True)
    before = sink.completed()
    position = None if before.position is None else before.position["open"].get("reader")
    job = LoadJob(plan, sink, registry, BadRows(on_error, sink), StepLimit(BUDGET.block_bytes), 2, 3, position, {"run": 7})
    wait, left = pool.wait, [results]

    def limited(timeout_s: float) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedRunError
        return wait(timeout_s)

    pool.wait = limited
    coordinator = Coordinator(iter([job]), pool, sink, BUDGET, 2, {"job": "test"}, lambda _: None)
    try:
        coordinator.run()
    except BaseException:
        coordinator.abandon()
        sink.abort(keep_partial=True)
        raise
    sink.close()
    return job


@pytest.mark.parametrize("into", [None, "all", "/"])
@pytest.mark.parametrize("seed", [1, 2])
def test_arrays_keep_their_order_in_whatever_order_they_are_read(seed, into, paths, pool, registry, tmp_path):
    job = run(paths, tmp_path / "out.h5", pool(seed), registry, into=into)
    found = contents(tmp_path / "out.h5")
    groups = {path.stem: expected(path) for path in paths} if into is None else {into.strip("/"): expected(*paths)}
    for group, arrays_of in groups.items():
        for name, values in arrays_of.items():
            stored, attributes = found.pop(f"{group}/{name}".strip("/"))
            assert stored.dtype == values.dtype
            assert np.array_equal(stored, values), name
            assert attributes["run"] == "7"
            assert attributes.get("units") == ("K" if name == "scalar" else None)
    assert found == {}
    assert [report.path for report in job.reports] == [str(path) for path in paths]
    assert registry.statistics().leases.get("write", 0) == registry.statistics().leases.get("read", 0) == 0
    checked = verify(tmp_path / "out.h5", tmp_path)
    assert checked.is_good
    assert checked.sources_checked == len(paths)


@pytest.mark.parametrize("into", [None, "all"])
def test_a_run_interrupted_anywhere_and_resumed_makes_the_same_file(into, paths, pool, registry, tmp_path):
    run(paths, tmp_path / "quiet.h5", pool(1), registry, into=into)
    quiet = contents(tmp_path / "quiet.h5")
    for step in (3, 7, 12):
        out, interruptions = tmp_path / f"{step}.h5", 0
        while not out.exists():
            try:
                results = step * (interruptions + 1)
                run(paths, out, pool(interruptions), registry, into=into, resume=True, results=results)
            except InterruptedRunError:
                interruptions += 1
        assert interruptions > 0
        assert_equal(contents(out), quiet)
    assert registry.statistics().tickets == 0


def test_a_run_is_resumed_after_the_last_path_that_was_done(paths, pool, registry, tmp_path):
    out = tmp_path / "out.h5"
    first = expected(paths[0])
    results = 0
    while paths_done(out) == 0:
        results += 4
        with pytest.raises(InterruptedRunError):
            run(paths[::2], out, pool(3), registry, into="all", resume=True, results=results)
    paths[0].write_text("no number: it is not read again")
    job = run(paths[::2], out, pool(3), registry, into="all", resume=True)
    assert job.progress.resumed_rows == sum(len(each) for name, each in first.items() if name != "scalar") + 1


def paths_done(out: Path) -> int:
    """How many a run would not read again."""
    sink = HDF5Sink(out, resume=True)
    position = sink.completed().position
    sink.abort(keep_partial=True)
    return position["open"]["reader"]["done"][0][1] if position else 0


def changing(path: str):
    """Gives something else each time."""
    changing.calls = getattr(changing, "calls", 0) + 1  # type: ignore[attr-defined]
    for _ in range(40):
        yield "x", np.full(30_000, changing.calls)  # type: ignore[attr-defined]


def test_a_reader_that_gives_other_rows_when_it_is_called_again_is_told_so(paths, pool, registry, tmp_path):
    with pytest.raises(IngestError, match="the reader gave other rows of 'x'"):
        run(paths, tmp_path / "out.h5", pool(1), registry, reader=changing)
    out = tmp_path / "again.h5"
    with pytest.raises(InterruptedRunError):
        run(paths[:1], out, pool(1), registry, reader=changing, resume=True, results=5)
    with pytest.raises(IngestError, match="was stored with other rows before"):
        run(paths[:1], out, pool(1), registry, reader=changing, resume=True)


def failing(path: str, out: Any):
    out("filled", 3, "i2")[:] = 1
    if Path(path).stem == "b":
        yield "before", np.arange(4)
        raise ValueError("no such\nsensor")
    yield "before", np.arange(4)


@pytest.mark.parametrize("into", [None, "all"])
def test_a_path_that_cannot_be_read_fails_the_run_or_is_left_out_or_noted(into, paths, pool, registry, tmp_path):
    with pytest.raises(IngestError, match=r"b\.txt: reader .*:failing failed: ValueError: no such sensor \(test_load_job"):
        run(paths, tmp_path / "fail.h5", pool(1), registry, reader=failing, into=into)
    job = run(paths, tmp_path / "skip.h5", pool(1), registry, reader=failing, into=into, on_error="skip")
    assert [report.rejected for report in job.reports] == [0, 1, 0, 0]
    run(paths, tmp_path / "kept.h5", pool(1), registry, reader=failing, into=into, on_error="quarantine")
    found = contents(tmp_path / "kept.h5")
    group = into or "b"
    assert b"ValueError: no such sensor" in found[f"rejected/{group}/lines"][0]["reason"][0]
    assert b"Traceback" in found[f"rejected/{group}/text"][0].tobytes()
    assert found[f"{group}/filled"][0].tolist() == [1, 1, 1] * (4 if into else 1)
    assert "no such sensor" in found[f"{group}/before"][1]["shmlease_sources"]
    assert verify(tmp_path / "kept.h5").is_good


def objects(path: str):
    return {"names": np.array(["a", None], object)}


def masked(path: str):
    return np.ma.masked_less(np.arange(3), 1)


def nothing(path: str):
    pass


def unnamed(path: str):
    return [(3, np.arange(3))]


def numbers(path: str):
    return [1, 2, 3]


def unlike(path: str):
    yield "x", np.arange(3)
    yield "x", np.arange(3.0)


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        (objects, "dtype object cannot be stored: object: it holds Python objects"),
        (masked, "is masked"),
        (nothing, "returned None"),
        (unnamed, "give arrays with their names"),
        (numbers, "the reader gave a list of int; give arrays with their names"),
        (unlike, "had rows of int64"),
    ],
)
def test_what_is_no_array_that_can_be_stored_is_a_failure_of_its_path(reader, reason, paths, pool, registry, tmp_path):
    with pytest.raises(IngestError, match=reason) as caught:
        run(paths[:1], tmp_path / "out.h5", pool(1), registry, reader=reader)
    assert str(caught.value).startswith(f"{paths[0]}: reader ")
    assert re.findall(r"\((\w+\.py):", str(caught.value)) in ([], ["test_load_job.py"])
    assert registry.statistics().leases.get("write", 0) == registry.statistics().leases.get("read", 0) == 0


def other_type(path: str):
    return np.arange(3, dtype="i8" if Path(path).stem == "a" else "i4")


def test_arrays_of_one_name_and_several_types_are_not_joined(paths, pool, registry, tmp_path):
    with pytest.raises(IngestError, match=r"b\.txt: dataset 'all': its dtype is int64, and int32 was given"):
        run(paths, tmp_path / "out.h5", pool(1), registry, reader=other_type, into="all")
    job = run(paths, tmp_path / "own.h5", pool(1), registry, reader=other_type)
    assert sum(report.rows for report in job.reports) == 12


def test_memory_stays_within_the_budget_whatever_is_read_ahead(paths, pool, registry, tmp_path):
    run(paths, tmp_path / "out.h5", pool(5), registry, into="all")
    assert registry.statistics().peaks["bytes"] < parse_bytes("16MiB")
