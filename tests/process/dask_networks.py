"""Two nodes with a network and a /dev/shm each: to be run where both ends of a link are, ``here`` and ``there``.

python dask_networks.py DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from dask_nodes import started_node, total_of_copy, total_of_lease
from distributed import wait
from ingesting import COLUMNS, DTYPE, expected, make_table, rows_of

import shmlease.dask

LONG = 1 << 20  # elements, of 8 bytes
HERE, THERE = "10.213.0.1", "10.213.0.2"


def main(directory: Path) -> None:
    workers = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": ":0"}
    with (
        shmlease.dask.LocalCluster(host=HERE, capacity="256MiB", **workers) as cluster,
        cluster.get_client() as client,
    ):
        here = sorted(client.scheduler_info()["workers"])
        preload = ("--preload", "shmlease.dask")
        with started_node(client, directory, "b1", "b2", options=preload, link="there", address=THERE) as node:
            hosts = {worker["host"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()}
            assert hosts == {HERE, THERE}, hosts
            assert node.registries() not in ([], [cluster.registry.id]), "a registry of its own"
            for one, other in ((here[0], here[1]), ("b1", "b2")):
                made = client.submit(np.ones, LONG, workers=one, pure=False)
                wait(made)
                assert client.submit(total_of_lease, made, workers=other, pure=False).result() == LONG
            for one, other in ((here[0], "b1"), ("b2", here[1])):
                made = client.submit(np.ones, LONG, workers=one, pure=False)
                wait(made)
                assert client.submit(total_of_copy, made, workers=other, pure=False).result() == LONG
            tables = [make_table(directory / f"{number}.cov", 5_000, number) for number in range(8)]
            report = shmlease.dask.ingest(client, tables, directory / "out.h5", dtype=DTYPE, columns=COLUMNS)
            assert report.rows == 40_000
            for table in tables:
                np.testing.assert_array_equal(rows_of(directory / "out.h5", table.stem), expected(table))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
