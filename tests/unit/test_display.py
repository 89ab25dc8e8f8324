"""What the public classes show of themselves: in a shell, printed, and in a notebook."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import shmlease
from shmlease.auditor.judge.findings import Finding, Report
from shmlease.auditor.report.formats import render
from shmlease.hdf5.verification import Mismatch
from shmlease.ingestion.report import DatasetReport, FileReport, IngestReport, Rejected
from shmlease.notebook import html_table
from shmlease.testing import memory_registry


class Cells(HTMLParser):
    """The texts of a table, and a complaint about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def cells(shown: object) -> list[str]:
    return Cells(shown._repr_html_()).texts  # type: ignore[attr-defined]


INGESTED = IngestReport(
    path="calls.h5",
    datasets=(DatasetReport("liver", "<i4", 1, 4),),
    files=(FileReport("liver.cov", "liver", 0, 1, 1, 8),),
    rejected=(Rejected("liver.cov", 2, "pos", "<b>", "not a number"),),
    size_bytes=2048,
    elapsed_s=0.5,
    parser="native",
    workers=1,
    workers_replaced=0,
    shared_peak_bytes=4096,
    capacity_bytes=8192,
    resumed_rows=0,
    leaks=(),
)


def test_table_escapes_what_it_shows() -> None:
    hostile = "<script>&\udcff"
    assert Cells(html_table(hostile, [(hostile, hostile)])).texts == ["<script>&?"] * 3


def test_registry_shows_its_capacity_what_is_used_and_whether_it_is_open() -> None:
    with memory_registry("4MiB") as registry:
        with registry.share(np.arange(10), "calls"):
            assert repr(registry).endswith("capacity 4 MiB, used 4 KiB, leases 1>")
            assert cells(registry)[1:] == ["capacity", "4 MiB", "used", "4 KiB", "leases", "1"]
            shown = cells(registry.statistics())
            assert "published 4 KiB" in shown
            assert shown[shown.index("clients") + 1] == "1"
        registry.close()
        assert repr(registry).endswith(" ended>")


def test_audit_report_prints_what_the_command_prints_and_is_short_elsewhere() -> None:
    report = Report((Finding.of("LH001", "<x> has no holder", name="x"),))
    assert f"{report}\n" == render(report, "text")
    assert repr(report) == "<Report 1 leak, 1 finding>"
    assert cells(report) == ["1 leak", "LH001 orphan", "<x> has no holder"]


def test_ingest_report_prints_its_summary_with_rates_and_plurals_that_fit_a_tiny_run() -> None:
    last = str(INGESTED).splitlines()[-2:]
    assert last[0] == "calls.h5: 1 row in 1 dataset, 2 KiB; 8 B of files in 500 ms (2 rows/s, 16 B/s)"
    assert "1 worker, native parser" in last[1]
    assert repr(INGESTED) == "<IngestReport calls.h5: 1 row in 1 dataset, 1 line skipped>"
    assert "liver.cov:2: pos: not a number ('<b>')" in cells(INGESTED)
    files = (dataclasses.replace(INGESTED.files[0], size_bytes=50_000_000),)
    large = dataclasses.replace(INGESTED, datasets=(DatasetReport("liver", "<i4", 2_000_000, 4),), files=files)
    assert "(4.00 million rows/s, 100 MB/s)" in str(large)


def test_sink_shows_its_file_and_whether_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    with shmlease.HDF5Sink(path) as sink:
        sink.append("calls", np.arange(3))
        assert repr(sink) == f"<HDF5Sink {path} open, gzip>"
        assert cells(sink)[-2:] == ["calls", "3 rows"]
    assert repr(sink) == f"<HDF5Sink {path} closed, gzip>"


def test_layout_that_is_misspelled_is_answered_with_those_like_it() -> None:
    with pytest.raises(shmlease.IngestError, match="no layout is named 'bismrk-cov'; did you mean 'bismark-cov'"):
        shmlease.ingest([], "out.h5", layout="bismrk-cov")


def test_missing_file_is_told_before_a_missing_layout_which_names_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(shmlease.IngestError, match=r"nosuch\.txt: cannot be read: No such file or directory"):
        shmlease.ingest(tmp_path / "nosuch.txt", tmp_path / "out.h5")
    (tmp_path / "there.txt").write_text("1\n")
    with pytest.raises(shmlease.IngestError, match=r"layout \(--layout, layout=\).*\(--dtype, dtype=\).*ingest --infer"):
        shmlease.ingest(tmp_path / "there.txt", tmp_path / "out.h5")


def test_file_to_verify_that_is_not_there_is_told_in_words() -> None:
    with pytest.raises(shmlease.SinkError, match=r"^nosuch\.h5: there is no such file$"):
        shmlease.verify("nosuch.h5")


def test_name_that_is_not_waited_for_is_told_without_a_time() -> None:
    with memory_registry("4MiB") as registry, pytest.raises(shmlease.SegmentNotFoundError) as refused:
        registry.attach("calls", timeout=0)
    assert str(refused.value).startswith("segment 'calls' is not published: no segment has that name")


def test_verification_prints_what_the_command_prints(tmp_path: Path) -> None:
    path = tmp_path / "calls.h5"
    with shmlease.HDF5Sink(path) as sink:
        sink.append("liver", np.arange(3))
    good = shmlease.verify(path)
    assert str(good).splitlines()[-1] == f"{path}: good"
    assert str(good).startswith("liver  3 rows  crc32:")
    assert repr(good) == f"<VerifyReport {path}: good, 1 dataset>"
    assert cells(good)[:2] == [f"{path}: good", "liver"]
    bad = dataclasses.replace(good, mismatches=(Mismatch("liver", "4 rows", "3 rows"),))
    assert str(bad).splitlines()[-2:] == ["mismatch: liver: expected 4 rows, seen 3 rows", f"{path}: 1 mismatch"]
    assert repr(bad) == f"<VerifyReport {path}: 1 mismatch, 1 dataset>"
