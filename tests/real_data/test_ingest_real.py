"""Real tables through the command, as documented: rows and sums are those of their manifest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from shmlease.cli import ingest as command

BEDGRAPHS = {  # rows, sum of positions, methylated, unmethylated, percentages
    "sample1_CpG": (21325, 5227796280, 145565, 54571, 1836410.0),
    "sample2_CpG": (21766, 5337821255, 186987, 88063, 1834978.0),
    "sample3_CpG": (21969, 5397023289, 270061, 95138, 1903617.0),
    "sample4_CpG": (21811, 5354332898, 208486, 90972, 1831909.0),
    "sample5_CpG": (20366, 4943943601, 167140, 38347, 1773656.0),
    "sample6_CpG": (21364, 5238349639, 159490, 82244, 1856054.0),
}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shmlease", "ingest", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def ingested(real_data: Path, tmp_path: Path):
    """Calls the command on files of the real data; gives its summary and the datasets of what came out."""

    def call(patterns: str, *options: object, code: int = 0) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        files = [path for pattern in patterns.split() for path in sorted(real_data.glob(pattern))]
        assert files, f"there is no {patterns}"
        out = tmp_path / "out.h5"
        done = run(*files, "-o", out, "--json", *options)
        assert (done.returncode, done.stderr if "--infer" not in options else "") == (code, "")
        found: dict[str, np.ndarray] = {}
        with h5py.File(out) as file:
            file.visititems(lambda name, item: found.update({name: item[...]}) if isinstance(item, h5py.Dataset) else None)
        assert run_verify(out, real_data)
        assert len(os.listdir(tmp_path)) == 1
        return json.loads(done.stdout), found

    return call


def run_verify(out: Path, sources: Path) -> bool:
    verified = subprocess.run(
        [sys.executable, "-m", "shmlease", "verify", str(out), "--sources", str(sources), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(verified.stdout)
    return report["good"] and report["sources_checked"] > 0


def test_methylation_bedgraphs_equal_loadtxt(real_data, ingested):
    summary, datasets = ingested("methylation/epidiverse_cpg/*.bedGraph", "--layout", "bedgraph-methylation")
    assert summary["rows"] == 128_601
    assert summary["leaks"] == []
    assert list(datasets) == list(BEDGRAPHS)
    for name, rows in datasets.items():
        path = real_data / f"methylation/epidiverse_cpg/{name}.bedGraph"
        reference = np.loadtxt(path, dtype=rows.dtype, skiprows=1, delimiter="\t", usecols=[0, 1, 3, 4, 5])
        assert rows.tobytes() == reference.tobytes()
        sums = (rows["pos"].sum(dtype="i8"), rows["c"].sum(), rows["t"].sum(), rows["pct"].sum(dtype="f8"))
        assert (len(rows), *sums) == BEDGRAPHS[name]


def test_methylation_bedgraphs_into_one_dataset_with_fields_of_ones_own(ingested):
    summary, datasets = ingested(
        *("methylation/epidiverse_cpg/*.bedGraph", "--into", "calls", "--comment", "track"),
        *("--dtype", "chr:S10,pos:i4,pct:f4,c:i4,t:i4", "--columns", "0,1,3,4,5"),
    )
    assert [each["start_row"] for each in summary["files"]] == [0, 21325, 43091, 65060, 86871, 107237]
    assert (len(datasets["calls"]), datasets["calls"]["pos"].sum(dtype="i8")) == (
        128_601,
        sum(sums[1] for sums in BEDGRAPHS.values()),
    )


def test_bismark_coverage_needs_longer_names_and_says_so(real_data, tmp_path, ingested):
    pattern = "methylation/bsseq/*.cov.gz"
    (path,) = real_data.glob(pattern)
    done = run(path, "-o", tmp_path / "no.h5", "--layout", "bismark-cov")
    assert done.returncode == 2
    assert "27 bytes do not fit S16; S27 would hold them" in done.stderr
    _, datasets = ingested(pattern, "--layout", "bismark-cov", "--fit-strings")
    (rows,) = datasets.values()
    sums = (rows["pos"].sum(dtype="i8"), rows["c"].sum(), rows["t"].sum(), rows["pct"].sum(dtype="f8"))
    assert (len(rows), *sums) == (2013, 159913408530, 1334, 686, 132900.0)
    assert rows.dtype["chr"] == "S27"


def test_bismark_coverage_with_its_long_names_set_aside(ingested):
    summary, datasets = ingested(
        "methylation/bsseq/*.cov.gz", "--layout", "bismark-cov", "--on-error", "quarantine", code=1
    )
    assert (summary["rows"], summary["rejected_count"]) == (2013 - 23, 23)
    (text,) = (values for name, values in datasets.items() if name.endswith("/text"))
    assert text.tobytes().count(b"gi|215104|gb|J02459.1|LAMCG") == 23


def test_allc_in_blocked_gzip(ingested):
    _, datasets = ingested("methylation/allcools/*.allc.tsv.gz", "--layout", "allc")
    found = {
        name: (len(rows), rows["pos"].sum(dtype="i8"), rows["mc"].sum(), rows["cov"].sum())
        for name, rows in datasets.items()
    }
    assert found == {
        "Cell01.allc": (17282, 1199473057748, 657, 17679),
        "Cell02.allc": (21895, 1581998635913, 936, 22442),
        "Cell03.allc": (22001, 1512425121990, 924, 22503),
        "Cell04.allc": (19953, 1434209332177, 810, 20565),
    }


def test_methylkit(ingested):
    _, datasets = ingested("methylation/methylkit/*.txt", "--layout", "methylkit")
    found = {name: (len(rows), rows["pos"].sum(dtype="i8"), rows["coverage"].sum()) for name, rows in datasets.items()}
    assert found == {
        "control1.myCpG": (2377, 35561271607, 74749),
        "control2.myCpG": (1697, 23763091773, 35183),
        "test1.myCpG": (1904, 28176344513, 118325),
        "test2.myCpG": (2006, 28397521546, 69110),
    }


def test_gembs(ingested):
    _, datasets = ingested("methylation/encode/*.bed.gz", "--layout", "gembs")
    (rows,) = datasets.values()
    assert (len(rows), rows["pos0"].sum(dtype="i8")) == (99_999, 226411557473)


def test_station_series_into_one_dataset(ingested):
    summary, datasets = ingested("climate/metoffice/*.txt", "--layout", "metoffice", "--into", "stations")
    closed = 2  # stations that end in "Site closed", which the manifest counts as a line of data
    assert len(datasets["stations"]) == 21_225 - closed
    assert summary["rejected_count"] == 0
    assert len(summary["files"]) == 19
    assert sum(each["notes"].get("missing values", 0) for each in summary["files"]) > 6000


@pytest.mark.parametrize(("pattern", "layout", "rows"), [("tmy3/*.csv", "tmy3", 8760), ("nsrdb/*.csv", "nsrdb", 17_520)])
def test_weather_years(ingested, pattern, layout, rows):
    _, datasets = ingested(f"climate/{pattern}", "--layout", layout)
    assert [len(each) for each in datasets.values()] == [rows]


def test_surveys_by_year_into_one_dataset(ingested):
    dtype = "index:i4,record:i4,month:i1,day:i1,year:i2,site:i1,species:S2,sex:S1,hindfoot:f4,weight:f4"
    how = ("--layout", "csv", "--dtype", dtype, "--columns", "0,1,2,3,4,5,6,7,8,9", "--into", "surveys")
    summary, datasets = ingested("tables/surveys_by_year/*.csv", *how)
    assert len(datasets["surveys"]) == 30_676
    assert len(summary["files"]) == 26
    assert (np.diff(datasets["surveys"]["year"]) >= 0).all()


@pytest.mark.parametrize(
    ("pattern", "rows", "columns"),
    [
        ("tables/surveys/surveys.csv", 35_549, 9),
        ("tables/misc/bouldercreek_09_2013.txt", 2875, 6),
        ("tables/misc/winequality-red.csv", 1599, 12),
        ("tables/misc/bachelorette.csv", 921, 23),
        ("tables/misc/banklist.csv", 553, 7),
        ("tables/misc/cabinet-turnover.csv", 379, 10),
        ("tables/misc/country_timeseries.csv", 122, 18),
        ("finance/fx-monthly.csv", 17_237, 3),
        ("finance/wti-daily.csv", 10_226, 2),
        ("ml/digits.csv.gz", 1797, 65),
        ("ml/breast_cancer.csv", 569, 31),
    ],
)
def test_tables_whose_schema_is_inferred(ingested, pattern, rows, columns):
    _, datasets = ingested(pattern, "--infer")
    (found,) = datasets.values()
    assert (len(found), len(found.dtype)) == (rows, columns)


def test_every_layout_is_known_to_the_command():
    assert "bedgraph-methylation" in next(option.help for option in command.command.params if option.name == "layout")


def test_netcdf_grids_come_in_by_a_reader_of_the_users(real_data, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "readers.md").read_text()
    (tmp_path / "loaders.py").write_text("\n".join(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)))
    monkeypatch.chdir(tmp_path)
    files, out = sorted(real_data.glob("climate/grids/*.nc")), tmp_path / "out.h5"
    assert len(files) == 2
    done = run(*files, "--reader", "loaders:grids", "-o", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert run_verify(out, real_data)
    with h5py.File(out) as found:
        for path in files:
            with h5py.File(path) as file:
                assert found[path.stem].keys() == file.keys()
                for name, variable in file.items():
                    assert found[path.stem][name].dtype == variable.dtype
                    assert np.array_equal(found[path.stem][name][()], variable[()], equal_nan=True)
                    assert found[path.stem][name].attrs.get("units") == variable.attrs.get("units")
