"""Workers of an executor are SIGKILLed under load, at any moment: nothing leaks, no ticket lives on, no result is wrong."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import pytest

import shmlease
from rig.leased_arrays import in_use
from rig.until import until

FORK = multiprocessing.get_context("fork")
# Long enough for a registry to be told by the kernel, also on a machine that is busy with something else.
TICKETS_END_WITHIN_S = 0.05


def scaled(array: Any, factor: int) -> Any:
    return array * factor


def kill_workers(registry: shmlease.Registry, kills: int, seed: int) -> list[float]:
    """Seconds after each kill until there was no ticket."""
    chosen, late_s = random.Random(seed), []
    arrays = [np.arange(20_000 + n) for n in range(16)]
    for _ in range(kills):
        kept: list[tuple[int, Any]] = []
        with shmlease.Executor(2, FORK, registry=registry) as pool:
            futures = [pool.submit(scaled, arrays[n], n) for n in range(16)]
            futures[0].result()
            wait(futures, chosen.uniform(0, 0.01))
            for pid in list(pool._processes or ())[: chosen.choice((1, 1, 2))]:
                os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            until(lambda: registry.statistics().tickets == 0)
            late_s.append(time.monotonic() - killed)
            for number, future in enumerate(futures):
                try:
                    kept.append((number, future.result()))
                except BrokenProcessPool:
                    continue
        for number, result in kept:
            assert np.array_equal(result, arrays[number] * number), "a result of before a kill"
        result = None
        del kept, futures, future
        until(lambda: in_use(registry) == 0)
    return sorted(late_s)


def test_workers_killed_at_random_leave_nothing(registry: shmlease.Registry) -> None:
    kill_workers(registry, 10, seed=1)


@pytest.mark.stress
def test_a_thousand_killed_workers_leave_nothing(registry: shmlease.Registry) -> None:
    late_s = kill_workers(registry, 1000, seed=int(os.environ.get("SHMLEASE_SEED", "7")))
    p99 = late_s[989]
    print(f"no ticket after: median {late_s[500] * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, longest {late_s[-1] * 1e3:.1f} ms")
    assert p99 < TICKETS_END_WITHIN_S
