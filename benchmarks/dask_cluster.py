"""Arrays between the processes of a Dask cluster on one machine, through leased memory and through Dask's own tcp.

What is measured is wall time, in the same run and in turns, on two clusters of two workers that differ in nothing else. The
medians are reported, and the ratio of the two:

* a transfer, as the worker that asks for the array of another sees it (Dask's own function for it); the same array again
* `client.scatter` to one worker, and of the same array to the other
* `client.gather`, and of the same array again; both clients talk to the workers directly

    python benchmarks/dask_cluster.py [--size 64MiB] [--rounds 9]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import distributed
import numpy as np
from distributed.worker import get_data_from_worker

import shmlease.dask
from shmlease.units import parse_bytes


async def transfer_s(key: str, holder: str, dask_worker: distributed.Worker) -> float:
    """Seconds until this worker has the array `key` of another."""
    started = time.perf_counter()
    response = await get_data_from_worker(dask_worker.rpc, [key], holder, who=dask_worker.address)
    elapsed = time.perf_counter() - started
    assert response["data"][key][-1] > 0
    return elapsed


def measure(client: distributed.Client, size_bytes: int, number: int, record: Callable[[str, float], None]) -> None:
    """One round on one cluster."""
    one, other = sorted(client.scheduler_info()["workers"])
    made = client.submit(np.full, size_bytes // 8, number + 1.0, workers=one, key=f"array-{number}")
    distributed.wait(made)
    for name in ("worker to worker", "worker to worker, again"):
        record(name, client.run(transfer_s, made.key, one, workers=[other])[other])
    for name in ("gather", "gather, again"):
        started = time.perf_counter()
        result = made.result()
        record(name, time.perf_counter() - started)
        assert result[-1] == number + 1
        del result
    array = np.full(size_bytes // 8, number + 0.5)
    for name, worker in (("scatter", one), ("scatter, again", other)):
        started = time.perf_counter()
        future = client.scatter(array, workers=worker, hash=False)
        record(name, time.perf_counter() - started)
        del future


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="64MiB")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    size_bytes = parse_bytes(options.size)
    workers: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": ":0"}
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (
        shmlease.dask.LocalCluster(capacity=16 * size_bytes, **workers) as leased,
        distributed.LocalCluster(**workers) as plain,
        leased.get_client() as by_lease,
        distributed.Client(plain, direct_to_workers=True) as by_tcp,
    ):
        for number in range(options.rounds):
            for way, client in (("leases", by_lease), ("tcp", by_tcp)):
                measure(client, size_bytes, number, lambda name, s, way=way: seconds[name][way].append(s))
    print(f"{options.size}, {options.rounds} rounds, medians in ms")
    for name, by_way in seconds.items():
        leases, tcp = (1e3 * statistics.median(by_way[way]) for way in ("leases", "tcp"))
        print(f"{name:25} leases {leases:7.1f}   tcp {tcp:7.1f}   {leases / tcp:.2f}x")


if __name__ == "__main__":
    main()
