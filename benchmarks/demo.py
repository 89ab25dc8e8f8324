"""The main job on made-up data: methylation calls of a few samples from text into one HDF5 file, and nothing left behind.

Makes Bismark coverage files (seeded; one of them gzipped), ingests them through `shmlease.ingest`, shows what came out, the
registry as it was while it ran, and the audit afterwards. Everything goes to ``demo/``, or the directory that is named.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import h5py
import numpy as np
from rich.console import Console

import shmlease
from shmlease.auditor.audit import audit
from shmlease.auditor.report.formats import Style, render
from shmlease.cli import tables
from shmlease.hdf5 import verify
from shmlease.ingestion.ingest import ingest
from shmlease.ingestion.report import IngestReport, Progress
from shmlease.ingestion.summary import summary

ROWS = 400_000
SAMPLES = ("liver_1", "liver_2", "brain_1", "brain_2")
PACKED = "brain_2"
DTYPE = "chr:S5,pos:i4,pct:f4,methylated:i4,unmethylated:i4"
COLUMNS = [0, 1, 3, 4, 5]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", default="demo", help="where to put files (default: demo)")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows in each file (default: %(default)s)")
    directory, rows = parser.parse_args().directory, parser.parse_args().rows
    os.makedirs(directory, exist_ok=True)

    say(f"1. {len(SAMPLES)} Bismark coverage files of {rows:,} rows each")
    paths = [make_sample(directory, name, rows, seed) for seed, name in enumerate(SAMPLES)]
    for path in paths:
        print(f"   {path}  {os.path.getsize(path) / 1e6:.1f} MB")

    say("2. into one HDF5 file, through worker processes and leased shared memory")
    registry, report, looks = ingest_watched(paths, os.path.join(directory, "calls.h5"))
    print(looks.rstrip() if looks else "   (it was done before anybody could look)")

    say("3. what came out")
    show_file(report)

    say("4. what is left")
    return show_leftovers(report, registry)


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


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


def ingest_watched(paths: list[str], output: str) -> tuple[str, IngestReport, str]:
    """Ingest, and look at the lease table (not at the registry: the table is open to any reader) at the busiest moment."""
    busiest: tuple[int, list[tables.Look]] = (0, [])
    with shmlease.Registry("96MiB") as registry:

        def watch(_: Progress) -> None:
            nonlocal busiest
            looks = tables.look(registry.id)
            leases = sum(len(each.snapshot.leases) for each in looks if each.snapshot is not None)
            if leases > busiest[0]:
                busiest = leases, looks

        report = ingest(paths, output, dtype=DTYPE, columns=COLUMNS, overwrite=True, registry=registry, progress=watch)
    console = Console(width=118, force_terminal=sys.stdout.isatty())
    with console.capture() as capture:
        console.print(tables.as_text(busiest[1]))
    return registry.id, report, capture.get() if busiest[0] else ""


def show_file(report: IngestReport) -> None:
    print("   " + summary(report).replace("\n", "\n   "))
    with h5py.File(report.path) as file:
        name = report.datasets[0].name
        print(f"\n   {name}[:3] of {file[name].dtype}, chunks of {file[name].chunks[0]:,} rows, {file[name].compression}")
        for row in file[name][:3]:
            print(f"   {row}")
    began = time.monotonic()
    verdict = verify(report.path)
    print(
        f"   verified against its checksums in {time.monotonic() - began:.2f} s: "
        f"{'good' if verdict.is_good else 'NOT GOOD'}"
    )


def show_leftovers(report: IngestReport, registry_id: str) -> int:
    for leak in report.leaks:
        print(f"   leaked: {leak}")
    seen = audit()
    # what other programs on this machine do with shared memory at this moment is not for the demo to judge
    ours = tuple(each for each in seen.findings if registry_id in f"{each.registry} {each.name} {each.path}")
    shown = render(
        replace(seen, findings=ours), "text", Style(sys.stdout.isatty(), shutil.get_terminal_size().columns, False)
    )
    print(f"   registry {registry_id}:\n   " + shown.rstrip().replace("\n", "\n   "))
    return report.exit_code or replace(seen, findings=ours).exit_code()


if __name__ == "__main__":
    sys.exit(main())
