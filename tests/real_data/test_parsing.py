"""Real files come in whole: row counts and sums are those of the manifest, and what is odd in them is handled
or reported.
"""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pytest

from shmlease.text.formats import format_named
from shmlease.text.inference import infer

_EPIDIVERSE = {  # rows, sum of positions, methylated, unmethylated, percentages
    "sample1": (21325, 5227796280, 145565, 54571, 1836410),
    "sample2": (21766, 5337821255, 186987, 88063, 1834978),
    "sample3": (21969, 5397023289, 270061, 95138, 1903617),
    "sample4": (21811, 5354332898, 208486, 90972, 1831909),
    "sample5": (20366, 4943943601, 167140, 38347, 1773656),
    "sample6": (21364, 5238349639, 159490, 82244, 1856054),
}
_METHYLKIT = {  # rows, sum of positions, coverage, percentages of C
    "test1": (1904, 28176344513, 118325, 92319.45),
    "test2": (2006, 28397521546, 69110, 126716.27),
    "control1": (2377, 35561271607, 74749, 139107.86),
    "control2": (1697, 23763091773, 35183, 98785.91),
}
_ALLC = {  # rows, sum of positions, methylated, coverage
    "Cell01": (17282, 1199473057748, 657, 17679),
    "Cell02": (21895, 1581998635913, 936, 22442),
    "Cell03": (22001, 1512425121990, 924, 22503),
    "Cell04": (19953, 1434209332177, 810, 20565),
}
_STATIONS = {  # lines of data, missing values
    "aberporth": (1017, 236),
    "armagh": (2073, 1370),
    "bradford": (1413, 65),
    "braemar": (801, 288),
    "cambridge": (801, 207),
    "cardiff": (577, 354),
    "durham": (1749, 435),
    "eastbourne": (801, 0),
    "heathrow": (933, 120),
    "hurn": (825, 143),
    "leuchars": (825, 0),
    "lowestoft": (1151, 506),
    "newtonrigg": (801, 551),
    "oxford": (2073, 914),
    "paisley": (628, 0),
    "sheffield": (1713, 625),
    "tiree": (1173, 143),
    "valley": (1138, 2),
    "yeovilton": (733, 231),
}
_TABLES = {  # file: rows, columns, as inferred
    "tables/surveys/surveys.csv": (35549, 9),
    "tables/misc/bouldercreek_09_2013.txt": (2875, 6),
    "tables/misc/banklist.csv": (553, 7),
    "tables/misc/country_timeseries.csv": (122, 18),
    "tables/misc/winequality-red.csv": (1599, 12),
    "tables/misc/bachelorette.csv": (921, 23),
    "tables/misc/cabinet-turnover.csv": (379, 10),
    "finance/wti-daily.csv": (10226, 2),
    "finance/fx-monthly.csv": (17237, 3),
    "ml/digits.csv.gz": (1797, 65),
    "ml/breast_cancer.csv": (569, 31),
    "climate/nsrdb/test_psm3_2017.csv": (17520, 15),
    "climate/tmy3/703165TY.csv": (8760, 68),
    "methylation/encode/sample_ENCSR750CPN_cpg_gembs_10e5.bed.gz": (99999, 11),
}


@pytest.mark.parametrize("sample", _EPIDIVERSE)
def test_methylation_bedgraph(real_data, read, sample):
    found = read(real_data / f"methylation/epidiverse_cpg/{sample}_CpG.bedGraph", format_named("bedgraph-methylation"))
    rows = found.rows
    sums = (rows["pos"].sum(), rows["c"].sum(), rows["t"].sum(), rows["pct"].sum(dtype="f8"))
    assert (len(rows), *sums) == _EPIDIVERSE[sample]
    assert found.bad == []
    assert found.notes == {"lines that begin with 'track'": 1}


@pytest.mark.parametrize("sample", _METHYLKIT)
def test_methylkit(real_data, read, sample):
    rows = read(real_data / f"methylation/methylkit/{sample}.myCpG.txt", format_named("methylkit")).rows
    count, positions, coverage, percentages = _METHYLKIT[sample]
    assert (len(rows), rows["pos"].sum(), rows["coverage"].sum()) == (count, positions, coverage)
    assert rows["freq_c"].sum(dtype="f8") == pytest.approx(percentages, abs=0.005)


