"""Malformed input is reported with its place, and never lost silently."""

from __future__ import annotations

import gzip
import json
import os

import h5py
import pytest
from ingesting import COLUMNS, DTYPE, OPTIONS, SMALL, call, expected, make_table, rows_of, text_of

from shmlease.errors import DTypeError, IngestError
from shmlease.ingestion.ingest import ingest

FIELDS = {"dtype": DTYPE, "columns": COLUMNS}
BAD = ("chr1\t12x\t12\t50\t1\t1\n", "chr1\t13\n", "chromosome_1\t14\t14\t50\t1\t1\n")


@pytest.fixture
def spoiled(tmp_path):
    """A table with three bad lines, far apart, in blocks of their own; and the same without them."""
    lines = text_of(60_000).splitlines(keepends=True)
    places = (20_000, 40_000, 59_999)
    for place, bad in zip(places, BAD, strict=True):
        lines[place] = bad
    path, good = tmp_path / "calls.cov", tmp_path / "good.cov"
    path.write_text("".join(lines))
    good.write_text("".join(line for place, line in enumerate(lines) if place not in places))
    return path, expected(good)


def test_a_bad_line_fails_the_run_and_says_where_it_is(tmp_path, spoiled):
    path, _ = spoiled
    with pytest.raises(IngestError) as caught:
        ingest(path, tmp_path / "out.h5", capacity=SMALL, **FIELDS)
    error = caught.value
    assert (error.path, error.line, error.field, error.text) == (str(path), 20_001, "pos", "12x")
    assert f"{path}:20001: pos: '12x'" in str(error)
    assert "--on-error skip" in str(error)
    assert not (tmp_path / "out.h5").exists()


def test_bad_lines_are_skipped_and_counted(tmp_path, spoiled):
    path, good = spoiled
    report = ingest(path, tmp_path / "out.h5", capacity=SMALL, on_error="skip", **FIELDS)
    assert (rows_of(tmp_path / "out.h5", "calls") == good).all()
    assert (report.rejected_count, report.files[0].rejected, report.exit_code) == (3, 3, 1)
    assert [(each.line, each.column) for each in report.rejected] == [(20_001, "pos"), (40_001, None), (60_000, "chr")]
    assert "S12 would hold" in report.rejected[2].reason


def test_bad_lines_are_kept_in_the_file_word_for_word(tmp_path, spoiled):
    path, good = spoiled
    report = ingest(path, tmp_path / "out.h5", capacity=SMALL, on_error="quarantine", **FIELDS)
    assert (rows_of(tmp_path / "out.h5", "calls") == good).all()
    lines, text = (rows_of(tmp_path / "out.h5", f"rejected/calls/{name}") for name in ("lines", "text"))
    assert lines["line"].tolist() == [20_001, 40_001, 60_000]
    assert lines["field"].tolist() == [b"pos", b"", b"chr"]
    kept = [text[line["start"] : line["stop"]].tobytes().decode() for line in lines]
    assert kept == [bad.rstrip("\n") for bad in BAD]
    assert text.tobytes().decode() == "".join(BAD)
    assert report.rejected_count == 3
    with h5py.File(tmp_path / "out.h5") as file:
        assert json.loads(file["rejected/calls/lines"].attrs["files"]) == [str(path)]


@pytest.mark.parametrize("policy", ["skip", "quarantine"])
def test_every_line_of_a_table_of_malformed_lines_is_counted(tmp_path, policy):
    (tmp_path / "words.tsv").write_text("neither\tnumber\n" * 30_000)
    report = ingest(tmp_path / "words.tsv", tmp_path / "out.h5", dtype="a:i4,b:i4", on_error=policy, capacity="16MiB")
    assert (report.rows, report.rejected_count, len(report.rejected)) == (0, 30_000, 100)


def test_lines_of_compressed_files_are_counted_the_same(tmp_path, spoiled):
    path, _ = spoiled
    packed = tmp_path / "calls.cov.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    report = ingest(packed, tmp_path / "out.h5", capacity=SMALL, on_error="skip", **FIELDS)
    assert [each.line for each in report.rejected] == [20_001, 40_001, 60_000]


