"""How long a segment of `shmlease.shared_memory` takes beside one of `multiprocessing.shared_memory`.

Measured is the wall time of one use by two processes: one creates the segment and fills it from an array of its own; the
other attaches by name, sums every element once, and closes; the first closes and unlinks. Both processes and the pipe
between them are there before. Rounds of both classes alternate; the figure is the median, and its ratio to that of the
standard library in the same run.

    python benchmarks/shared_memory.py [--sizes 4KiB,1MiB,64MiB] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory as Standard
from typing import Any

import numpy as np

import shmlease
from shmlease.shared_memory import SharedMemory
from shmlease.units import parse_bytes
from shmlease.verification.bench.report import print_or_store
from shmlease.verification.bench.timing import Figure, Measurement, figure_of, machine

QUANTIFIES = (
    "Wall time of one use by two processes that are there before, against the size of the segment: one creates it and "
    "fills it from an array of its own; the other attaches by name, sums every element once, and closes; the first closes "
    "and unlinks. `shmlease.shared_memory.SharedMemory` beside `multiprocessing.shared_memory.SharedMemory`."
)
CLASSES: dict[str, type[Any]] = {"shmlease": SharedMemory, "standard": Standard}


def read(pipe: Connection) -> None:
    """The other process: sums what is in the segments that it is told of."""
    for kind, name, size in iter(pipe.recv, None):
        memory = CLASSES[kind](name)
        array = np.ndarray(size // 8, "u8", buffer=memory.buf)
        pipe.send(int(array.sum()))
        del array
        memory.close()


def use(kind: str, values: np.ndarray[Any, Any], pipe: Connection) -> float:
    """Seconds that one segment takes from its making to its unlinking."""
    began = time.perf_counter()
    memory = CLASSES[kind](create=True, size=values.nbytes)
    array = np.ndarray(values.shape, values.dtype, buffer=memory.buf)
    array[:] = values
    pipe.send((kind, memory.name, values.nbytes))
    total = pipe.recv()
    del array
    memory.close()
    memory.unlink()
    taken = time.perf_counter() - began
    assert total == values.size
    return taken


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="4KiB,64KiB,1MiB,16MiB,64MiB")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", default="", help="write the measurement here, for benchmarks/report.py")
    options = parser.parse_args()
    figures: list[Figure] = []
    with shmlease.Registry(capacity="256MiB"):
        ours, theirs = multiprocessing.Pipe()
        reader = multiprocessing.Process(target=read, args=(theirs,), daemon=True)
        Standard(create=True, size=1).unlink()  # the resource tracker, which both processes then share
        reader.start()
        for nbytes in map(parse_bytes, options.sizes.split(",")):
            values = np.ones(nbytes // 8, "u8")
            times: dict[str, list[float]] = {kind: [] for kind in CLASSES}
            for kind in CLASSES:
                use(kind, values, ours)
            for _ in range(options.rounds if nbytes > 1 << 20 else options.rounds * 10):
                for kind, taken in times.items():
                    taken.append(use(kind, values, ours))
            figures += [figure_of(kind, nbytes, np.array_split(taken, min(5, len(taken)))) for kind, taken in times.items()]
        ours.send(None)
        reader.join()
    measurement = Measurement("SharedMemory classes", QUANTIFIES, "s", "bytes", "standard", figures, machine())
    print_or_store([measurement], options.json)


if __name__ == "__main__":
    main()