def test_bismark_coverage_names_the_length_its_contigs_need(real_data, read):
    path = real_data / "methylation/bsseq/test_data.fastq_bismark.bismark.cov.gz"
    found = read(path, format_named("bismark-cov"))
    assert len(found.rows) == 2013 - 23
    assert {bad.text for bad in found.bad} == {"gi|215104|gb|J02459.1|LAMCG"}
    assert {bad.reason for bad in found.bad} == {"27 bytes do not fit S16; S27 would hold them"}
    lines = gzip.decompress(path.read_bytes()).split(b"\n")
    assert all(lines[bad.line - 1] == bad.row for bad in found.bad)


def test_bismark_coverage_is_whole_when_fitted(real_data, read):
    path = real_data / "methylation/bsseq/test_data.fastq_bismark.bismark.cov.gz"
    rows = read(path, format_named("bismark-cov"), fit=True).rows
    assert rows.dtype["chr"] == "S27"
    sums = (rows["pos"].sum(), rows["c"].sum(), rows["t"].sum(), rows["pct"].sum(dtype="f8"))
    assert (len(rows), *sums) == (2013, 159913408530, 1334, 686, 132900)
    assert np.count_nonzero(rows["chr"] == b"chrUn_gl000220") == 12


@pytest.mark.parametrize("cell", _ALLC)
def test_allc_in_blocked_gzip(real_data, read, cell):
    rows = read(real_data / f"methylation/allcools/{cell}.allc.tsv.gz", format_named("allc")).rows
    assert (len(rows), rows["pos"].sum(), rows["mc"].sum(), rows["cov"].sum()) == _ALLC[cell]
    if cell == "Cell02":
        assert b"chrUn_GL456239" in rows["chr"]


def test_gembs(real_data, read):
    name = "methylation/encode/sample_ENCSR750CPN_cpg_gembs_10e5.bed.gz"
    rows = read(real_data / name, format_named("gembs")).rows
    assert (len(rows), rows["pos0"].sum()) == (99999, 226411557473)
    assert (rows["pos1"] == rows["pos0"] + 1).all()
    assert rows["flags"][0] == b"GQ=11;MQ=22"


@pytest.mark.parametrize("station", _STATIONS)
def test_station_series(real_data, read, station):
    path = real_data / f"climate/metoffice/{station}data.txt"
    found = read(path, format_named("metoffice"))
    closed = found.notes["lines that begin with 'Site closed'"]
    absent = int(station == "lowestoft")  # one row ends before its sunshine
    lines, missing = _STATIONS[station]
    assert (len(found.rows) + closed, found.notes["missing values"] - absent) == (lines, missing)
    assert found.bad == []
    text = path.read_text()
    data = text[text.index("yyyy") :]
    for mark in "*#":
        assert found.notes[f"'{mark}' after a number"] == data.count(mark)
    remarks = found.rows["remark"].tolist()
    assert remarks.count(b"Provisional") == data.count("Provisional")
    assert np.isnan(found.rows["tmax"]).sum() == sum(line.split()[2:3] == ["---"] for line in data.splitlines()[2:])


def test_the_remark_of_lowestoft_is_kept(real_data, read):
    found = read(real_data / "climate/metoffice/lowestoftdata.txt", format_named("metoffice"))
    (moved,) = found.rows[found.rows["remark"] != b""]
    assert moved.tolist() == (2007, 9, 18.5, pytest.approx(11.2), 0.0, pytest.approx(34.1), 152.0, b"to Monckton Ave")
    assert found.notes["'Change' after a number"] == 1
    (cut,) = found.rows[(found.rows["year"] == 1945) & (found.rows["month"] == 3)]
    assert np.isnan(cut["sun"])


def test_a_typical_year_with_its_missing_values(real_data, read):
    path = real_data / "climate/tmy3/703165TY.csv"
    found = read(path, format_named("tmy3"))
    assert (len(found.rows), found.bad) == (8760, [])
    lines = path.read_text().split("\n")[2:-1]
    assert found.rows["ghi"].sum(dtype="f8") == sum(float(line.split(",")[4]) for line in lines)


