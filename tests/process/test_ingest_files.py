"""Tables come in whole: values, order, datasets, sources, whatever the sizes and however the files are compressed."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import h5py
import numpy as np
import pytest
from ingesting import COLUMNS, DTYPE, SMALL, contents, expected, make_table, rows_of, text_of

import shmlease
from shmlease.errors import CapacityError, IngestError
from shmlease.hdf5 import verify
from shmlease.ingestion.ingest import ingest
from shmlease.ingestion.summary import summary as as_text

FIELDS = {"dtype": DTYPE, "columns": COLUMNS}


def test_shared_memory_stays_within_the_capacity(tmp_path):
    tables = [make_table(tmp_path / f"calls{index}.cov{index % 2 * '.gz'}", 60_000, index) for index in range(4)]
    report = ingest(tables, tmp_path / "out.h5", capacity=SMALL, **FIELDS)
    assert report.rows == 240_000
    assert 0 < report.shared_peak_bytes <= report.capacity_bytes == 4 << 20


def test_each_file_becomes_a_dataset_and_says_where_its_rows_came_from(tmp_path):
    tables = [make_table(tmp_path / f"calls{index}.cov.gz", 1000 + index, index) for index in range(3)]
    report = ingest(tables, tmp_path / "out.h5", **FIELDS)
    assert [dataset.name for dataset in report.datasets] == ["calls0", "calls1", "calls2"]
    for index, table in enumerate(tables):
        assert (rows_of(tmp_path / "out.h5", f"calls{index}") == expected(table)).all()
    verdict = verify(tmp_path / "out.h5", tmp_path)
    assert verdict.is_good
    assert verdict.sources_checked == 3


def test_files_into_one_dataset_keep_their_order_and_their_ranges(tmp_path):
    tables = [make_table(tmp_path / name, 20_000 + seed, seed) for seed, name in enumerate(("b.cov", "a.cov.gz", "c.cov"))]
    ingest(tables, tmp_path / "out.h5", into="calls", capacity=SMALL, **FIELDS)
    rows = rows_of(tmp_path / "out.h5", "calls")
    assert (rows == np.concatenate([expected(table) for table in tables])).all()
    with h5py.File(tmp_path / "out.h5") as file:
        sources = json.loads(file["calls"].attrs["shmlease_sources"])
    assert [(source["path"], source["start"], source["stop"]) for source in sources] == [
        (str(tables[0]), 0, 20_000),
        (str(tables[1]), 20_000, 40_001),
        (str(tables[2]), 40_001, 60_003),
    ]
    assert verify(tmp_path / "out.h5", tmp_path).is_good


def test_verify_tells_of_a_source_that_was_changed(tmp_path):
    table = make_table(tmp_path / "calls.cov", 1000)
    ingest(table, tmp_path / "out.h5", **FIELDS)
    content = bytearray(table.read_bytes())
    content[500:501] = b"\t" if content[500:501] != b"\t" else b"5"
    table.write_bytes(content)
    (mismatch,) = verify(tmp_path / "out.h5", tmp_path).mismatches
    assert "calls.cov" in mismatch.subject


def test_calling_thread_does_it_all_without_workers(tmp_path):
    tables = [make_table(tmp_path / name, 30_000 + seed, seed) for seed, name in enumerate(("a.cov", "b.cov.gz"))]
    reports = {workers: ingest(tables, tmp_path / f"{workers}.h5", workers=workers, **FIELDS) for workers in (0, 2)}
    assert contents(tmp_path / "0.h5") == contents(tmp_path / "2.h5")
    assert (reports[0].rows, reports[0].workers, reports[0].leaks) == (60_001, 1, ())
    (tmp_path / "a.cov").write_text("nonsense\n")
    with pytest.raises(IngestError, match=r"a\.cov"):
        ingest(tables, tmp_path / "none.h5", workers=0, **FIELDS)


def test_readers_are_called_one_after_the_other_without_workers(tmp_path):
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, np.arange(200_000))
    paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for workers in (0, 2):
        ingest(paths, tmp_path / f"{workers}.h5", reader=np.load, into="all", workers=workers)
    assert contents(tmp_path / "0.h5") == contents(tmp_path / "2.h5")


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress], ids=["bzip2", "xz"])
def test_compressed_files_are_detected_from_their_content(tmp_path, pack):
    (tmp_path / "calls.txt").write_bytes(pack(text_of(30_000).encode()))
    plain = make_table(tmp_path / "plain.cov", 30_000)
    ingest(tmp_path / "calls.txt", tmp_path / "out.h5", capacity=SMALL, **FIELDS)
    assert (rows_of(tmp_path / "out.h5", "calls") == expected(plain)).all()


def test_quoted_cells_may_hold_line_ends(tmp_path):
    rows = [f'{index},"a\n{index}",{index}.5' for index in range(50_000)]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    ingest(tmp_path / "table.csv", tmp_path / "out.h5", dtype="a:i4,b:S8,c:f8", delimiter=",", quote='"', capacity=SMALL)
    found = rows_of(tmp_path / "out.h5", "table")
    assert (found["a"] == np.arange(50_000)).all()
    assert found["b"][77] == b"a\n77"


def test_files_without_rows_are_empty_datasets_beside_the_others(tmp_path):
    texts = {"header": b"a\tb\n", "nothing": b"", "blank": b"\n\n", "mark": b"\xef\xbb\xbf", "rows": b"b\ta\n1.5\t7\n"}
    texts |= {f"{name}_packed": gzip.compress(text) for name, text in texts.items()}
    for name, text in texts.items():
        (tmp_path / f"{name}.tsv").write_bytes(text)
    paths = [tmp_path / f"{name}.tsv" for name in texts]
    report = ingest(paths, tmp_path / "out.h5", dtype="a:i4,b:f8", header=True)
    assert {each.dataset: each.rows for each in report.files} == {name: int("rows" in name) for name in texts}
    for name in texts:
        assert rows_of(tmp_path / "out.h5", name).tolist() == [(7, 1.5)] * ("rows" in name)
    shown = as_text(report)
    assert all((str(path) in shown.split("no rows: ")[1]) == ("rows" not in path.name) for path in paths)


@pytest.mark.parametrize("on_error", ["skip", "quarantine"])
@pytest.mark.parametrize("parser", ["auto", "numpy"])
def test_stray_quotes_cost_their_lines_and_no_others(tmp_path, on_error, parser):
    lines = [f'{n},"a\n{n}",{n}' if n % 1000 == 7 else f'{n},{n}" pipe,{n}' for n in range(30_000)]
    lines[2_000] = '2000,"stray,2000'
    lines[29_000] = '29000,"x"y,29000'
    (tmp_path / "stray.csv").write_text("id,name,x\n" + "\n".join(lines) + "\n")
    report = ingest(
        *(tmp_path / "stray.csv", tmp_path / "out.h5"),
        layout="csv",
        dtype="x:i4,name:S12",
        on_error=on_error,
        parser=parser,
        capacity=SMALL,
    )
    assert [each.line for each in report.rejected] == [2_004, 29_031]  # 2 and 29 lines more than records
    assert rows_of(tmp_path / "out.h5", "stray")["x"].tolist() == [n for n in range(30_000) if n not in (2_000, 29_000)]


def test_lines_that_are_mostly_blank_take_no_more_than_the_capacity(tmp_path):
    (tmp_path / "sparse.tsv").write_text("\n" * 600_000 + "1\t2\n" + "\n" * 400_000 + "3\t4")
    report = ingest(tmp_path / "sparse.tsv", tmp_path / "out.h5", dtype="a:i8,b:S64", capacity=SMALL)
    assert rows_of(tmp_path / "out.h5", "sparse").tolist() == [(1, b"2"), (3, b"4")]
    assert report.files[0].notes["blank lines"] == 1_000_000


def test_rows_much_wider_than_their_text_are_cut_into_several_leases(tmp_path):
    (tmp_path / "wide.tsv").write_text("".join(f"{index % 7}\tx\n" for index in range(200_000)))
    ingest(tmp_path / "wide.tsv", tmp_path / "out.h5", dtype="a:i8,b:S200", capacity="16MiB")
    rows = rows_of(tmp_path / "out.h5", "wide")
    assert (rows["a"] == np.arange(200_000) % 7).all()
    assert (rows["b"] == b"x").all()


def test_strings_are_fitted_over_all_files(tmp_path):
    (tmp_path / "a.tsv").write_text("x\t1\n" * 40_000 + "longest here\t2\n")
    (tmp_path / "b.tsv").write_text("xyz\t1\n")
    report = ingest([tmp_path / "a.tsv", tmp_path / "b.tsv"], tmp_path / "out.h5", dtype="name:S,n:i4", fit_strings=True)
    assert rows_of(tmp_path / "out.h5", "a").dtype["name"] == rows_of(tmp_path / "out.h5", "b").dtype["name"] == "S12"
    assert report.rows == 40_002


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_any_executor_can_do_the_work(tmp_path, pool):
    tables = [make_table(tmp_path / f"calls{index}.cov{index * '.gz'}", 40_000, index) for index in range(2)]
    make = ThreadPoolExecutor if pool == "threads" else lambda n: ProcessPoolExecutor(n, get_context("spawn"))
    with make(2) as executor:
        report = ingest(tables, tmp_path / "out.h5", capacity=SMALL, executor=executor, **FIELDS)
    assert report.leaks == ()
    for index, table in enumerate(tables):
        assert (rows_of(tmp_path / "out.h5", f"calls{index}") == expected(table)).all()


def test_a_registry_that_is_given_stays_open_and_empty(tmp_path):
    table = make_table(tmp_path / "calls.cov", 40_000)
    with shmlease.Registry("8MiB") as registry:
        report = ingest(table, tmp_path / "out.h5", registry=registry, **FIELDS)
        figures = registry.statistics()
    assert report.capacity_bytes == 8 << 20
    assert (figures.tickets, figures.leases.get("read", 0), figures.leases.get("write", 0)) == (0, 0, 0)
    assert (rows_of(tmp_path / "out.h5", "calls") == expected(table)).all()


def test_a_capacity_that_cannot_do_says_what_would(tmp_path):
    table = make_table(tmp_path / "calls.cov", 10)
    with pytest.raises(CapacityError, match=r"256 KiB is too small for 2 workers.*give at least .* MiB"):
        ingest(table, tmp_path / "out.h5", capacity="256KiB", workers=2, **FIELDS)
    assert not (tmp_path / "out.h5").exists()
    assert not (tmp_path / "out.h5.partial").exists()


def test_many_small_files_come_in(tmp_path):
    tables = [make_table(tmp_path / f"calls{index:03}.cov", index % 5 + 1, index) for index in range(150)]
    report = ingest(tables, tmp_path / "out.h5", **FIELDS)
    assert [each.rows for each in report.files] == [index % 5 + 1 for index in range(150)]
    for index in (0, 77, 149):
        assert (rows_of(tmp_path / "out.h5", f"calls{index:03}") == expected(tables[index])).all()


def test_progress_is_reported_and_ends_at_the_end(tmp_path):
    table = make_table(tmp_path / "calls.cov", 50_000)
    seen = []
    ingest(table, tmp_path / "out.h5", capacity=SMALL, progress=seen.append, **FIELDS)
    assert (seen[-1].rows, seen[-1].files_done, seen[-1].bytes_done) == (50_000, 1, table.stat().st_size)
    assert all(earlier.rows <= later.rows for earlier, later in itertools.pairwise(seen))


def test_lines_that_end_in_a_carriage_return_alone_come_in(tmp_path):
    table = make_table(tmp_path / "calls.cov", 30_000)
    (tmp_path / "old.cov").write_bytes(table.read_bytes().rstrip(b"\n").replace(b"\n", b"\r"))
    report = ingest(tmp_path / "old.cov", tmp_path / "out.h5", capacity=SMALL, **FIELDS)
    assert report.rows == 30_000
    assert (rows_of(tmp_path / "out.h5", "old") == expected(table)).all()
