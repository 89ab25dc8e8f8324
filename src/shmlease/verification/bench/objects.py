"""Hand-over of one DataFrame to another process, and copy-on-write attachment beside a copy."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np

import shmlease
from shmlease.verification.bench.timing import Figure, Measurement, interleaved, machine

__all__ = ["measure_attaching", "measure_objects"]

PICKLE: Final = "pickle, Pipe"
COPY: Final = "copy of the array"
_COLUMNS: Final = 8
_QUANTIFIES: Final = (
    "Wall time of one cycle, against the size of a pandas DataFrame of eight float64 columns. A cycle: the producer writes "
    "the DataFrame to where the consumer can read it, or pickles it into a multiprocessing.Pipe; the consumer makes it "
    "anew, reads its first and last row, lets go and answers; the producer frees."
)
_QUANTIFIES_ATTACHING: Final = (
    "Wall time of attaching an array by name, copy-on-write, looking at both of its ends, and letting go, without writing; "
    "beside one numpy copy of the same array."
)

Read = Callable[[Any], Any]


def _read_shmlease(registry: str) -> Read:
    return shmlease.connect(registry).get


def _read_pickle(registry: str) -> Read:
    del registry
    return lambda value: value


def _read_fastshare(registry: str) -> Read:
    del registry
    read: Read = importlib.import_module("fastshare").read
    return read


_READERS: Final = {"shmlease": _read_shmlease, PICKLE: _read_pickle, "fastshare": _read_fastshare}


def _consume(pipe: Connection[Any, Any], registry: str, subjects: list[str]) -> None:
    """The consumer: makes objects anew until None comes."""
    readers = {subject: _READERS[subject](registry) for subject in subjects}
    while (request := pipe.recv()) is not None:
        subject, word = request
        value = readers[subject](word)
        total = float(value.iat[0, 0] + value.iat[-1, -1])
        del value, word, request
        pipe.send(total)


def _cycles(subjects: list[str], value: Any, pipe: Connection[Any, Any], registry: shmlease.Registry) -> dict[str, Any]:
    def hand_over(subject: str, word: Any) -> None:
        pipe.send((subject, word))
        pipe.recv()

    def ours() -> None:
        with registry.put(value) as lease:
            hand_over("shmlease", lease.ticket())

    def theirs() -> None:
        fastshare = importlib.import_module("fastshare")
        token = fastshare.write(value)
        hand_over("fastshare", token)
        importlib.import_module("fastshare._registry").unlink(token.rpartition(":")[2])

    every = {"shmlease": ours, PICKLE: lambda: hand_over(PICKLE, value), "fastshare": theirs}
    return {subject: every[subject] for subject in subjects}


def measure_objects(sizes_bytes: Sequence[int], seconds: float) -> Measurement:
    """Measure DataFrames of `sizes_bytes` through `put` and `get`, pickle, and fastshare where it is installed."""
    subjects = [name for name in _READERS if name != "fastshare" or importlib.util.find_spec("fastshare")]
    figures: list[Figure] = []
    spawn = multiprocessing.get_context("spawn")
    for nbytes in sizes_bytes:
        value = _frame(nbytes)
        ours, theirs = spawn.Pipe()
        with shmlease.Registry(capacity=8 * nbytes + (64 << 20)) as registry:
            consumer = spawn.Process(target=_consume, args=(theirs, registry.id, subjects))
            consumer.start()
            theirs.close()  # a consumer that fails is noticed
            try:
                figures += interleaved(_cycles(subjects, value, ours, registry), float(nbytes), seconds)
            finally:
                with contextlib.suppress(BrokenPipeError):
                    ours.send(None)
                consumer.join()
    return Measurement("objects", _QUANTIFIES, "s", "bytes", PICKLE, figures, machine())


def measure_attaching(nbytes: int, seconds: float) -> Measurement:
    """Measure what attaching `nbytes` copy-on-write takes when nothing is written."""
    array = np.random.default_rng(1).random(nbytes // 8)
    with shmlease.Registry(capacity=4 * nbytes) as registry, registry.share(array, "array"):

        def attach() -> float:
            with registry.attach("array", mode="c") as lease:
                return float(lease.array[0] + lease.array[-1])

        figures = interleaved({"shmlease, mode c": attach, COPY: array.copy}, float(nbytes), seconds)
    return Measurement("attaching copy-on-write", _QUANTIFIES_ATTACHING, "s", "bytes", COPY, figures, machine())


def _frame(nbytes: int) -> Any:
    pandas = importlib.import_module("pandas")
    return pandas.DataFrame(np.random.default_rng(1).random((max(nbytes // 8 // _COLUMNS, 1), _COLUMNS)))
