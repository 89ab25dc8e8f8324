"""A run gives the same file in whatever order its workers do things, and keeps to its memory meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from jobs import run_jobs

from shmlease.errors import IngestError, LeaseError
from shmlease.hdf5 import verify
from shmlease.ingestion.budget import Budget, budget_for
from shmlease.ingestion.coordinator import Coordinator
from shmlease.ingestion.plan import IngestPlan, plan_ingest, schema_of
from shmlease.text.schema import Schema

DTYPE = "chr:S8,pos:i4,pct:f4"
ROWS = np.dtype([("chr", "S8"), ("pos", "<i4"), ("pct", "<f4")])
BUDGET = Budget(
    block_bytes=8192, step_bytes=16_384, parse_bytes=40_000, chunks_a_task=2, encode_bytes=2 << 20, limit_bytes=8 << 20
)


def run(plan: IngestPlan, out: Path, pool, registry, budget: Budget = BUDGET, on_tick=lambda _: None) -> Coordinator:
    return run_jobs(plan, out, pool, registry, budget, on_tick=on_tick)


def expected(*paths: Path) -> np.ndarray:
    return np.concatenate([np.loadtxt(path, dtype=ROWS, delimiter="\t", ndmin=1) for path in paths])


@pytest.mark.parametrize("seed", range(4))
def test_rows_keep_their_order_whatever_order_they_are_parsed_in(seed: int, table, pool, registry, tmp_path) -> None:
    paths = [table(3000, "a.tsv", 1), table(7, "b.tsv", 2), table(5000, "c.tsv", 3)]
    coordinator = run(plan_ingest(paths, Schema().with_dtype(DTYPE), "all"), tmp_path / "out.h5", pool(seed), registry)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["all"][...].tobytes() == expected(*paths).tobytes()
    assert [(each.start_row, each.rows) for each in coordinator.reports()] == [(0, 3000), (3000, 7), (3007, 5000)]
    assert coordinator.files_done == 3
    assert coordinator.bytes_done == sum(path.stat().st_size for path in paths)


def test_every_chunk_is_whole_whichever_worker_made_it(table, pool, registry, tmp_path) -> None:
    path = table(300_000)
    budget = budget_for(16 << 20, 2, [Schema().with_dtype(DTYPE)])
    run(plan_ingest(path, Schema().with_dtype(DTYPE)), tmp_path / "out.h5", pool(5), registry, budget)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["calls"].id.get_num_chunks() == -(-300_000 // file["calls"].chunks[0])
        assert file["calls"][...].tobytes() == expected(path).tobytes()


@pytest.mark.parametrize("most", [1, 4, 100])
def test_no_block_is_begun_beyond_the_limit(most: int, table, pool, registry, tmp_path) -> None:
    path = table(40_000)
    budget = Budget(
        block_bytes=8192, step_bytes=16_384, parse_bytes=40_000, chunks_a_task=2, encode_bytes=2 << 20, limit_bytes=200_000
    )
    workers = pool(6, most)
    run(plan_ingest(path, Schema().with_dtype(DTYPE)), tmp_path / "out.h5", workers, registry, budget)
    assert workers.most_waiting <= max(budget.limit_bytes // budget.parse_bytes, 1) + 1  # and what frees memory
    assert registry.statistics().leases.get("write", 0) == 0
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["calls"][...].tobytes() == expected(path).tobytes()


def test_a_line_that_is_no_row_ends_the_run_and_nothing_stays_leased(table, pool, registry, tmp_path) -> None:
    path = table(3000)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2000], "chr1\tx\t1\n", *lines[2000:], "y\ty\ty\n"]))
    with pytest.raises(IngestError) as refused:
        run(plan_ingest(path, Schema().with_dtype(DTYPE)), tmp_path / "out.h5", pool(7, 50), registry)
    assert (refused.value.line, refused.value.field, refused.value.text) == (2001, "pos", "x")
    refused.value.__traceback__ = refused.value.__context__ = None
    assert registry.statistics().tickets <= 50  # of blocks that were parsed and not taken in; they expire


@pytest.mark.parametrize("seed", range(3))
def test_lines_are_skipped_or_kept_with_their_numbers_in_the_file(seed: int, table, pool, registry, tmp_path) -> None:
    path = table(3000)
    lines = path.read_text().splitlines(keepends=True)
    wrong = [5, 1500, 1501, 2990]
    for number in wrong:
        lines[number - 1] = f"bad{number}\n"
    path.write_text("".join(lines))
    plan = plan_ingest(path, Schema().with_dtype(DTYPE), on_error="quarantine")
    coordinator = run(plan, tmp_path / "out.h5", pool(seed), registry)
    assert coordinator.reports()[0].rejected == 4
    with h5py.File(tmp_path / "out.h5") as file:
        assert len(file["calls"]) == 2996
        assert file["rejected/calls/lines"]["line"].tolist() == wrong
        assert file["rejected/calls/text"][...].tobytes() == b"".join(b"bad%d\n" % number for number in wrong)


def test_work_that_fails_again_and_again_is_given_up(table, pool, registry, tmp_path) -> None:
    from shmlease.ingestion.pool_protocol import WorkerLostError

    class Dying(type(pool(0))):
        def wait(self, timeout_s: float) -> list:
            work = self._waiting.pop(0)
            return [(work, WorkerLostError("its worker died"))]

    with pytest.raises(LeaseError, match="block at byte 0: given up after 3 attempts: its worker died"):
        run(plan_ingest(table(10), Schema().with_dtype(DTYPE)), tmp_path / "out.h5", Dying(registry, 0), registry)


def test_progress_is_reported_while_it_goes_on(table, pool, registry, tmp_path, monkeypatch) -> None:
    from shmlease.ingestion import coordinator

    monkeypatch.setattr(coordinator, "TICK_S", 0.0)
    rows: list[int] = []
    tell: Callable[[Coordinator], None] = lambda run: rows.append(run.rows)  # noqa: E731 - a callback
    run(plan_ingest(table(3000), Schema().with_dtype(DTYPE)), tmp_path / "out.h5", pool(8), registry, on_tick=tell)
    assert rows == sorted(rows)
    assert rows[-1] == 3000
    assert len(set(rows)) > 3


@pytest.mark.parametrize(("rows", "columns"), [(120, 1), (120, 3), (8, 2000)])
def test_a_table_of_one_type_becomes_a_matrix(rows: int, columns: int, pool, registry, tmp_path) -> None:
    values = np.arange(rows * columns).reshape(rows, columns)
    np.savetxt(tmp_path / "grid.tsv", values, fmt="%d", delimiter="\t")
    plan = plan_ingest(tmp_path / "grid.tsv", schema_of(None, None, None, {}, "f4"))
    run(plan, tmp_path / "out.h5", pool(0), registry)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["grid"].dtype == np.float32
        assert (file["grid"][...] == values).all()
    assert verify(tmp_path / "out.h5", tmp_path).is_good


def test_a_grid_has_its_georeference_as_attributes_and_its_gaps_as_nan(pool, registry, tmp_path) -> None:
    head = "ncols 3\nnrows 2\nxllcorner 0.5\nyllcorner -1\ncellsize 30\nNODATA_value -9999\n"
    (tmp_path / "grid.asc").write_text(head + " 1 2 -9999.0\n 4 5 6\n")
    schema = schema_of(None, None, None, {"delimiter": None, "attribute_lines": True}, "f8")
    run(plan_ingest(tmp_path / "grid.asc", schema), tmp_path / "out.h5", pool(0), registry)
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["grid"][...], [[1, 2, np.nan], [4, 5, 6]], equal_nan=True)
        found = {key: value for key, value in file["grid"].attrs.items() if not key.startswith("shmlease")}
    assert found == {"ncols": 3, "nrows": 2, "xllcorner": 0.5, "yllcorner": -1, "cellsize": 30, "NODATA_value": -9999}


def test_labels_are_an_enumeration_and_units_are_attributes(pool, registry, tmp_path) -> None:
    (tmp_path / "t.csv").write_text("when,sex,depth\n,,m\n2020-01-02,M,1\n2020-01-03,F,2\n")
    options = {"delimiter": ",", "header": True, "skip_after_header": 1, "units": True}
    plan = plan_ingest(tmp_path / "t.csv", schema_of(None, "when:M8[s],sex:enum(F|M),depth:f4", None, options))
    run(plan, tmp_path / "out.h5", pool(0), registry)
    with h5py.File(tmp_path / "out.h5") as file:
        rows, attributes = file["t"][...], file["t"].attrs
        assert h5py.check_enum_dtype(file["t"].dtype["sex"]) == {"F": 0, "M": 1}
        assert rows["sex"].tolist() == [1, 0]
        assert rows["when"].view(f"M8[{attributes['when.units']}]")[0] == np.datetime64("2020-01-02")
        assert (attributes["when.epoch"], attributes["depth.units"]) == ("1970-01-01T00:00:00", "m")
    assert verify(tmp_path / "out.h5", tmp_path).is_good


def test_files_of_other_units_or_widths_do_not_go_into_one_dataset(tmp_path) -> None:
    for name, unit in ("a", "m"), ("b", "ft"):
        (tmp_path / f"{name}.csv").write_text(f"x\n{unit}\n1\n")
    options = {"width": 1, "header": True, "skip_after_header": 1, "units": True}
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    with pytest.raises(IngestError, match=r"b\.csv: x\.units is 'ft', and 'm' in .*a\.csv"):
        plan_ingest(paths, schema_of(None, "x:f8", None, options), into="all")
    paths[1].write_text("1\t2\n")
    with pytest.raises(IngestError, match=r"b\.csv: its rows are .*\(2,\)"):
        plan_ingest(paths, schema_of(None, None, None, {"skip_lines": 0}, "f4"), into="all")
