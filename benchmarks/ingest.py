"""Ingest against the usual idiom, on methylation calls: wall time, processor time, and memory of all processes together.

Quantified, each as shmlease's figure divided by the idiom's in the same run, below 1 is better:

- ``gzip``: eight files of 1,000,000 rows into one HDF5 file, compressed;
- ``none``: the same without compression;
- ``large``: one file of 20,000,000 rows, compressed; and shmlease's memory there against its own for a tenth of the rows.

The idiom is what one finds written: a process and a ``SharedMemory`` for each file, `numpy.loadtxt`, and a parent that
writes h5py gzip-4 with shuffle (or nothing) while the others go on. As usually printed it fails: each child starts a
resource tracker of its own, which unlinks the child's segment when the child exits. Here it is repaired by starting the
tracker first, and each child answers through a pipe of its own.

Method: both run as programs of their own, interpreter start and imports included, in turn, `--rounds` times after one
unmeasured run of shmlease, on the same files (made by a seed, in the system's cache). Each round runs a program twice: for
its wall time, from start to exit; and for its memory and processor time, which takes a tenth of the machine to watch.
Memory is the most that all processes had at once, sampled every 10 ms: private memory and file pages by share (PSS without
shared memory), and the files in /dev/shm. Ratios are of the medians, with the least and the most of the pairs. Other
programs on the machine spoil the wall time; processor time they spoil less.

Run: ``python benchmarks/ingest.py`` (some five minutes, 1.5 GB of disk); for a quick look ``--scale 0.1 --rounds 1``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace

import numpy as np

DTYPE = "chr:S10,pos:i4,pct:f4,c:i4,t:i4"
COLUMNS = (0, 1, 3, 4, 5)
MARK = "SHMLEASE_BENCHMARK"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Case:
    """What is read, how it is written, and what is to be shown."""

    files: int
    rows: int  # in each
    compression: str
    wall_target: float
    peak_target: float | None = None
    growth_target: float | None = None  # of the peak, against a tenth of the rows


CASES = {
    "gzip": Case(8, 1_000_000, "gzip", wall_target=0.36, peak_target=0.25),
    "none": Case(8, 1_000_000, "none", wall_target=0.75),
    "large": Case(1, 20_000_000, "gzip", wall_target=0.25, growth_target=1.1),
}


@dataclass
class Measured:
    """One run of one program."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    busy: float  # processor time of all processors' wall time


