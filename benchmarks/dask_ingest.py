"""Text tables into HDF5 by a Dask cluster: `shmlease.dask.ingest` with one worker and with two, and the usual way.

The usual way is a task a file that reads it (numpy.loadtxt), a client that gathers the arrays and writes them with h5py
(gzip, shuffle). What is measured is wall time, in turns; medians and ratios are reported. Then the whole virtual dataset is
read, and the plain file that `consolidate` makes of it, in turns, both from the page cache; the values must be equal. One
thread does that, so its processor time is what is measured: other work on the machine does not show in it.

    python benchmarks/dask_ingest.py [--files 16] [--rows 500000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import distributed
import h5py
import numpy as np

import shmlease
import shmlease.dask

DTYPE = "chr:S10,pos:i4,pct:f4,c:i4,t:i4"
COLUMNS = [0, 1, 3, 4, 5]
ROWS = np.dtype([("chr", "S10"), ("pos", "<i4"), ("pct", "<f4"), ("c", "<i4"), ("t", "<i4")])


def write_table(path: str, rows: int, seed: int) -> None:
    """Methylation calls, as Bismark writes them."""
    random = np.random.default_rng(seed)
    position, coverage = np.cumsum(random.integers(1, 180, rows)), random.poisson(12, rows) + 1
    methylated = random.binomial(coverage, 0.7)
    with open(path, "w") as file:
        file.writelines(
            f"chr{seed}\t{at}\t{at}\t{100 * of / n:.6g}\t{of}\t{n - of}\n"
            for at, of, n in zip(position.tolist(), methylated.tolist(), coverage.tolist(), strict=True)
        )


def read_table(path: str) -> np.ndarray[Any, Any]:
    return np.loadtxt(path, dtype=ROWS, delimiter="\t", usecols=COLUMNS)


def through_the_client(client: distributed.Client, paths: list[str], out: str) -> None:
    with h5py.File(out, "w") as file:
        tables = client.map(read_table, paths, pure=False)
        for path, table in zip(paths, tables, strict=True):
            file.create_dataset(Path(path).stem, data=table.result(), compression="gzip", shuffle=True)


def read_all(path: str) -> tuple[float, int]:
    """Seconds of the processor to read all datasets, and a sum over them."""
    started = time.thread_time()
    with h5py.File(path) as file:
        total = sum(int(file[name][...]["pos"].sum()) for name in file)
    return time.thread_time() - started, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    workers: dict[str, Any] = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": ":0"}
    seconds: dict[str, list[float]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        shmlease.dask.LocalCluster(n_workers=1, **workers) as one,
        shmlease.dask.LocalCluster(n_workers=2, **workers) as two,
        one.get_client() as on_one,
        two.get_client() as on_two,
    ):
        paths = [f"{folder}/t{number}.cov" for number in range(options.files)]
        distributed.wait(on_two.map(write_table, paths, [options.rows] * len(paths), range(len(paths))))
        how: dict[str, Any] = {"dtype": DTYPE, "columns": COLUMNS, "overwrite": True}
        for _ in range(options.rounds):
            for name, run in (
                ("one worker", lambda: shmlease.dask.ingest(on_one, paths, f"{folder}/one.h5", **how)),
                ("two workers", lambda: shmlease.dask.ingest(on_two, paths, f"{folder}/two.h5", **how)),
                ("two workers, client, h5py", lambda: through_the_client(on_two, paths, f"{folder}/client.h5")),
            ):
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
        shmlease.dask.consolidate(f"{folder}/two.h5", f"{folder}/plain.h5")
        with h5py.File(f"{folder}/plain.h5") as plain, h5py.File(f"{folder}/client.h5") as by_client:
            for name in by_client:
                np.testing.assert_array_equal(plain[name][...], by_client[name][...])
        for _ in range(options.rounds + 1):
            for name, path in (("reading the virtual dataset", "two.h5"), ("reading the plain file", "plain.h5")):
                elapsed_s, _ = read_all(f"{folder}/{path}")
                seconds[name].append(elapsed_s)
    median = {name: statistics.median(each) for name, each in seconds.items()}
    for name, each in median.items():
        print(f"{name:28} {each:7.2f} s")
    print(f"two workers: {median['one worker'] / median['two workers']:.2f} times as fast as one")
    print(f"beside the client and h5py: {median['two workers'] / median['two workers, client, h5py']:.2f}x of the time")
    print(
        f"virtual beside plain: {median['reading the virtual dataset'] / median['reading the plain file']:.2f}x of the time"
    )


if __name__ == "__main__":
    main()
