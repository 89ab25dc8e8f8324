"""The recipes of docs/ingest.md are commands that work, and what they store is what stands in the files."""

from __future__ import annotations

import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from rig.reading import read_table
from shmlease.cli.ingest import command
from shmlease.cli.ingest_options import reading_options
from shmlease.cli.ingest_run import columns_of
from shmlease.ingestion.plan import IngestPlan, plan_ingest, schema_of
from shmlease.text.formats import FORMATS
from shmlease.text.inference import infer

TABLES = Path(__file__).parent / "tables"
PAGE = (Path(__file__).parents[3] / "docs" / "ingest.md").read_text()
COMMANDS = re.findall(r"^\$ (.*shmlease ingest .*? -o out\.h5)", PAGE, re.MULTILINE)
COV = "chr1\t10\t10\t50\t1\t1\nchr1\t20\t20\t0\t0\t3\n"
# tables that are small enough to stand here, by the name in the recipe
WRITTEN = {
    "unknown.csv": "a,b\n1,x\n2,y\n",
    "part1.gz": COV,
    "us.csv": 'date,volume\n12/31/2020,"1,234,567"\n1/4/2021,12\n',
    "registers.csv": "address,value\n0xFFFF0000,1\n0x10,-2\n",
    "fixed.txt": "ab        1.5x\ncdefg  -12.25abc\n",
    "expression.tsv": "gene\ts1\ts2\ts3\ng1\t1\t0\t2.5\ng2\t3\t4\t5\n",
    "notes.csv": 'id,note\n1,a\n2,"longer, and in quotes"\n',
    "trades.csv": "time,venue,price\n2024-03-04 09:00:00,XETR,1.5\n2024-03-04 09:00:01,XPAR,2.25\n",
    "dem.asc": "ncols 2\nnrows 2\nxllcorner 1.5\nyllcorner 2\ncellsize 30\nNODATA_value -9999\n1 -9999.0\n3 4\n",
    "calls.CpG_report.txt": "chr1\t10\t+\t1\t2\tCG\tCGA\nchr1\t11\t-\t0\t0\tCG\tCGT\n",
    "calls.bedGraph": "track type=bedGraph\nchr1\t9\t10\t50\nchr1\t19\t20\t0.5\n",
    "encode.bed": "chr1\t9\t10\tx\t5\t+\t9\t10\t255,0,0\t5\t40\n",
    "modkit.bed": "chr1\t9\t10\tm\t5\t+\t9\t10\t255,0,0\t5 40.00 2 3 0 0 0 0 1\n",
    "regions.bed": "browser position chr1\nchr1\t9\t10\nchr2\t5\t6\n",
    "peaks.narrowPeak": "chr1\t9\t100\tpeak1\t500\t.\t5.5\t-1\t3.25\t40\n",
    "genes.bed": "chr1\t9\t100\tg\t0\t-\t9\t100\t0\t2\t10,20,\t0,70,\n",
    "aeronet.lev15": (
        "AERONET Version 3;\nSite\nVersion 3: AOD Level 1.5\nThe following data are ...\nContact: PI=x\nAOD Level 1.5\n"
        "Date(dd:mm:yyyy),Time(hh:mm:ss),Day_of_Year,AOD_1020nm,AOD_870nm,AOD_675nm,AOD_500nm,AOD_440nm,AOD_380nm,AOD_340nm,"
        "Precipitable_Water(cm),440-870_Angstrom_Exponent,Site\n"
        "05:03:2024,14:30:01,65,0.1,0.2,-999.000000,0.25,-999,0.3,0.4,1.5,1.25,Site\n"
    ),
}
# the rows of the first dataset, or the first of them, as a list
EXPECTED = {
    "h1.csv": [(1, 2)],
    "h2.csv": [(2, 1)],
    "unknown.csv": [(1, b"x"), (2, b"y")],
    "part1.gz": [(b"chr1", 10, 50.0, 1, 1), (b"chr1", 20, 0.0, 0, 3)],
    "archive.zip": [(b"chr1", 10, 50.0, 1, 1)],
    "ticks.csv": [(1709649000722558441, 1709649000000, 101.1569, 459, 0, False)],
    "eu.csv": [(18262, 1234.0, 0.0), (18294, 1235.01, 0.001)],
    "us.csv": [(18627, 1234567), (18631, 12)],
    "percent.csv": [(b"n0", 0.5, 0.0), (b"n1", 1.5, -1.0)],
    "fortran.txt": [(0, 3487.931, -1.5e-10), (1, 4628.157, -1.5e-10)],
    "registers.csv": [(0xFFFF0000, 1), (16, -2)],
    "bigid.csv": [(0, True, 0), (9007199254740995, False, 1)],
    "bool.csv": [(0, False, False), (1, True, True)],
    "units.csv": [(0.0, 20.0), (1.0, 19.9)],
    "multi_space_header.txt": [(b"A0", 0.0, 0.0), (b"A1", 1.0, 2.0)],
    "inline_comment.txt": [(0, 0.0), (1, 0.5)],
    "semicolon_ws.csv": [(0, 0.0), (1, 0.5)],
    "trailing.csv": [(0, 0.0, 0), (1, 0.5, 3)],
    "fixed.txt": [(b"ab", 1.5, b"x"), (b"cdefg", -12.25, b"abc")],
    "expression.tsv": [[1.0, 0.0, 2.5], [3.0, 4.0, 5.0]],
    "notes.csv": [(1, b"a"), (2, b"longer, and in quotes")],
    "trades.csv": [(1709542800, 0, 1.5), (1709542801, 1, 2.25)],
    "dem.asc": [[1.0, np.nan], [3.0, 4.0]],
    "calls.CpG_report.txt": [(b"chr1", 10, b"+", 1, 2, b"CG", b"CGA"), (b"chr1", 11, b"-", 0, 0, b"CG", b"CGT")],
    "calls.bedGraph": [(b"chr1", 9, 10, 50.0), (b"chr1", 19, 20, 0.5)],
    "encode.bed": [(b"chr1", 9, 10, b"+", 5, 40.0)],
    "modkit.bed": [(b"chr1", 9, 10, b"m", b"+", 5, 40.0, 2, 3, 0, 0, 0, 0, 1)],
    "regions.bed": [(b"chr1", 9, 10), (b"chr2", 5, 6)],
    "peaks.narrowPeak": [(b"chr1", 9, 100, b"peak1", 500.0, b".", 5.5, -1.0, 3.25, 40)],
    "genes.bed": [(b"chr1", 9, 100, b"g", 0.0, b"-", 9, 100, b"0", 2, b"10,20,", b"0,70,")],
    "a.vcf": [(b"chr1", 1000, b".", b"A", b"G,T", np.nan, b"PASS", b"DP=0;AF=0.000")],
    "a.gff3": [(b"ctg123", b".", b"gene", 100, 200, np.nan, b"+", -1, b"ID=gene0;Name=EDEN%200")],
    "a.mtx": [(4403, 2332, 2), (8359, 483, 8)],
    "aeronet.lev15": [(19787, 52201, 0.1, 0.2, np.nan, 0.25, np.nan, 0.3, 0.4, 1.5, 1.25)],
}
ROWS = {
    "ticks.csv": 45,
    "eu.csv": 200,
    "a.vcf": 500,
    "a.gff3": 50,
    "a.mtx": 400,
    "CRND0103.txt": 300,
    "USW00094728.dly": 108,
}


