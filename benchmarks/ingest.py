"""Ingest against what people use instead: wall time, processor time, and memory of all processes together.

Quantified, each as shmlease's figure divided by a reference's in the same run, below 1 is better. Beside the usual idiom
(a process and a ``SharedMemory`` for each file, `numpy.loadtxt`, h5py) and polars -> parquet zstd, where that is installed:

- ``gzip``: eight files of 1,000,000 rows of methylation calls into one HDF5 file, compressed; ``none``: not compressed;
- ``large``: one file of 20,000,000 rows; and shmlease's memory there against its own for a tenth of the rows;
- ``wide``: 200 columns of floats, 200,000 rows; ``quoted``: 3,000,000 rows with strings in quotes and in UTF-8;
- ``packed``: as ``gzip``, the files packed with gzip.

Beside others:

- ``small``: 2,000 files of 500 rows, against shmlease reading one file of the same rows: time, and size of what is written;
- ``start``: a table of 10 rows, against ``python -c "import numpy, h5py"``;
- ``sink``: `HDF5Sink` alone with 256 MB of rows, against h5py gzip-4 with shuffle; wall time within the program.

Method: all run as programs of their own, interpreter start and imports included, in turn, `--rounds` times after one
unmeasured run of shmlease, on the same files (made by a seed, in the system's cache); see `watched_run` for what is taken
of each, and `ingest_programs` for the programs. Ratios are of the medians, with the least and the most of the pairs. Other
programs on the machine spoil the wall time; processor time they spoil less.

    python benchmarks/ingest.py [--cases gzip,large] [--rounds 3] [--scale 0.1] [--json FILE]

All of it takes some ten minutes and 4 GB of disk; for a quick look ``--scale 0.1 --rounds 1``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from ingest_programs import make_file, program, shmlease_command
from shmlease.output_file import write_output
from shmlease.verification.bench.timing import Figure, Measurement, machine
from watched_run import Measured, measure

OURS, IDIOM, PARQUET, TENTH, ONE_FILE, IMPORTS, H5PY = (
    "shmlease",
    "the usual idiom",
    "polars to parquet",
    "a tenth of the rows",
    "one file of the same rows",
    "import numpy, h5py",
    "h5py gzip-4",
)
QUANTITIES = {
    "wall_s": "wall time",
    "cpu_s": "processor time",
    "peak_bytes": "peak memory",
    "file_bytes": "size of the file",
}


@dataclass(frozen=True)
class Goal:
    """The most that a figure of shmlease's may be of a reference's."""

    quantity: str
    reference: str
    most: float


@dataclass(frozen=True)
class Case:
    """What is read, beside what, and what is to be shown."""

    means: str
    table: str
    files: int
    rows: int  # in each
    references: tuple[str, ...]
    goals: tuple[Goal, ...]
    compression: str = "gzip"
    packed: bool = False


CASES = {
    "gzip": Case(
        "eight files of methylation calls, compressed",
        *("calls", 8, 1_000_000, (IDIOM, PARQUET)),
        goals=(Goal("wall_s", IDIOM, 0.27), Goal("wall_s", PARQUET, 1.0), Goal("peak_bytes", IDIOM, 0.22)),
    ),
    "none": Case(
        "the same, not compressed",
        *("calls", 8, 1_000_000, (IDIOM,)),
        goals=(Goal("wall_s", IDIOM, 0.75),),
        compression="none",
    ),
    "large": Case(
        "one file of methylation calls",
        *("calls", 1, 20_000_000, (IDIOM, PARQUET, TENTH)),
        goals=(Goal("wall_s", IDIOM, 0.15), Goal("wall_s", PARQUET, 0.8), Goal("peak_bytes", TENTH, 1.1)),
    ),
    "wide": Case(
        "200 columns of floats",
        *("wide", 1, 200_000, (IDIOM, PARQUET)),
        goals=(Goal("wall_s", IDIOM, 0.28),),
    ),
    "quoted": Case(
        "strings within quotes and in UTF-8",
        *("quoted", 1, 3_000_000, (IDIOM, PARQUET)),
        goals=(Goal("wall_s", IDIOM, 0.18),),
    ),
    "packed": Case(
        "eight files packed with gzip",
        *("calls", 8, 1_000_000, (IDIOM, PARQUET)),
        goals=(Goal("wall_s", IDIOM, 0.27),),
        packed=True,
    ),
    "small": Case(
        "2,000 small files, against one file of the same rows",
        *("calls", 2_000, 500, (ONE_FILE,)),
        goals=(Goal("wall_s", ONE_FILE, 3.0), Goal("file_bytes", ONE_FILE, 1.5)),
    ),
    "start": Case(
        "a table of 10 rows, against the imports that any such program needs",
        *("calls", 1, 10, (IMPORTS,)),
        goals=(Goal("wall_s", IMPORTS, 1.1),),
    ),
    "sink": Case(
        "HDF5Sink alone, rows of 26 bytes from memory",
        *("calls", 0, (256 << 20) // 26, (H5PY,)),
        goals=(Goal("wall_s", H5PY, 0.08),),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="which to measure (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each program (default: %(default)s)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="rows, as a factor; of `small`, files (default: %(default)s)"
    )
    parser.add_argument("--parser", choices=("auto", "native", "numpy"), default="auto", help="shmlease's (default: auto)")
    parser.add_argument("--only", action="store_true", help="run shmlease alone, without ratios")
    parser.add_argument("--directory", help="where to put files, and leave them; by default a temporary directory")
    parser.add_argument("--json", default="", help="write the measurements here, for benchmarks/report.py")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # modules are compiled once, as on installation, not by each run
    measurements: list[Measurement] = []
    with contextlib.ExitStack() as stack:
        directory = options.directory or stack.enter_context(tempfile.TemporaryDirectory(prefix="shmlease-bench-"))
        os.makedirs(directory, exist_ok=True)
        for name in options.cases.split(","):
            case = scaled(name, options.scale)
            runs = run_case(case, directory, options)
            for line in verdicts(name, case, runs):
                print(line, flush=True)
            measurements += measurements_of(name, case, runs)
    print(f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} processors")
    if options.json:
        write_output(options.json, msgspec.json.format(msgspec.json.encode(measurements), indent=2))


def scaled(name: str, scale: float) -> Case:
    case = CASES[name]
    if name == "small":
        return replace(case, files=max(int(case.files * scale), 2))
    return case if name == "start" else replace(case, rows=max(int(case.rows * scale), 10))


def run_case(case: Case, directory: str, options: argparse.Namespace) -> dict[str, list[Measured]]:
    """Runs of each program, in turn."""
    out = os.path.join(directory, "out.h5")
    commands = dict(commands_of(case, directory, out, options.parser))
    if options.only:
        commands = {OURS: commands[OURS]}
    print(f"{case.means}: {case.files or 'no'} files of {case.rows:,} rows", flush=True)
    measure(commands[OURS])  # files and programs are in memory now
    runs: dict[str, list[Measured]] = {who: [] for who in commands}
    for number in range(options.rounds):
        for who, command in commands.items():
            run = measure(command)
            if os.path.exists(out):
                run = replace(run, file_bytes=os.path.getsize(out))
                os.remove(out)
            runs[who].append(run)
            print(
                f"  {number + 1} {who:26}  {run.wall_s:6.2f} s  processor {run.cpu_s:6.2f} s  "
                f"peak {run.peak_bytes / 1e6:6.0f} MB  file {run.file_bytes / 1e6:.1f} MB",
                flush=True,
            )
    return runs


def commands_of(case: Case, directory: str, out: str, parser: str) -> Iterable[tuple[str, list[str]]]:
    """The programs of a case, by who they stand for."""
    if H5PY in case.references:
        yield OURS, program("sink", str(case.rows * 26), out)
        yield H5PY, program("h5py_gzip", str(case.rows * 26), out)
        return
    files = [make_file(directory, case.table, index, case.rows, packed=case.packed) for index in range(case.files)]
    yield OURS, shmlease_command(case.table, case.compression, out, files, parser)
    if IDIOM in case.references:
        yield IDIOM, program("idiom", case.table, case.compression, out, *files)
    if PARQUET in case.references and importlib.util.find_spec("polars"):
        yield PARQUET, program("parquet", case.table, out, *files)
    if TENTH in case.references:
        tenth = [make_file(directory, case.table, index, case.rows // 10) for index in range(case.files)]
        yield TENTH, shmlease_command(case.table, case.compression, out, tenth, parser)
    if ONE_FILE in case.references:
        joined = make_file(directory, case.table, 0, case.rows * case.files)
        yield ONE_FILE, shmlease_command(case.table, case.compression, out, [joined], parser)
    if IMPORTS in case.references:
        yield IMPORTS, [sys.executable, "-c", "import numpy, h5py"]


def verdicts(name: str, case: Case, runs: dict[str, list[Measured]]) -> Iterable[str]:
    """Each figure of shmlease's over each reference's, and whether the goal is met."""
    goals = {(goal.quantity, goal.reference): goal.most for goal in case.goals}
    for reference in runs:
        for quantity, words in QUANTITIES.items():
            ours, theirs = ([getattr(run, quantity) for run in runs[who]] for who in (OURS, reference))
            if reference == OURS or not all(theirs):
                continue
            ratio = statistics.median(ours) / statistics.median(theirs)
            pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
            goal = goals.get((quantity, reference))
            verdict = "" if goal is None else f"  goal {goal:g}: {'met' if ratio <= goal else 'MISSED'}"
            yield f"{name:6} {words:16} of {reference:26} {ratio:6.3f}x  ({min(pairs):.3f} to {max(pairs):.3f}){verdict}"


def measurements_of(name: str, case: Case, runs: dict[str, list[Measured]]) -> Iterable[Measurement]:
    """Wall time and memory, and the size of the file where there is a goal for it."""
    wanted = ("wall_s", "peak_bytes", *{goal.quantity for goal in case.goals} - {"wall_s", "peak_bytes"})
    for quantity in wanted:
        figures = [_figure(who, float(case.rows), [getattr(run, quantity) for run in each]) for who, each in runs.items()]
        goals = [f"at most {goal.most:g} of {goal.reference}" for goal in case.goals if goal.quantity == quantity]
        yield Measurement(
            name=f"ingest, {name}: {QUANTITIES[quantity]}",
            quantifies=f"{QUANTITIES[quantity].capitalize()} of {case.means}: {max(case.files, 1):,} of {case.rows:,} rows."
            + (f" The goal is {', and '.join(goals)}." if goals else ""),
            unit="s" if quantity.endswith("_s") else "bytes",
            along="rows",
            reference=next((who for who in runs if who != OURS), OURS),
            figures=figures,
            machine=machine(),
        )


def _figure(who: str, at: float, values: list[float]) -> Figure:
    return Figure(who, at, statistics.median(values), max(values), max(values) / max(min(values), 1e-9), len(values))


if __name__ == "__main__":
    main()