def test_the_header_and_what_is_before_it_count_as_lines(tmp_path):
    (tmp_path / "table.csv").write_text("about\n\na,b\n1,2\n# remark\nx,3\n")
    with pytest.raises(IngestError, match=r"table.csv:6: a: 'x'"):
        ingest(
            tmp_path / "table.csv",
            tmp_path / "out.h5",
            dtype="a:i4,b:i4",
            delimiter=",",
            header=True,
            skip_lines=1,
            comments=("#",),
        )


FAILURES = {
    "missing": (lambda path: None, "cannot be read: No such file"),
    "directory": (os.mkdir, "a directory"),
    "truncated": (lambda path: path.write_bytes(gzip.compress(text_of(5000).encode())[:-3000]), "cut short"),
    "behind gzip": (lambda path: path.write_bytes(gzip.compress(text_of(9).encode()) + b"x"), "followed by other bytes"),
    "latin-1": (lambda path: path.write_bytes(b"chr\xe9\t1\t1\t1\t1\t1\n"), "not utf-8"),
    "too long": (
        lambda path: path.write_text("chr1_GL456221_random\t1\t1\t1\t1\t1\n"),
        "20 bytes do not fit S10; S20 would",
    ),
    "too large": (lambda path: path.write_text("chr1\t3000000000\t1\t1\t1\t1\n"), "3000000000"),
    "columns": (lambda path: path.write_text("chr1\t1\t1\n"), "the fields reach to column 5"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_the_command_fails_with_one_line_that_names_the_file(tmp_path, what):
    make, words = FAILURES[what]
    path, out = tmp_path / "calls.cov", tmp_path / "out.h5"
    make(path)
    done = call(path, "-o", out, *OPTIONS)
    assert done.code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("shmlease: ")
    assert str(path) in line
    assert words in line
    assert not out.exists()
    assert not (tmp_path / "out.h5.partial").exists()


def test_a_failed_run_leaves_the_file_that_was_there(tmp_path, spoiled):
    (tmp_path / "out.h5").write_bytes(b"precious")
    with pytest.raises(IngestError):
        ingest(spoiled[0], tmp_path / "out.h5", overwrite=True, **FIELDS)
    assert (tmp_path / "out.h5").read_bytes() == b"precious"


def test_what_was_stored_before_a_bad_line_can_be_used_again(tmp_path, spoiled):
    """The output of a run that failed late is not lost: resumed with another policy, it goes on from there."""
    path, good = spoiled
    done = call(path, "-o", tmp_path / "out.h5", *OPTIONS, "--capacity", SMALL, "--workers", 1)
    assert done.code == 2
    if (tmp_path / "out.h5.partial").exists():
        assert "--resume" in done.stderr
    report = ingest(path, tmp_path / "out.h5", capacity=SMALL, on_error="skip", resume=True, **FIELDS)
    assert (rows_of(tmp_path / "out.h5", "calls") == good).all()
    assert report.rejected_count == 3


def test_impossible_arguments_are_refused_before_anything_starts(tmp_path):
    path = make_table(tmp_path / "calls.cov", 5)
    out = tmp_path / "out.h5"
    with pytest.raises(IngestError, match="named twice"):
        ingest([path, path], out, **FIELDS)
    with pytest.raises(IngestError, match="no files are named"):
        ingest([], out, **FIELDS)
    with pytest.raises(IngestError, match=r"name their layout .*, give their fields"):
        ingest(path, out)
    with pytest.raises(IngestError, match="no layout is named 'bismarck'"):
        ingest(path, out, layout="bismarck")
    with pytest.raises(DTypeError, match="not what it holds"):
        ingest(path, out, layout="tsv")
    with pytest.raises(IngestError, match="one of the files to read"):
        ingest(path, path, overwrite=True, **FIELDS)
    with pytest.raises(TypeError, match="unexpected keyword argument 'delimitter'"):
        ingest(path, out, delimitter=",", **FIELDS)
    with pytest.raises(ValueError, match="on_error='ignore'"):
        ingest(path, out, on_error="ignore", **FIELDS)
    with pytest.raises(ValueError, match="parser='c'"):
        ingest(path, out, parser="c", **FIELDS)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["calls.cov"]