def _first_file(line: str) -> str:
    return re.search(r"(?:zcat|ingest) (\S+)", line.removeprefix("shmlease "))[1]  # type: ignore[index]


def _same(found: object, expected: object) -> bool:
    if isinstance(expected, tuple | list):
        return len(found) == len(expected) and all(map(_same, found, expected))  # type: ignore[arg-type]
    if isinstance(expected, float):
        return bool(np.float32(found) == np.float32(expected)) or (np.isnan(found) and np.isnan(expected))  # type: ignore[call-overload]
    return found == expected


@pytest.fixture
def here(tmp_path, monkeypatch) -> None:
    """A directory with all the tables of the recipes."""
    monkeypatch.chdir(tmp_path)
    for path in TABLES.iterdir():
        Path(path.name).symlink_to(path)
    for name, text in WRITTEN.items():
        Path(name).write_text(text)
    with zipfile.ZipFile("archive.zip", "w") as archive:
        archive.writestr("one.cov", COV)
        archive.writestr("two.cov", COV)


def _plan(line: str) -> IngestPlan:
    """What the command would do, without its processes."""
    words = shlex.split(line, comments=True)
    options = command.make_context("ingest", words[words.index("ingest") + 1 :]).params
    files = [_first_file(line) if path == "-" else path for path in options["files"]]
    reading = reading_options(options)
    if options["inferred"]:
        return plan_ingest(files, infer(files, given=reading, layout=options["layout"]).schema)
    columns = columns_of(options["columns"])
    return plan_ingest(files, schema_of(options["layout"], options["dtype"], columns, reading, options["matrix"]))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", COMMANDS, ids=_first_file)
