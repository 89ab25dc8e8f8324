"""`shmlease ingest` on a terminal and off it, the plan of a run, and a /dev/shm that is small."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from ingesting import OPTIONS, SMALL, call, contents, expected, make_table, rows_of
from test_small_shm import run_in_64_mb

from shmlease.hdf5 import verify


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return make_table(tmp_path_factory.mktemp("tables") / "calls.cov", 150_000)


def on_a_terminal(*arguments: object, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout, and what a terminal of 100 columns was shown on stderr."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "shmlease", "ingest", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment},
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 1 << 16):
            shown += data
    except OSError:  # EIO: nobody has the terminal open any more
        pass
    os.close(ours)
    stdout, _ = process.communicate()
    return process.returncode, stdout.decode(), shown.decode()


def test_a_terminal_is_shown_how_far_it_is(table, tmp_path) -> None:
    code, stdout, shown = on_a_terminal(table, "-o", tmp_path / "out.h5", *OPTIONS, "--capacity", SMALL)
    assert code == 0, shown
    assert "1/1 files" in shown
    assert "150,000 rows" in shown
    assert "MB/s" in shown
    assert "shared" in shown
    assert "150,000 rows in 1 dataset," in stdout  # the summary is data


def test_off_a_terminal_or_when_asked_nothing_is_shown(table, tmp_path) -> None:
    done = call(table, "-o", tmp_path / "out.h5", *OPTIONS)
    assert (done.code, done.stderr) == (0, "")
    code, stdout, shown = on_a_terminal(table, "-o", tmp_path / "out.h5", *OPTIONS, "--quiet", "--overwrite")
    assert (code, stdout, shown) == (0, "", "")


def test_a_dry_run_says_what_would_be_done_and_does_nothing(table, tmp_path) -> None:
    out = tmp_path / "out.h5"
    packed = make_table(tmp_path / "packed.cov.gz", 10)
    done = call(table, packed, "-o", out, *OPTIONS, "--dry-run")
    assert (done.code, done.stderr) == (0, "")
    assert "nothing was done" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[:3]] == ["dataset", "calls", "packed"]
    plan = json.loads(call(table, packed, "-o", out, *OPTIONS, "--dry-run", "--json").stdout)
    assert [each["compression"] for each in plan["files"]] == ["plain", "gzip"]
    assert [each["name"] for each in plan["schema"]["fields"]] == ["chr", "pos", "pct", "c", "t"]
    assert not list(tmp_path.glob("out*"))


def test_a_dry_run_refuses_what_a_run_would(table, tmp_path) -> None:
    done = call(table, table, "-o", tmp_path / "out.h5", *OPTIONS, "--dry-run")
    assert done.code == 2
    assert "named twice" in done.stderr


def test_without_an_output_the_command_says_so(table) -> None:
    done = call(table, *OPTIONS)
    assert done.code == 2
    assert "Missing option '-o'" in done.stderr


@pytest.mark.parametrize("parser", ["native", "numpy"])
def test_a_parser_can_be_asked_for(table, tmp_path, parser) -> None:
    done = call(table, "-o", tmp_path / "out.h5", *OPTIONS, "--parser", parser, "--json")
    if parser == "native" and done.code == 2:
        assert "C compiler" in done.stderr
        pytest.skip("lines.c was not compiled")
    assert done.summary["parser"] == parser
    assert np.array_equal(rows_of(tmp_path / "out.h5", "calls"), expected(table))


@pytest.mark.parametrize("taken_mb", [0, 52])
def test_it_works_in_a_small_shm(table, tmp_path, taken_mb) -> None:
    """Half of what is free is used, be that 32 MB or 6."""
    out = tmp_path / "out.h5"
    shown = run_in_64_mb(f"""
if {taken_mb}:
    with open("/dev/shm/filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, {taken_mb} * MB)
report = shmlease.ingest({str(table)!r}, {str(out)!r}, dtype={OPTIONS[1]!r}, columns=[0, 1, 3, 4, 5], workers=2)
is_within = report.shared_peak_bytes <= report.capacity_bytes <= (64 - {taken_mb}) * MB
print(report.rows, report.leaks, is_within, os.listdir("/dev/shm"))
""")
    assert shown.strip() == f"150000 () True {['filler'] if taken_mb else []}"
    call(table, "-o", tmp_path / "large.h5", *OPTIONS)
    assert contents(out) == contents(tmp_path / "large.h5")


def test_standard_input_is_a_file_like_others(tmp_path):
    table = make_table(tmp_path / "calls.cov.gz", 40_000)
    with table.open("rb") as file:
        done = call("-", table, "-o", tmp_path / "out.h5", *OPTIONS, "--json", stdin=file)
    assert (done.code, done.stderr) == (0, "")
    for name in "stdin", "calls":
        assert (rows_of(tmp_path / "out.h5", name) == expected(table)).all()
    assert [each["size_bytes"] for each in done.summary["files"]] == [table.stat().st_size] * 2
    with h5py.File(tmp_path / "out.h5") as file:
        (source,) = json.loads(file["stdin"].attrs["shmlease_sources"])
    assert source["details"]["read"] == {
        "size_bytes": table.stat().st_size,
        "digest": f"crc32:{zlib.crc32(table.read_bytes()):08x}",
    }
    assert verify(tmp_path / "out.h5", tmp_path).is_good
