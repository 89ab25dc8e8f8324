"""SIGKILLs of workers, of the node's registry and of the scheduler while arrays travel and files are ingested.

    PYTHONPATH=tests python tests/process/dask_kills.py [--kills 200] [--seed 1]

A round is a cluster of its own, in processes of its own, until its scheduler is killed or it has had its share of kills.
What a round computes is right, or raises an error of Dask's or shmlease's that says so. When all its processes have ended,
nothing of its registry is in /dev/shm, and a file that was ingested stands beside its shards and their plan only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import dask
import numpy as np
from distributed import Client, Scheduler, Worker
from distributed.comm import CommClosedError
from ingesting import COLUMNS, DTYPE, expected, make_table, rows_of

import shmlease
import shmlease.dask
from rig.until import until
from shmlease.system.directory import RegistryDirectory

__all__ = ["Outcome", "run"]

LONG = 1 << 19  # elements, of 8 bytes
WORKERS = 3
KILLS_A_ROUND = 8
# What a client of Dask's sees of a cluster that is no more.
CLEAR_ERRORS = (CommClosedError, CancelledError, TimeoutError, ConnectionError, shmlease.LeaseError)
TARGETS = {"worker": 14, "registry": 5, "scheduler": 1}
_context = get_context("forkserver")


@dataclass
class Outcome:
    """What rounds came to: kills by target, results by kind, and what was wrong."""

    kills: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def run(kills: int, seed: int, folder: Path) -> Outcome:
    """Rounds until so many processes were killed."""
    _context.set_forkserver_preload(["distributed", "shmlease.dask", "h5py", "numpy"])
    total, chosen = Outcome(), random.Random(seed)
    tables = [make_table(folder / f"{number}.cov", 20_000, number) for number in range(4)]
    while total.kills.total() < kills and not total.faults:
        ours, theirs = _context.Pipe()
        most = min(KILLS_A_ROUND, kills - total.kills.total())
        driver = _context.Process(target=_drive, args=(theirs, most, chosen.randrange(1 << 30), str(folder), tables))
        driver.start()
        theirs.close()
        id, outcome = "", Outcome(faults=["the round did not end"])
        with contextlib.suppress(EOFError):
            if ours.poll(180):
                id, outcome = ours.recv()
        driver.join(30)
        if driver.is_alive():
            driver.kill()
        total.kills += outcome.kills
        total.results += outcome.results
        total.faults += outcome.faults or _left_of(id)
        print(total.kills.total(), dict(total.kills), dict(total.results), *total.faults, flush=True)
    return total


def _left_of(id: str) -> list[str]:
    def left() -> list[str]:
        return [name for name in os.listdir("/dev/shm") if name.startswith(f"shmlease-{id}")]

    try:
        until(lambda: not left(), 5)
    except AssertionError:
        shmlease.Registry("1MiB").close()  # a start removes what the dead have left
    return [f"{name} is left" for name in left()]


async def _schedule(address: Connection) -> None:
    async with Scheduler(port=0, host="127.0.0.1", dashboard=False) as scheduler:
        address.send(scheduler.address)
        await scheduler.finished()


async def _work(scheduler: str, folder: str) -> None:
    options: dict[str, Any] = {"memory_limit": 0, "dashboard": False, "death_timeout": 20}
    async with Worker(scheduler, nthreads=1, local_directory=folder, preload=["shmlease.dask"], **options) as worker:
        await worker.finished()


def _serve(serve: Any, *arguments: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Dask logs whatever is killed
    dask.config.set({"distributed.scheduler.allowed-failures": 1000, "distributed.comm.timeouts.connect": "5s"})
    asyncio.run(serve(*arguments))


class _Cluster:
    """The processes of a round."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        ours, theirs = _context.Pipe()
        self.scheduler = self._start(_schedule, theirs)
        self.address = ours.recv()
        self.workers = [self._start(_work, self.address, folder) for _ in range(WORKERS)]

    def _start(self, *arguments: Any) -> ForkServerProcess:
        process = _context.Process(target=_serve, args=arguments)
        process.start()
        return process

    def kill(self, target: str, chosen: random.Random, id: str) -> bool:
        """End one, without a word; a worker is replaced. False where it is a registry that was killed before, and that
        nobody has called since: its successor is started by the first who does.
        """
        if target == "scheduler":
            self.scheduler.kill()
        elif target == "worker":
            place = chosen.randrange(len(self.workers))
            self.workers[place].kill()
            self.workers[place].join()
            self.workers[place] = self._start(_work, self.address, self._folder)
        else:
            row = RegistryDirectory(id).read_ledger().registry
            assert row is not None
            try:
                os.kill(row.identity.pid, signal.SIGKILL)
            except ProcessLookupError:
                return False
        return True

    def end(self) -> None:
        """Wait until all have ended: what has lost its scheduler does so by itself."""
        self.scheduler.kill()
        for process in [self.scheduler, *self.workers]:
            process.join(20)
            if process.is_alive():
                process.kill()
                process.join()