@dataclass
class Ratio:
    """A figure of shmlease's over one of a reference's."""

    case: str
    what: str
    ratio: float
    least: float
    most: float
    target: float | None

    @classmethod
    def of(cls, case: str, what: str, ours: list[float], theirs: list[float], target: float | None) -> Ratio:
        pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
        return cls(case, what, statistics.median(ours) / statistics.median(theirs), min(pairs), max(pairs), target)

    def __str__(self) -> str:
        verdict = (
            "" if self.target is None else f"target {self.target:.2f}: {'met' if self.ratio <= self.target else 'MISSED'}"
        )
        return f"{self.case:6} {self.what:34} {self.ratio:6.3f}x  ({self.least:.3f} to {self.most:.3f})  {verdict}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES), help="which to measure (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs of each case (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="rows, as a factor (default: %(default)s)")
    parser.add_argument("--parser", choices=("auto", "native", "numpy"), default="auto", help="shmlease's (default: auto)")
    parser.add_argument("--only", choices=("idiom", "shmlease"), help="run one of the two, without ratios")
    parser.add_argument("--directory", help="where to put files, and leave them; by default a temporary directory")
    parser.add_argument("--json", action="store_true", help="one JSON object with all runs and ratios")
    parser.add_argument("--as-idiom", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_idiom:
        compression, out, *paths = options.as_idiom
        run_idiom(out, paths, compression)
        return
    runs: dict[str, dict[str, list[Measured]]] = {}
    with contextlib.ExitStack() as stack:
        directory = options.directory or stack.enter_context(tempfile.TemporaryDirectory(prefix="shmlease-bench-"))
        os.makedirs(directory, exist_ok=True)
        for name in options.cases.split(","):
            runs[name] = run_case(CASES[name], directory, options)
    ratios = [] if options.only else [ratio for name, each in runs.items() for ratio in ratios_of(name, each)]
    load = f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} processors"
    if options.json:
        content = {name: {who: [asdict(run) for run in each] for who, each in case.items()} for name, case in runs.items()}
        print(json.dumps({"runs": content, "ratios": [asdict(ratio) for ratio in ratios], "load": load}))
        return
    print(*ratios, load, sep="\n")


def run_case(case: Case, directory: str, options: argparse.Namespace) -> dict[str, list[Measured]]:
    """Runs of each program, in turn."""
    rows = max(int(case.rows * options.scale), 10)
    paths = [make_file(directory, index, rows) for index in range(case.files)]
    out = os.path.join(directory, "out.h5")
    commands = {
        "idiom": [sys.executable, __file__, "--as-idiom", case.compression, out, *paths],
        "shmlease": ingest_command(paths, out, case.compression, options.parser),
    }
    if options.only:
        commands = {options.only: commands[options.only]}
    elif case.growth_target is not None:
        tenth = [make_file(directory, index, rows // 10) for index in range(case.files)]
        commands["a tenth"] = ingest_command(tenth, out, case.compression, options.parser)
    talk = sys.stderr if options.json else sys.stdout
    size = sum(map(os.path.getsize, paths))
    print(f"{case.files} files of {rows:,} rows, {size / 1e6:.0f} MB of text, compression {case.compression}", file=talk)
    runs: dict[str, list[Measured]] = {who: [] for who in commands}
    measure(ingest_command(paths, out, case.compression, options.parser))  # files and programs are in memory now
    for number in range(options.rounds):
        for who, command in commands.items():
            measured = measure(command)
            runs[who].append(measured)
            written = os.path.getsize(out)
            os.remove(out)
            print(
                f"  {number + 1} {who:9}  {measured.wall_s:6.2f} s  cpu {measured.cpu_s:6.2f} s  busy {measured.busy:4.0%} "
                " "
                f"peak {measured.peak_bytes / 1e6:6.0f} MB  file {written / 1e6:.1f} MB",
                flush=True,
                file=talk,
            )
    return runs


def ingest_command(paths: list[str], out: str, compression: str, parser: str) -> list[str]:
    return [
        *(sys.executable, "-m", "shmlease", "ingest", *paths, "-o", out, "--overwrite", "--quiet", "--parser", parser),
        *("--dtype", DTYPE, "--columns", ",".join(map(str, COLUMNS)), "--compression", compression),
    ]


def ratios_of(name: str, runs: dict[str, list[Measured]]) -> list[Ratio]:
    """Shmlease's figures over the idiom's, and over its own for a tenth of the rows."""
    case, ours, idiom = CASES[name], runs["shmlease"], runs["idiom"]
    ratios = [
        Ratio.of(
            name,
            f"{what} of the idiom's",
            [getattr(run, field) for run in ours],
            [getattr(run, field) for run in idiom],
            to,
        )
        for what, field, to in (
            ("wall time", "wall_s", case.wall_target),
            ("processor time", "cpu_s", None),
            ("peak memory", "peak_bytes", case.peak_target),
        )
    ]
    if case.growth_target is not None:
        peaks, tenth = ([float(run.peak_bytes) for run in each] for each in (ours, runs["a tenth"]))
        ratios.append(Ratio.of(name, "peak memory of a tenth of the rows'", peaks, tenth, case.growth_target))
    return ratios


def make_file(directory: str, index: int, rows: int) -> str:
    """Sites along the chromosomes, with the coverage and the methylation of a real sample."""
    path = os.path.join(directory, f"sample_{index}_{rows}.cov")
    if os.path.exists(path):
        return path
    random = np.random.default_rng(index)
    with open(path + ".new", "w") as file:
        for start in range(0, rows, 250_000):
            count = min(250_000, rows - start)
            chromosome = np.sort(random.integers(1, 23, count)).tolist()
            position = (np.cumsum(random.integers(1, 180, count)) + start * 90 % 200_000_000).tolist()
            coverage = random.poisson(12, count) + 1
            methylated = random.binomial(coverage, np.where(random.random(count) < 0.7, 0.9, 0.1))
            for row in zip(chromosome, position, methylated.tolist(), coverage.tolist(), strict=True):
                where, site, good, total = row
                file.write(f"chr{where}\t{site}\t{site}\t{100 * good / total:.6g}\t{good}\t{total - good}\n")
    os.replace(path + ".new", path)
    return path


# --- the idiom -------------------------------------------------------------------------------------------------------


def run_idiom(out: str, paths: list[str], compression: str) -> None:
    from multiprocessing import Pipe, Process, resource_tracker
    from multiprocessing.shared_memory import SharedMemory

    import h5py

    dtype = np.dtype([("chr", "S10"), ("pos", "i4"), ("pct", "f4"), ("c", "i4"), ("t", "i4")])
    resource_tracker.ensure_running()

    def load(path: str, segment: str, answer: object) -> None:
        rows = np.loadtxt(path, dtype=dtype, delimiter="\t", usecols=COLUMNS)
        memory = SharedMemory(name=segment, create=True, size=rows.nbytes)
        np.ndarray(rows.shape, dtype, memory.buf)[:] = rows
        memory.close()
        answer.send(len(rows))

    children = []
    for index, path in enumerate(paths):
        ours, theirs = Pipe()
        segment = f"{os.environ.get(MARK, 'bench')}-{index}"
        child = Process(target=load, args=(path, segment, theirs))
        child.start()
        children.append((child, ours, segment, path))
    filters = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if compression == "gzip" else {}
    with h5py.File(out, "w") as file:
        for child, answer, segment, path in children:
            count = answer.recv()
            memory = SharedMemory(name=segment)
            rows = np.ndarray(count, dtype, memory.buf)
            file.create_dataset(os.path.basename(path), data=rows, **filters)
            del rows
            memory.close()
            memory.unlink()
            child.join()


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(command: list[str]) -> Measured:
    """The command run twice: watched for processor time and memory, and left alone for the wall time."""
    watched = watch(command)
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    return replace(watched, wall_s=wall, busy=min(watched.cpu_s / wall / len(os.sched_getaffinity(0)), 1.0))


def watch(command: list[str]) -> Measured:
    mark = f"shmbench{secrets.token_hex(4)}"
    before = set(os.listdir("/dev/shm"))
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, MARK: mark}, stdout=subprocess.DEVNULL)
    watched: dict[int, bool] = {}
    registries: dict[str, bool] = {}
    cpu: dict[int, float] = {}
    peak = 0
    while process.poll() is None:
        peak = max(peak, sample(mark, before, watched, registries, cpu))
        time.sleep(0.01)
    wall = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{command[:4]} failed with {process.returncode}")
    used = sum(cpu.values())
    return Measured(wall, used, peak, used / wall / len(os.sched_getaffinity(0)))


def sample(
    mark: str, before: set[str], watched: dict[int, bool], registries: dict[str, bool], cpu: dict[int, float]
) -> int:
    """Bytes that the marked processes have now; notes their processor time."""
    total = 0
    needle = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        pid = int(name)
        try:
            if not watched.get(pid):
                with open(f"/proc/{pid}/environ", "rb") as file:
                    if needle not in file.read():
                        continue
                watched[pid] = True
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            cpu[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
            with open(f"/proc/{pid}/smaps_rollup") as file:
                sizes = dict(line.split(":") for line in file.read().splitlines()[1:])
            total += sum(int(sizes[key].split()[0]) * 1024 for key in ("Pss_Anon", "Pss_File"))
        except (OSError, ValueError):
            continue
    with os.scandir("/dev/shm") as entries:
        for entry in entries:
            if entry.name.startswith(mark) or (entry.name not in before and is_ours(entry, watched, registries)):
                total += size_of(entry)
    return total


def is_ours(entry: os.DirEntry[str], watched: dict[int, bool], registries: dict[str, bool]) -> bool:
    """Whether a registry's directory was made by a process that is watched: the ledger's name is in its open files."""
    if not entry.name.startswith("shmlease-"):
        return False
    if entry.name not in registries:
        for pid in watched:
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(entry.path + "/"):
                        registries[entry.name] = True
    return registries.get(entry.name, False)


def size_of(entry: os.DirEntry[str]) -> int:
    try:
        if entry.is_dir():
            with os.scandir(entry.path) as inside:
                return sum(size_of(each) for each in inside)
        return entry.stat().st_blocks * 512
    except OSError:
        return 0


if __name__ == "__main__":
    main()
