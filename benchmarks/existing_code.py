"""What existing code gains by one line, beside what it stands on.

Quantified: the wall time of a job, as a ratio to the same job on the standard library's, or joblib's, own pool. Methods
take turns within one run; a ratio is that of the medians. A pool is made, and its workers are started, before the time
runs.

- in and out: 8 tasks, each given an array of 16 MiB and returning another, on 2 workers;
- one argument: an array of 128 MiB, used by 64 tasks;
- small: 10,000 tasks, each given an array of 1 KiB and returning a number.

    python benchmarks/existing_code.py [--rounds 5] [--only "in and out"] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import joblib
import numpy as np

import shmlease
import shmlease.joblib
from shmlease.verification.bench.report import print_or_store
from shmlease.verification.bench.timing import Measurement, figure_of, machine

WORKERS = 2
CONTEXT = multiprocessing.get_context("fork")
Run = Callable[[], Any]


def negative(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.negative(array)


def total(array: np.ndarray[Any, Any], number: int = 0) -> float:
    return float(array[number::64].sum())


@contextlib.contextmanager
def each_array(function: Callable[[Any], Any], arrays: list[Any], capacity: str) -> Iterator[dict[str, Run]]:
    """A call of `function` for each of `arrays`, by every way there is."""
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(shmlease.Registry(capacity))
        with shmlease.carrying(registry):
            carrying = stack.enter_context(CONTEXT.Pool(WORKERS))
            carrying.map(total, arrays[:2])
        pool = stack.enter_context(CONTEXT.Pool(WORKERS))
        ours = stack.enter_context(shmlease.Executor(WORKERS, CONTEXT, registry=registry))
        theirs = stack.enter_context(ProcessPoolExecutor(WORKERS, CONTEXT))

        def carried() -> list[Any]:
            with shmlease.carrying(registry):
                return carrying.map(function, arrays, 1)

        yield {
            "ProcessPoolExecutor": lambda: list(theirs.map(function, arrays)),
            "Executor": lambda: list(ours.map(function, arrays)),
            "Pool": lambda: pool.map(function, arrays, 1),
            "Pool, carrying": carried,
            **with_joblib(stack, lambda parallel: parallel(joblib.delayed(function)(array) for array in arrays)),
        }


@contextlib.contextmanager
def one_argument() -> Iterator[dict[str, Run]]:
    array = np.ones(16 << 20)
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(shmlease.Registry("1GiB"))
        ours = stack.enter_context(shmlease.Executor(WORKERS, CONTEXT, registry=registry))

        def put_once() -> list[float]:
            with ours.put(array) as handle:
                return list(ours.map(total, [handle] * 64, range(64)))

        def job(parallel: Any) -> Any:
            return parallel(joblib.delayed(total)(array, number) for number in range(64))

        yield {"Executor.put": put_once, **with_joblib(stack, job)}


def in_and_out() -> AbstractContextManager[dict[str, Run]]:
    return each_array(negative, [np.full(2 << 20, float(number)) for number in range(8)], "1GiB")


def small() -> AbstractContextManager[dict[str, Run]]:
    return each_array(total, [np.full(128, float(number)) for number in range(10_000)], "256MiB")


def with_joblib(stack: contextlib.ExitStack, job: Callable[[Any], Any]) -> dict[str, Run]:
    """The job on joblib's backend and on ours, each with workers that stay."""
    runs: dict[str, Run] = {}
    for name, backend in (("loky", "loky"), ("joblib, shmlease", "shmlease")):
        parallel = joblib.Parallel(WORKERS, backend=backend)
        stack.enter_context(parallel)
        runs[name] = lambda parallel=parallel: job(parallel)  # type: ignore[misc]
    return runs


JOBS = {"in and out": in_and_out, "one argument": one_argument, "small": small}
# what each is beside, how many tasks it has, and what it is
REFERENCES = {"in and out": "ProcessPoolExecutor", "one argument": "loky", "small": "ProcessPoolExecutor"}
TASKS = {"in and out": 8, "one argument": 64, "small": 10_000}
QUANTIFIES = {
    "in and out": "Wall time of 8 tasks, each given an array of 16 MiB and returning another, on 2 workers that are there "
    "before; in a pool of the standard library and of joblib, with and without the line that leases their arrays.",
    "one argument": "Wall time of 64 tasks that use the same array of 128 MiB, on 2 workers that are there before.",
    "small": "Wall time of 10,000 tasks, each given an array of 1 KiB and returning a number, on 2 workers that are there "
    "before: such arrays travel in the message, with or without shmlease.",
}


def measured(job: str, rounds: int) -> Measurement:
    """Seconds of the job by every method, in turns."""
    with JOBS[job]() as runs:
        times: dict[str, list[float]] = {name: [] for name in runs}
        for round in range(rounds + 1):
            for name, run in runs.items():
                begun = time.perf_counter()
                run()
                if round:  # the first starts workers and fills pools
                    times[name].append(time.perf_counter() - begun)
    figures = [figure_of(name, TASKS[job], [[each] for each in seconds]) for name, seconds in times.items()]
    return Measurement(f"existing code: {job}", QUANTIFIES[job], "s", "tasks", REFERENCES[job], figures, machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=JOBS, help="one job alone")
    parser.add_argument("--json", default="", help="write the measurements here, for benchmarks/report.py")
    options = parser.parse_args()
    print_or_store([measured(job, options.rounds) for job in ([options.only] if options.only else JOBS)], options.json)


if __name__ == "__main__":
    main()
