"""Ingest against the usual idiom, on methylation calls: wall time, processor time, and memory of all processes together.

The idiom is what one finds written: a process and a ``SharedMemory`` for each file, `numpy.loadtxt`, and a parent that writes
h5py gzip-4 with shuffle (or nothing) while the others go on. As usually printed it fails: each child starts a resource tracker
of its own, which unlinks the child's segment when the child exits. Here it is repaired by starting the tracker first, and each
child answers through a pipe of its own.

Both run as programs of their own, interpreter start and imports included, in turn, on the same files (made by a seed). Wall time
is from start to exit; memory is the most that all processes had at once, sampled every 10 ms: private memory and file pages by
share (PSS without shared memory), and the files in /dev/shm. Ratios are medians of the pairs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np

DTYPE = "chr:S10,pos:i4,pct:f4,c:i4,t:i4"
COLUMNS = (0, 1, 3, 4, 5)
MARK = "LEASEHOLD_BENCHMARK"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Measured:
    """One run of one program."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    busy: float  # of all processors, between the first and the last sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=8, help="number of files (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows in each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs (default: %(default)s)")
    parser.add_argument("--compression", choices=("gzip", "none"), default="gzip")
    parser.add_argument("--only", choices=("idiom", "leasehold"), help="run one of the two")
    parser.add_argument("--directory", help="where to put files; by default a temporary directory")
    parser.add_argument("--as-idiom", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_idiom:
        run_idiom(options.as_idiom[0], options.as_idiom[1:], options.compression)
        return
    with contextlib.ExitStack() as stack:
        directory = options.directory or stack.enter_context(tempfile.TemporaryDirectory(prefix="leasehold-bench-"))
        os.makedirs(directory, exist_ok=True)
        paths = [make_file(directory, index, options.rows) for index in range(options.files)]
        compare(paths, directory, options)


def compare(paths: list[str], directory: str, options: argparse.Namespace) -> None:
    out = os.path.join(directory, "out.h5")
    commands = {
        "idiom": [sys.executable, __file__, "--compression", options.compression, "--as-idiom", out, *paths],
        "leasehold": [
            *(sys.executable, "-m", "leasehold", "ingest", *paths, "-o", out, "--quiet"),
            *("--dtype", DTYPE, "--columns", ",".join(map(str, COLUMNS)), "--compression", options.compression),
        ],
    }
    chosen = [options.only] if options.only else list(commands)
    runs: dict[str, list[Measured]] = {name: [] for name in chosen}
    size = sum(map(os.path.getsize, paths))
    print(f"{len(paths)} files of {options.rows:,} rows, {size / 1e6:.0f} MB of text, compression {options.compression}")
    for number in range(options.rounds):
        for name in chosen:
            measured = measure(commands[name])
            runs[name].append(measured)
            written = os.path.getsize(out)
            os.remove(out)
            print(
                f"  {number + 1} {name:9}  {measured.wall_s:6.2f} s  cpu {measured.cpu_s:6.2f} s  busy {measured.busy:4.0%}  "
                f"peak {measured.peak_bytes / 1e6:6.0f} MB  file {written / 1e6:.1f} MB",
                flush=True,
            )
    if len(runs) == 2:
        for what in ("wall_s", "cpu_s", "peak_bytes"):
            ratios = [getattr(b, what) / getattr(a, what) for a, b in zip(runs["idiom"], runs["leasehold"], strict=True)]
            print(f"{what:10}  {statistics.median(ratios):.3f}x of the idiom  ({min(ratios):.3f} to {max(ratios):.3f})")
    load = os.getloadavg()[0]
    print(f"load average {load:.1f} on {len(os.sched_getaffinity(0))} processors")


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
    mark = f"lhbench{secrets.token_hex(4)}"
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
    if not entry.name.startswith("lh-"):
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