def made(seed: int) -> np.ndarray[Any, Any]:
    return np.full(LONG, float(seed))


def sum_of(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    time.sleep(0.01)
    return float(one.sum() + other.sum())


def _drive(report: Connection, most: int, seed: int, folder: str, tables: list[Path]) -> None:
    outcome, chosen, id = Outcome(), random.Random(seed), ""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    dask.config.set({"distributed.comm.timeouts.connect": "5s"})
    with tempfile.TemporaryDirectory(dir=folder) as own:
        cluster = _Cluster(own)
        try:
            with Client(cluster.address, set_as_default=False, timeout=20) as client:
                shmlease.dask.join(client)
                client.wait_for_workers(WORKERS, timeout=60)
                id = client.submit(lambda: shmlease.connect().id, pure=False).result(60)
                while outcome.kills.total() < most and not outcome.kills["scheduler"] and not outcome.faults:
                    target = chosen.choices(list(TARGETS), list(TARGETS.values()))[0]
                    task = _ingest if chosen.random() < 0.3 else _add
                    with _killed_meanwhile(cluster, target, chosen, id) as killed:
                        outcome.results[task(client, own, tables, outcome, target)] += 1
                    outcome.kills[target] += killed.result()
        except CLEAR_ERRORS as error:
            if not outcome.kills["scheduler"]:
                outcome.faults.append(f"{type(error).__name__}: {error}")
        except BaseException as error:
            outcome.faults.append(f"{type(error).__name__}: {error}")
        finally:
            cluster.end()
    report.send((id, outcome))


@contextlib.contextmanager
def _killed_meanwhile(cluster: _Cluster, target: str, chosen: random.Random, id: str) -> Iterator[Future[bool]]:
    after_s = chosen.random() ** 2
    with ThreadPoolExecutor(1) as pool:

        def kill() -> bool:
            time.sleep(after_s)
            return cluster.kill(target, chosen, id)

        yield pool.submit(kill)


def _add(client: Client, own: str, tables: list[Path], outcome: Outcome, target: str) -> str:
    del own, tables
    try:
        arrays = client.map(made, range(5), pure=False)
        sums = [client.submit(sum_of, one, other, pure=False) for one in arrays for other in arrays]
        results = [each.result(60) for each in sums]
    except CLEAR_ERRORS as error:
        return _failed(outcome, target, error)
    if results != [LONG * float(one + other) for one in range(5) for other in range(5)]:
        outcome.faults.append(f"wrong sums {results}")
    return "right sums"


def _ingest(client: Client, own: str, tables: list[Path], outcome: Outcome, target: str) -> str:
    out = f"{own}/{time.monotonic_ns()}.h5"
    try:
        shmlease.dask.ingest(client, tables, out, shards=6, dtype=DTYPE, columns=COLUMNS)
    except CLEAR_ERRORS as error:
        return _failed(outcome, target, error)
    for table in tables:
        if not np.array_equal(rows_of(Path(out), table.stem), expected(table)):
            outcome.faults.append(f"wrong rows of {table}")
    left = [name for name in os.listdir(f"{out}.shards") if name != "plan.json" and not name.endswith(".h5")]
    outcome.faults += [f"{name} is left beside the shards" for name in left]
    return "right files"


def _failed(outcome: Outcome, target: str, error: BaseException) -> str:
    if target != "scheduler":
        outcome.faults.append(f"a {target} was killed: {type(error).__name__}: {error}")
    return f"clear error ({type(error).__name__})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(bool(run(options.kills, options.seed, Path(folder)).faults))
