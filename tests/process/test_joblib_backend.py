"""The joblib backend over real workers: joblib's habits are kept, and nothing is left."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import shmlease
import shmlease.integrations.joblib as backend
from rig.leased_arrays import in_use, is_leased
from rig.until import until

LARGE = 200_000  # float64: above joblib's 1 MiB


@pytest.fixture(autouse=True)
def workers(registry: shmlease.Registry) -> Iterator[None]:
    """Joblib's workers stay; those of a test end with it."""
    yield
    for pool in backend._workers.values():
        pool.shutdown(kill_workers=True)
    backend._workers.clear()
    gc.collect()  # loky's semaphores


def described(array: Any) -> tuple[bool, bool, float]:
    return is_leased(array), array.flags.writeable, float(array.sum())


def test_large_arguments_are_there_once_and_read_only(registry: shmlease.Registry) -> None:
    big = np.ones(LARGE)
    with joblib.parallel_config(backend="shmlease"):
        answers = joblib.Parallel(2)(joblib.delayed(described)(big) for _ in range(20))
        assert set(answers) == {(True, False, LARGE)}
        assert registry.statistics().counters["published"] == 1
        assert joblib.Parallel(2, mmap_mode="c")([joblib.delayed(described)(big)] * 2) == [(True, True, LARGE)] * 2
        assert joblib.Parallel(2, max_nbytes="2M")([joblib.delayed(described)(big[:100_000])] * 2)[0][2] == 100_000
        assert joblib.Parallel(2, max_nbytes=None)([joblib.delayed(described)(big[:100])] * 2)[0] == (False, True, 100)
    until(lambda: in_use(registry) == 0)


def test_arrays_made_on_the_way_do_not_pile_up(registry: shmlease.Registry) -> None:
    with joblib.parallel_config(backend="shmlease"):
        made = (np.full(1 << 20, float(n)) for n in range(30))
        answers = joblib.Parallel(2, pre_dispatch=2, batch_size=1)(joblib.delayed(described)(array) for array in made)
    assert answers == [(True, False, float(n) * (1 << 20)) for n in range(30)], "there is room for each"
    assert registry.statistics().peaks["bytes"] <= 48 << 20, "of 240 MiB"
    until(lambda: in_use(registry) == 0)


def test_results_travel_as_leases_and_are_writable(registry: shmlease.Registry) -> None:
    with joblib.parallel_config(backend="shmlease"):
        results = joblib.Parallel(2)(joblib.delayed(np.full)(LARGE, n) for n in range(6))
    for number, result in enumerate(results):
        assert described(result) == (True, True, float(number * LARGE))
        result.fill(0)
    del results, result
    until(lambda: in_use(registry) == 0)


def test_functions_of_the_moment_nested_calls_and_generators_work(registry: shmlease.Registry) -> None:
    factor = 3
    with joblib.parallel_config(backend="shmlease"):
        assert joblib.Parallel(2)(joblib.delayed(lambda n: n * factor)(n) for n in range(5)) == [0, 3, 6, 9, 12]
        inner = joblib.delayed(lambda n: sum(joblib.Parallel(2)(joblib.delayed(abs)(-n) for _ in range(3))))
        assert joblib.Parallel(2)(inner(n) for n in range(3)) == [0, 3, 6]
        assert list(joblib.Parallel(2, return_as="generator")(joblib.delayed(abs)(-n) for n in range(5))) == [*range(5)]
    assert registry.statistics().counters.get("published", 0) == 0, "small things stay in the message"


def test_array_on_a_file_stays_on_it(registry: shmlease.Registry, tmp_path: Path) -> None:
    array = np.memmap(tmp_path / "array", dtype=float, shape=(LARGE,), mode="w+")
    array[:] = 1
    with joblib.parallel_config(backend="shmlease"):
        assert joblib.Parallel(2)([joblib.delayed(described)(array[10:])] * 2)[0][2] == LARGE - 10
    assert registry.statistics().counters.get("published", 0) == 0


def test_killed_worker_and_failed_task_leave_nothing(registry: shmlease.Registry) -> None:
    big = np.ones(LARGE)
    with joblib.parallel_config(backend="shmlease"):
        with pytest.raises(Exception, match="SIGKILL"):
            joblib.Parallel(2)(joblib.delayed(kill_myself)(big) for _ in range(4))
        with pytest.raises(ZeroDivisionError):
            joblib.Parallel(2)(joblib.delayed(fail)(big) for _ in range(4))
        assert joblib.Parallel(2)([joblib.delayed(described)(big)] * 2)[0][2] == LARGE
    until(lambda: in_use(registry) == 0)


def test_memory_that_workers_write_to_is_refused(registry: shmlease.Registry) -> None:
    with joblib.parallel_config(backend="shmlease"), pytest.raises(ValueError, match="snapshots"):
        joblib.Parallel(2, mmap_mode="r+")(joblib.delayed(abs)(1) for _ in range(2))


def kill_myself(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(array: Any) -> float:
    return float(array[0]) / 0


@pytest.mark.parametrize("imports", ["import joblib, shmlease", "import shmlease, joblib, shmlease.joblib"])
def test_backend_is_known_after_the_imports_that_the_docs_name(imports: str) -> None:
    code = f"{imports}\nprint(len(joblib.Parallel(1, backend='shmlease')(joblib.delayed(abs)(n) for n in range(3))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
