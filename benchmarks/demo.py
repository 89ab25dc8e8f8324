"""The point of it in thirty lines: text into one HDF5 file, a killed worker survived, a planted leak found with its line.

Makes Bismark coverage files (seeded; one of them gzipped) and ingests them through `shmlease.ingest`; meanwhile a worker is
killed with SIGKILL. Shows the registry at work and what came out; then runs a program that leaks under `shmlease run`, and
audits what is left. Everything goes to ``demo/``, or the directory that is named.
"""

from __future__ import annotations

import argparse
import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import h5py
import numpy as np
from rich.console import Console

import shmlease
from shmlease.auditor.judge.findings import Finding
from shmlease.cli import tables
from shmlease.hdf5 import verify
from shmlease.ingestion.report import IngestReport, Progress

ROWS = 400_000
SAMPLES = ("liver_1", "liver_2", "brain_1", "brain_2")
PACKED = "brain_2"
DTYPE = "chr:S5,pos:i4,pct:f4,methylated:i4,unmethylated:i4"
COLUMNS = [0, 1, 3, 4, 5]
LEAKY = """\
from multiprocessing.shared_memory import SharedMemory


def load():
    segment = SharedMemory(create=True, size=2**20)
    segment.buf[:5] = b"calls"
    segment.close()


load()
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", default="demo", help="where to put files (default: demo)")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows in each file (default: %(default)s)")
    directory, rows = parser.parse_args().directory, parser.parse_args().rows
    os.makedirs(directory, exist_ok=True)

    paths = [make_sample(directory, name, rows, seed) for seed, name in enumerate(SAMPLES)]
    size = sum(os.path.getsize(path) for path in paths) / 1e6
    say(f"1. Into one HDF5 file: {len(SAMPLES)} files of {rows:,} rows, {size:.0f} MB; the registry at work meanwhile")
    registry, report, looks, killed = ingest_watched(paths, os.path.join(directory, "calls.h5"))
    show(looks)

    say("2. What came out" + (f", though worker {killed} was killed with SIGKILL" if killed else ""))
    show(str(report))
    with h5py.File(report.path) as file:
        name = report.datasets[0].name
        show(f"{name}[0] = {file[name][0]}; against its checksums: {'good' if verify(report.path).is_good else 'NOT GOOD'}")

    say("3. A program that leaks, under `shmlease run`")
    found = find_leak(directory)

    say("4. What is left")
    left = left_of(registry)
    for finding in left:
        show(f"leaked: {finding.message}")
    show(f"of registry {registry}: {len(left) or 'nothing'}; leaks of the ingest: {len(report.leaks) or 'none'}")
    return int(bool(left or report.exit_code or not found))


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


def show(text: str) -> None:
    print("   " + text.rstrip().replace("\n", "\n   "), flush=True)


def make_sample(directory: str, name: str, rows: int, seed: int) -> str:
    """Sites along five chromosomes; most are methylated almost always or almost never, as in a real genome."""
    path = os.path.join(directory, f"{name}.cov" + (".gz" if name == PACKED else ""))
    random = np.random.default_rng(seed)
    with gzip.open(path, "wt", compresslevel=1) if path.endswith(".gz") else open(path, "w") as file:
        for lines in sample_lines(random, rows):
            file.write(lines)
    return path


def sample_lines(random: np.random.Generator, rows: int) -> Iterator[str]:
    chromosomes = ("chr1", "chr2", "chr3", "chr4", "chrX")
    for index, chromosome in enumerate(chromosomes):
        count = rows // len(chromosomes) + (index < rows % len(chromosomes))
        position = np.cumsum(random.integers(2, 400, count))
        coverage = random.poisson(14, count) + 1
        methylated = random.binomial(coverage, np.where(random.random(count) < 0.72, 0.93, 0.04))
        for site, good, total in zip(position.tolist(), methylated.tolist(), coverage.tolist(), strict=True):
            yield f"{chromosome}\t{site}\t{site}\t{100 * good / total:.6g}\t{good}\t{total - good}\n"


def ingest_watched(paths: list[str], output: str) -> tuple[str, IngestReport, str, int]:
    """Ingest; look at the lease table at the busiest moment, and kill a worker that holds a lease.

    The table is open to any reader: the registry is not asked.
    """
    busiest: tuple[int, list[tables.Look]] = (0, [])
    killed = 0
    with shmlease.Registry("96MiB") as registry:

        def watch(_: Progress) -> None:
            nonlocal busiest, killed
            looks = tables.look(registry.id)
            for snapshot in (each.snapshot for each in looks):
                if snapshot is None:
                    continue
                if len(snapshot.leases) > busiest[0]:
                    busiest = len(snapshot.leases), looks
                workers = {tables.pid_of(snapshot, lease) for lease in snapshot.leases} - {os.getpid(), None}
                if workers and not killed:
                    killed = max(pid for pid in workers if pid is not None)
                    os.kill(killed, signal.SIGKILL)

        report = shmlease.ingest(
            paths, output, dtype=DTYPE, columns=COLUMNS, overwrite=True, registry=registry, progress=watch
        )
    console = Console(width=115, force_terminal=sys.stdout.isatty())
    with console.capture() as capture:
        console.print(tables.as_text(busiest[1]))
    return registry.id, report, capture.get() or "(it was done before anybody could look)", killed


def find_leak(directory: str) -> bool:
    """Whether `shmlease run` finds the leak of a program, names its line, and exits with 23."""
    with open(os.path.join(directory, "leaky.py"), "w") as file:
        file.write(LEAKY)
    command = [sys.executable, "-m", "shmlease", "run", "-o", "audit.html", "--", sys.executable, "leaky.py"]
    run = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    told = f"{run.stdout}{run.stderr}"
    show("\n".join(line for line in told.splitlines() if line.strip() and "resource_tracker" not in line))
    show(f"exit code {run.returncode}; as a page: {os.path.join(directory, 'audit.html')}")
    return run.returncode == 23 and "leaky.py:5 in load" in told


def left_of(registry: str) -> list[Finding]:
    """What an audit finds of it; what other programs do with shared memory at this moment is not for the demo to judge."""
    return [each for each in shmlease.audit().findings if registry in f"{each.registry} {each.name} {each.path}"]


if __name__ == "__main__":
    sys.exit(main())