def test_minus_9900_and_question_marks_are_counted_as_missing(real_data, read):
    path = real_data / "climate/tmy3/703165TY.csv"
    cells = [line.split(",") for line in path.read_text().split("\n")[2:-1]]
    numeric = [column for column in range(2, 68) if not any(row[column].isalpha() for row in cells)]
    schema = format_named("tmy3").with_dtype(",".join(f"c{column}:f8" for column in numeric), numeric)
    found = read(path, schema)
    assert found.bad == []
    marks = sum(row[column] in ("-9900", "?") for row in cells for column in numeric)
    assert found.notes["missing values"] == marks > 10_000


@pytest.mark.parametrize("year", range(1977, 2003))
def test_surveys_by_year(real_data, read, year):
    path = real_data / f"tables/surveys_by_year/surveys{year}.csv"
    dtype = "index:i4,record:i4,month:i1,day:i1,year:i2,site:i1,species:S2,sex:S1,hindfoot:f4,weight:f4"
    found = read(path, format_named("csv").with_dtype(dtype, range(10)))
    lines = path.read_text().splitlines()[1:]
    assert (len(found.rows), found.bad, set(found.rows["year"])) == (len(lines), [], {year})
    assert found.rows["weight"].sum(dtype="f8") == sum(float(line.split(",")[-1]) for line in lines)


@pytest.mark.parametrize("name", _TABLES)
def test_an_inferred_table_has_all_its_rows(real_data, read, name):
    path = real_data / name
    found = read(path, infer(path).schema)
    assert (len(found.rows), len(found.rows.dtype)) == _TABLES[name]
    assert found.bad == []


def test_surveys_with_empty_cells(real_data, read):
    path = real_data / "tables/surveys/surveys.csv"
    found = read(path, infer(path).schema)
    empty = sum(np.count_nonzero(found.rows[name] == b"") for name in ("species_id", "sex"))
    assert found.notes["missing values"] + empty == 10_651


def test_quotes_byte_order_marks_and_letters_beyond_ascii(real_data, read):
    banks = read(real_data / "tables/misc/banklist.csv", infer(real_data / "tables/misc/banklist.csv").schema).rows
    assert banks["Acquiring_Institution"][0] == b"United Fidelity Bank, fsb"
    cabinet = real_data / "tables/misc/cabinet-turnover.csv"
    rows = read(cabinet, infer(cabinet).schema).rows
    assert "Manuel Luján Jr.".encode() in rows["appointee"]
    assert rows["president"][0] == b"Carter"
    wine = real_data / "tables/misc/winequality-red.csv"
    assert infer(wine).schema.fields[0].name == "fixed_acidity"


def test_a_gauge_in_rdb(real_data, read):
    dtype = "agency:S4,site:S8,time:S16,zone:S3,discharge:f4,code:S1"
    found = read(real_data / "tables/misc/bouldercreek_09_2013.txt", format_named("rdb").with_dtype(dtype, range(6)))
    assert (len(found.rows), found.bad) == (2875, [])
    assert found.rows[0].tolist() == (b"USGS", b"06730200", b"2013-09-01 00:00", b"MDT", 57.0, b"A")


def test_images_of_digits_as_one_field(real_data, read):
    path = real_data / "ml/digits.csv.gz"
    schema = replace(format_named("csv").with_dtype("pixel:64f8,label:i4"), header=False)
    rows = read(path, schema).rows
    expected = np.loadtxt(path, delimiter=",", ndmin=2)
    assert rows["pixel"].tobytes() == np.ascontiguousarray(expected[:, :-1]).tobytes()
    assert (rows["label"] == expected[:, -1]).all()


def test_a_table_whose_first_line_counts_its_rows(real_data, read):
    schema = replace(format_named("csv").with_dtype("features:30f8,malignant:u1"), header=False, skip_lines=1)
    rows = read(real_data / "ml/breast_cancer.csv", schema).rows
    expected = np.loadtxt(real_data / "ml/breast_cancer.csv", delimiter=",", skiprows=1)
    assert rows["features"].tobytes() == np.ascontiguousarray(expected[:, :-1]).tobytes()
