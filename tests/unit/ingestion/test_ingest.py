"""`ingest` as a function: parsers, compressions, executors, a registry of somebody else's, and the report."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import shmlease
from shmlease.cli.ingest_output import as_json
from shmlease.ingestion.ingest import ingest
from shmlease.ingestion.leak_check import RecordingHandle, holdings
from shmlease.ingestion.report import DatasetReport, FileReport, IngestReport, Rejected
from shmlease.ingestion.summary import summary as as_text
from shmlease.text.native_parser import library

DTYPE = "chr:S8,pos:i4,pct:f4"
ROWS = np.dtype([("chr", "S8"), ("pos", "<i4"), ("pct", "<f4")])
OPTIONS: dict[str, Any] = {"dtype": DTYPE, "workers": 2, "capacity": "8MiB"}


def contents(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        note = lambda name, item: found.update(  # noqa: E731 - a callback
            {name: (item[...].tobytes() if isinstance(item, h5py.Dataset) else None, sorted(map(str, item.attrs.items())))}
        )
        file.visititems(note)
    return found


@pytest.mark.skipif(library() is None, reason="lines.c was not compiled (no C compiler)")
@pytest.mark.parametrize("on_error", ["skip", "quarantine"])
def test_both_parsers_make_the_same_file(on_error: str, table, tmp_path) -> None:
    path = table(60_000)
    lines = path.read_text().splitlines(keepends=True)
    lines[100:110] = [
        "# comment\n",
        "\n",
        "chr1\tx\t1\n",
        "chr1\t1\n",
        "chrLonger\t1\t1\n",
        "c\t 7 \t1e2\r\n",
        "c\t8\tnan\n",
    ]
    lines[50_000:50_001] = ["é\t1\t2\n", "c\t99999999999\t1\n", "c\t1\t.5\n", "c\t-1\t-.5e-3\n"]
    path.write_text("".join(lines))
    reports = {}
    for parser in ("native", "numpy"):
        out = tmp_path / f"{parser}.h5"
        reports[parser] = ingest(path, out, parser=parser, on_error=on_error, comments=("#",), **OPTIONS)
        assert reports[parser].parser == parser
    assert contents(tmp_path / "native.h5") == contents(tmp_path / "numpy.h5")
    assert reports["native"].files == reports["numpy"].files
    assert reports["native"].rejected == reports["numpy"].rejected
    assert reports["native"].rejected_count == 4


def test_the_parser_that_was_used_is_reported(table, tmp_path) -> None:
    report = ingest(table(100), tmp_path / "out.h5", **OPTIONS)
    assert report.parser == ("numpy" if library() is None else "native")
    assert f"{report.parser} parser" in as_text(report)
    assert json.loads(as_json(report))["parser"] == report.parser


@pytest.mark.parametrize("compression", ["gzip", "none", "lzf", "zstd", "blosc2"])
def test_every_compression_gives_the_rows_back(compression: str, table, tmp_path) -> None:
    if compression in ("zstd", "blosc2"):
        pytest.importorskip("hdf5plugin", exc_type=ImportError)
    paths = [table(90_000, "a.tsv", 1), table(10, "b.tsv", 2)]
    report = ingest(paths, tmp_path / "out.h5", into="all", compression=compression, **OPTIONS)
    assert (report.rows, report.exit_code) == (90_010, 0)
    rows = np.concatenate([np.loadtxt(path, dtype=ROWS, delimiter="\t", ndmin=1) for path in paths])
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["all"][...].tobytes() == rows.tobytes()
    assert shmlease.verify(tmp_path / "out.h5").is_good


# --- a registry of somebody else's -----------------------------------------------------------------------------------


def test_what_others_lease_of_the_same_registry_is_no_leak_of_the_run(table, tmp_path, registry) -> None:
    with registry.lease("mine", shape=5) as lease:
        lease.publish()
        lease.ticket()
        report = ingest(table(20_000), tmp_path / "out.h5", registry=registry, **OPTIONS)
    assert (report.rows, report.leaks) == (20_000, ())


def test_what_the_run_has_leased_and_not_released_is_a_leak(registry, monkeypatch) -> None:
    monkeypatch.setattr("shmlease.ingestion.leak_check._WITHIN_S", 0.0)  # the first look is right
    handle = RecordingHandle(registry.id)
    with handle.lease(shape=5) as lease:
        assert holdings(handle, workers_lost=False) == ("1 write lease is held",)
        lease.publish()
        ticket = lease.ticket()
    assert holdings(handle, workers_lost=False) == ("1 ticket was not redeemed",)
    assert holdings(handle, workers_lost=True) == ()
    with handle.redeem(ticket):
        assert holdings(handle, workers_lost=False) == ("1 read lease is held",)
    assert holdings(handle, workers_lost=False) == ()


# --- the report ------------------------------------------------------------------------------------------------------


def made(**changes: Any) -> IngestReport:
    files = (FileReport("a.tsv", "a", 0, 90, 12, 2000, {"blank lines": 3}), FileReport("b.tsv", "b", 0, 5, 0, 100))
    report = IngestReport(
        "out.h5",
        (DatasetReport("a", "i4", 90, 4), DatasetReport("b", "i4", 5, 4)),
        files,
        (Rejected("a.tsv", 7, "pos", "x", "'x' is not an integer"),),
        500,
        2.0,
        "numpy",
        2,
        0,
        1 << 20,
        8 << 20,
        0,
        (),
    )
    return dataclasses.replace(report, **changes)


def test_figures_of_the_whole_are_sums_of_the_files() -> None:
    assert (made().rows, made().rejected_count, made().input_bytes) == (95, 12, 2100)


def test_the_exit_code_says_skipped_lines_and_leaks_first() -> None:
    clean = made(files=made().files[1:])
    assert (clean.exit_code, made().exit_code, made(leaks=("a lease",)).exit_code) == (0, 1, 2)


def test_the_summary_names_what_was_odd() -> None:
    words = as_text(made(workers_replaced=1, resumed_rows=40))
    assert "skipped: a.tsv:7: pos: 'x' is not an integer" in words
    assert "... and 2 more lines were skipped" in words
    assert "note: 3 blank lines" in words
    assert "1 worker died and had to be replaced" in words
    assert "40 rows were there" in words
    assert re.search(r"nothing is left in shared memory$", words)
    assert "nothing is left" not in as_text(made(leaks=("a lease",)))


def test_a_small_file_has_small_chunks_and_many_of_one_kind_are_as_one(tmp_path: Path) -> None:
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"t{number}.tsv")
        paths[-1].write_text("".join(f"{number}\t{row}\n" for row in range(100 + number)))
    large = tmp_path / "large.tsv"
    large.write_text("".join(f"9\t{row}\n" for row in range(100_000)))
    ingest([*paths, large], tmp_path / "out.h5", dtype="a:i4,b:i4", workers=1)
    ingest(paths, tmp_path / "joined.h5", dtype="a:i4,b:i4", into="all", workers=1)
    with h5py.File(tmp_path / "out.h5") as file, h5py.File(tmp_path / "joined.h5") as joined:
        for number in range(5):
            dataset = file[f"t{number}"]
            assert dataset.chunks[0] * dataset.dtype.itemsize < 64 << 10
            assert dataset["b"].tolist() == list(range(100 + number))
        assert file["large"].chunks[0] * 8 == 1 << 20
        assert len(joined["all"]) == sum(range(100, 105))
    assert (tmp_path / "out.h5").stat().st_size < 500_000


def test_marks_and_comments_may_be_given_as_lists(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("# from a logger\n1\t2.5\n2\tNA\n")
    ingest(path, tmp_path / "out.h5", dtype="a:i4,b:f4", missing=["NA"], comments=["#"], workers=1)
    with h5py.File(tmp_path / "out.h5") as file:
        assert [str(value) for value in file["t"]["b"]] == ["2.5", "nan"]
