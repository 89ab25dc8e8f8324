"""Hand-over of one array to another process and back to free, beside the stdlib idiom and a plain memory copy.

Quantified: the median wall time of one cycle, in microseconds and as a ratio to the stdlib idiom of the same run. A cycle: the
producer copies a private array into shared memory and sends word through a `multiprocessing.Pipe`; the consumer opens it,
reads the first and last element and a strided sum, lets go and answers; the producer frees. Both sides are real processes
(spawned). The stdlib idiom is a `SharedMemory` made and unlinked by the producer in each cycle, with the resource tracker
started beforehand and shared, as it must be to work at all. Methods alternate in blocks within one run, since machines are
shared and noisy; a memory copy of the same array is the unit of the last column.

    python benchmarks/handover.py [--sizes 4KiB,1MiB,64MiB] [--seconds 2] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, shared_memory
from multiprocessing.connection import Connection

import numpy as np

import leasehold
from leasehold.units import format_bytes, parse_bytes

Cycle = Callable[[], None]


def read(array: np.ndarray) -> float:
    """What a consumer looks at: both ends and one number of each page or so."""
    return float(array[0]) + float(array[-1]) + float(array[:: max(len(array) // 16, 1)].sum())


def consume(pipe: Connection, registry: str) -> None:
    """The consumer: serves one request after another until None comes."""
    handle = leasehold.connect(registry)
    while (request := pipe.recv()) is not None:
        method, payload = request
        if method == "leasehold":
            with handle.redeem(payload) as lease:
                value = read(lease.array)
        elif method == "stdlib":
            name, shape, dtype = payload
            segment = shared_memory.SharedMemory(name=name)
            value = read(np.ndarray(shape, dtype, buffer=segment.buf))
            segment.close()
        else:
            value = read(payload)
        pipe.send(value)


def leasehold_cycle(array: np.ndarray, pipe: Connection, registry: leasehold.Registry) -> Cycle:
    def cycle() -> None:
        with registry.share(array) as lease:
            pipe.send(("leasehold", lease.ticket()))
            pipe.recv()

    return cycle


def stdlib_cycle(array: np.ndarray, pipe: Connection) -> Cycle:
    def cycle() -> None:
        segment = shared_memory.SharedMemory(create=True, size=array.nbytes)
        np.ndarray(array.shape, array.dtype, buffer=segment.buf)[:] = array
        pipe.send(("stdlib", (segment.name, array.shape, array.dtype)))
        pipe.recv()
        segment.close()
        # the attaching side registered the name with the shared tracker as well, which counts it once
        segment.unlink()

    return cycle


def pickle_cycle(array: np.ndarray, pipe: Connection) -> Cycle:
    def cycle() -> None:
        pipe.send(("pickle", array))
        pipe.recv()

    return cycle


@contextlib.contextmanager
def consumer(registry: str) -> Iterator[Connection]:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=consume, args=(theirs, registry))
    process.start()
    try:
        yield ours
    finally:
        ours.send(None)
        process.join()


def measure(size_bytes: int, seconds: float, rounds: int = 5) -> dict[str, float]:
    """Median seconds of a cycle by method, and of a memory copy."""
    array = np.random.default_rng(1).random(size_bytes // 8)
    target = np.empty_like(array)
    capacity = max(8 * size_bytes, 64 << 20)
    with leasehold.Registry(capacity=capacity) as registry, consumer(registry.id) as pipe:
        cycles = {
            "leasehold": leasehold_cycle(array, pipe, registry),
            "stdlib": stdlib_cycle(array, pipe),
            "pickle": pickle_cycle(array, pipe),
            "memcpy": lambda: np.copyto(target, array),
        }
        times: dict[str, list[float]] = {method: [] for method in cycles}
        for cycle in cycles.values():
            for _ in range(3):
                cycle()
        for _ in range(rounds):
            for method, cycle in cycles.items():
                end = time.perf_counter() + seconds / rounds
                while (begin := time.perf_counter()) < end:
                    cycle()
                    times[method].append(time.perf_counter() - begin)
    return {method: statistics.median(samples) for method, samples in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="4KiB,1MiB,64MiB")
    parser.add_argument("--seconds", type=float, default=2.0, help="per method and size")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    resource_tracker.ensure_running()
    results = {size: measure(parse_bytes(size), options.seconds) for size in options.sizes.split(",")}
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        return
    print(f"{'size':>10} {'leasehold':>12} {'stdlib':>12} {'pickle':>12} {'of stdlib':>10} {'in memcpys':>10}")
    for size, times in results.items():
        print(
            f"{format_bytes(parse_bytes(size)):>10} {times['leasehold'] * 1e6:>9.0f} us {times['stdlib'] * 1e6:>9.0f} us "
            f"{times['pickle'] * 1e6:>9.0f} us {times['leasehold'] / times['stdlib']:>9.2f}x "
            f"{times['leasehold'] / times['memcpy']:>9.2f}x"
        )


if __name__ == "__main__":
    main()
