"""CPython's own tests of concurrent.futures' process pool pass on shmlease's executor; see `rig/stdlib_process_pool.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import shmlease
from rig.stdlib_process_pool import NO_TESTS

RUNNER = Path(__file__).parents[2] / "rig" / "stdlib_process_pool.py"

# Of everything something, a second each at most.
QUICK = (
    "ForkProcessPoolExecutorTest.test_map",
    "ForkProcessPoolExecutorTest.test_submit_keyword",
    "ForkProcessPoolExecutorTest.test_killed_child",
    "ForkProcessPoolExecutorTest.test_traceback",
    "ForkProcessPoolExecutorTest.test_ressources_gced_in_workers",
    "ForkProcessPoolShutdownTest.test_del_shutdown",
    "ForkProcessPoolShutdownTest.test_cancel_futures",
    "ForkFailingInitializerTest",
    "ForkExecutorDeadlockTest.test_crash_at_task_unpickle",
    "ForkWaitTest.test_first_exception",
    "ForkAsCompletedTest.test_duplicate_futures",
    "SpawnProcessPoolExecutorTest.test_max_tasks_per_child",
    "ForkserverProcessPoolExecutorTest.test_idle_process_reuse_one",
)


def run(*patterns: str) -> None:
    with shmlease.Registry("256MiB") as registry:
        done = subprocess.run(
            [sys.executable, RUNNER, *patterns], capture_output=True, text=True, check=False, timeout=3000
        )
        if done.returncode == NO_TESTS:
            pytest.skip(f"NOT TESTED: this Python {sys.version.split()[0]} was installed without CPython's own tests")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "\nOK" in done.stderr
        assert sum(registry.statistics().leases.values()) == 0


def test_stdlib_tests_of_the_process_pool_pass_a_choice() -> None:
    run(*QUICK)


@pytest.mark.stress
@pytest.mark.timeout(3000)
def test_stdlib_tests_of_the_process_pool_pass() -> None:
    run()
