"""Workers of an executor are SIGKILLed under load, at any moment: nothing leaks, no ticket lives on, no result is wrong."""

from __future__ import annotations

import multiprocessing
import os
import random
import select
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


def kill_workers(registry: shmlease.Registry, kills: int, seed: int) -> tuple[list[float], list[float]]:
    """Seconds after each kill until there was no ticket, and how many of them the killed process itself still ran."""
    chosen, late_s, ran_s = random.Random(seed), [], []
    arrays = [np.arange(20_000 + n) for n in range(16)]
    for _ in range(kills):
        kept: list[tuple[int, Any]] = []
        with shmlease.Executor(2, FORK, registry=registry) as pool:
            futures = [pool.submit(scaled, arrays[n], n) for n in range(16)]
            futures[0].result()
            wait(futures, chosen.uniform(0, 0.01))
            killed = [os.pidfd_open(pid) for pid in list(pool._processes or ())[: chosen.choice((1, 1, 2))]]
            began = time.monotonic()
            for pidfd in killed:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            for pidfd in killed:
                select.select([pidfd], [], [])
                os.close(pidfd)
            ran_s.append(time.monotonic() - began)
            until(lambda: registry.statistics().tickets == 0)
            late_s.append(time.monotonic() - began)
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
    return late_s, ran_s


def test_workers_killed_at_random_leave_nothing(registry: shmlease.Registry) -> None:
    kill_workers(registry, 10, seed=1)


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_a_thousand_killed_workers_leave_nothing(registry: shmlease.Registry) -> None:
    late_s, ran_s = kill_workers(registry, 1000, seed=int(os.environ.get("SHMLEASE_SEED", "7")))
    after_death_s = [late - ran for late, ran in zip(late_s, ran_s, strict=True)]
    for told, times_s in (("the kill", late_s), ("the death", after_death_s)):
        times_s.sort()
        median, p99, longest = (times_s[place] * 1e3 for place in (500, 989, -1))
        print(f"no ticket after {told}: median {median:.1f} ms, p99 {p99:.1f} ms, longest {longest:.1f} ms")
    assert after_death_s[989] < TICKETS_END_WITHIN_S, "a killed process may run on until the kernel gives it a processor"