def test_a_recipe_reads_what_stands_in_the_file(line: str) -> None:
    plan = _plan(line)
    first = _first_file(line)
    for table in plan.tables:
        read = read_table(table.path, table.schema, fit=table.schema.needs_fitting)
        assert read.bad == []
        rows = read.rows["values"] if table.schema.matrix else read.rows
        expected = EXPECTED.get(Path(table.path).name, EXPECTED.get(first, []))
        assert len(rows) == ROWS.get(first, len(rows))
        assert _same(rows[: len(expected)].tolist(), expected), rows[: len(expected)].tolist()


def test_there_is_a_recipe_for_every_table() -> None:
    assert set(WRITTEN) | set(EXPECTED) | set(ROWS) == {_first_file(line) for line in COMMANDS} | {"h2.csv"}


@pytest.mark.usefixtures("here")
def test_the_times_and_labels_of_a_recipe_are_read_back_as_documented() -> None:
    (line,) = (each for each in COMMANDS if " ticks.csv " in each)
    done = CliRunner().invoke(command, [*shlex.split(line)[2:], "-q", "--workers", "1"])
    assert done.exit_code == 0, done.output
    (example,) = re.findall(r"```python\n(import h5py.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    first = Path("ticks.csv").read_text().splitlines()[1].split(",")
    assert names["ts"][0] == np.datetime64(first[0].rstrip("Z"))
    assert names["side"][names["rows"]["side"][0]] == first[4]


@pytest.mark.usefixtures("here")
def test_ghcn_and_uscrn_have_their_missing_values() -> None:
    ghcn, uscrn = (read_table(name, FORMATS[layout]).rows for name, layout in STATIONS)
    line = Path("USW00094728.dly").read_text().splitlines()[0]
    cells = [line[at : at + 5] for at in range(21, 21 + 31 * 8, 8)]
    assert ghcn["value"][0].tolist() == [int(cell) for cell in cells]
    assert ghcn["sflag"][0].tolist() == [line[at].strip().encode() for at in range(28, 28 + 31 * 8, 8)]
    assert ghcn[["station", "year", "month", "element"]][0].tolist() == (b"USW00094728", 1950, 1, b"TMAX")
    text = [line.split() for line in Path("CRND0103.txt").read_text().splitlines()]
    assert np.array_equal(np.isnan(uscrn["tmin"]), [float(cells[6]) == -9999 for cells in text])
    assert np.isnan(uscrn["surface_max"]).all()
    assert uscrn["longitude"][0] == np.float32(-111.93)


STATIONS = ("USW00094728.dly", "ghcn-daily"), ("CRND0103.txt", "uscrn-daily")
