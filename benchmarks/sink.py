"""How fast and how small `HDF5Sink` writes, against h5py.

Quantified: the wall time from opening a file to its being closed, and the size of the file, of

- ``rows``: 256 MB of methylation calls, (S10, i4, f4, i4, i4) packed to 26 bytes, appended as one array;
- ``rows, processes``: the same, the chunks encoded by two processes and stored as they come (`append_encoded`);
- ``rows, no compression``: the same with ``compression="none"``;
- ``float32``, ``float64``: 64 MB of hourly temperatures with one decimal, and of methylation percentages.

The reference is h5py writing the same array in one call with chunks of the same shape, deflate at level 4 and shuffle
(without filters and chunks for the row without compression). Unit: ratios, the sink's figure divided by the reference's;
below 1 is better. Method: sink and reference alternate, `--repeats` times after one unmeasured round; the ratio is that of
the two medians. The sink's time contains its checksums, its write-ahead log and the fsync of file and directory; h5py's
contains no fsync. The sink uses `--encoders` threads or processes. What was written is read back by h5py and compared,
outside the time.

Run: ``python benchmarks/sink.py``, with ``--json`` for machines; for a quick look ``--cases rows --repeats 3``. Other
programs on the machine spoil it. The aims: 0.085 of the time for ``rows``, at most 1.08 of the size; for float fields a
smaller file.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np

from shmlease.hdf5 import ChunkEncoder, Codec, EncodedChunk, HDF5Sink
from shmlease.units import parse_bytes

CALLS = np.dtype([("chr", "S10"), ("pos", "<i4"), ("pct", "<f4"), ("m", "<i4"), ("u", "<i4")])
Write = Callable[[Path, np.ndarray[Any, Any]], None]


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table; times in seconds, sizes in bytes."""

    case: str
    sink_s: float
    reference_s: float
    sink_bytes: int
    reference_bytes: int

    @property
    def time_ratio(self) -> float:
        return self.sink_s / self.reference_s

    @property
    def size_ratio(self) -> float:
        return self.sink_bytes / self.reference_bytes


def methylation_rows(count: int) -> np.ndarray[Any, Any]:
    """Calls as a bisulfite aligner reports them: sorted positions, Poisson counts, the percentage that follows."""
    random = np.random.default_rng(0)
    rows = np.empty(count, CALLS)
    rows["chr"] = np.repeat([b"chr%d" % number for number in range(1, 21)], -(-count // 20))[:count]
    rows["pos"] = np.cumsum(random.integers(1, 60, count)) % 200_000_000
    rows["m"], rows["u"] = random.poisson(6, count), random.poisson(3, count)
    rows["pct"] = 100 * rows["m"] / np.maximum(rows["m"] + rows["u"], 1)
    return rows


def temperatures(count: int) -> np.ndarray[Any, Any]:
    """Hourly temperatures: a year, a day, weather, one decimal."""
    random = np.random.default_rng(0)
    hour = np.arange(count)
    weather = np.convolve(random.normal(size=count), np.ones(48) / 7, "same")
    return (12 + 9 * np.sin(hour / 8766 * 2 * np.pi) + 5 * np.sin(hour / 24 * 2 * np.pi) + weather).round(1)


def with_h5py(**filters: Any) -> Write:
    def write(path: Path, array: np.ndarray[Any, Any]) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=array, **filters)

    return write


def with_sink(encoders: int, compression: str = "gzip") -> Write:
    def write(path: Path, array: np.ndarray[Any, Any]) -> None:
        with HDF5Sink(path, encoders=encoders, compression=compression) as sink:
            sink.append("data", array)

    return write


def encode_share(array: np.ndarray[Any, Any], codec: Codec, first: int, step: int, buffers: mmap.mmap, pipe: Any) -> None:
    """A worker: encode every `step`-th chunk from `first` on, into two buffers in turn."""
    encoder = ChunkEncoder(codec)
    memory = np.frombuffer(buffers, np.uint8).reshape(2, -1)
    for turn, index in enumerate(range(first, -(-len(array) // codec.chunk_rows), step)):
        if turn > 1:
            pipe.recv()  # the sink has stored what was in this buffer
        rows = array[index * codec.chunk_rows : (index + 1) * codec.chunk_rows]
        pipe.send((index, encoder.encode(rows, memory[turn % 2]), turn % 2))
    pipe.send(None)
    os._exit(0)


def received(pipes: list[Any]) -> Iterator[tuple[int, Any]]:
    while pipes:
        for pipe in multiprocessing.connection.wait(pipes):
            message = pipe.recv()
            if message is None:
                pipes.remove(pipe)
            else:
                yield pipe, message


def with_processes(encoders: int) -> Write:
    def write(path: Path, array: np.ndarray[Any, Any]) -> None:
        with HDF5Sink(path) as sink:
            codec = sink.declare("data", array.dtype)
            shared = {}
            for first in range(encoders):
                here, there = multiprocessing.Pipe()
                shared[here] = mmap.mmap(-1, 2 * codec.bound_bytes)
                arguments = (array, codec, first, encoders, shared[here], there)
                multiprocessing.get_context("fork").Process(target=encode_share, args=arguments, daemon=True).start()
                there.close()
            for pipe, (index, chunk, turn) in received(list(shared)):
                chunk: EncodedChunk
                start = turn * codec.bound_bytes
                sink.append_encoded("data", index, chunk, memoryview(shared[pipe])[start:][: chunk.size_bytes])
                with contextlib.suppress(BrokenPipeError):  # the worker may have encoded its last chunk
                    pipe.send(None)

    return write


def measure(case: str, array: np.ndarray[Any, Any], sink: Write, reference: Write, folder: Path, repeats: int) -> Result:
    """Medians of both, alternating."""
    times: dict[str, list[float]] = {"sink": [], "reference": []}
    for turn in range(repeats + 1):
        for name, write in (("sink", sink), ("reference", reference)):
            path = folder / f"{name}.h5"
            path.unlink(missing_ok=True)
            start = time.perf_counter()
            write(path, array)
            if turn:
                times[name].append(time.perf_counter() - start)
    for name in times:
        with h5py.File(folder / f"{name}.h5") as file:
            assert file["data"][...].tobytes() == array.tobytes(), f"{case}: {name} wrote other values"
    sizes = {name: (folder / f"{name}.h5").stat().st_size for name in times}
    medians = {name: statistics.median(values) for name, values in times.items()}
    return Result(case, medians["sink"], medians["reference"], sizes["sink"], sizes["reference"])


@click.command()
@click.option("--size", default="256MB", help="Of the rows; the fields take a quarter.")
@click.option("--repeats", default=5, help="Measured rounds of each case.")
@click.option("--encoders", default=2, help="Threads or processes that encode.")
@click.option("--directory", help="Where to write; a disk, by default that of temporary files.")
@click.option("--cases", "wanted", default="", help="Only those whose names begin so; several with commas between.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each case.")
def main(size: str, repeats: int, encoders: int, directory: str | None, wanted: str, as_json: bool) -> None:
    """Measure the sink against h5py."""
    rows = methylation_rows(parse_bytes(size) // CALLS.itemsize)
    chunk_rows = (1 << 20) // CALLS.itemsize
    gzip = with_h5py(chunks=(chunk_rows,), compression="gzip", compression_opts=4, shuffle=True)
    cases = [
        ("rows", rows, with_sink(encoders), gzip),
        ("rows, processes", rows, with_processes(encoders), gzip),
        ("rows, no compression", rows, with_sink(encoders, "none"), with_h5py()),
    ]
    for dtype in ("float32", "float64"):
        count = parse_bytes(size) // 4 // np.dtype(dtype).itemsize
        gzip = with_h5py(
            chunks=((1 << 20) // np.dtype(dtype).itemsize,), compression="gzip", compression_opts=4, shuffle=True
        )
        for field, values in (("temperatures", temperatures(count)), ("percentages", rows["pct"][:count])):
            cases.append((f"{dtype} {field}", values.astype(dtype), with_sink(encoders), gzip))
    if not as_json:
        click.echo(f"{'case':24} {'time':>8} {'size':>8}   ratio of the sink to h5py, median of {repeats}")
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        for case, array, sink, reference in cases:
            if not case.startswith(tuple(wanted.split(","))):
                continue
            result = measure(case, array, sink, reference, Path(folder), repeats)
            if as_json:
                ratios = {"time_ratio": result.time_ratio, "size_ratio": result.size_ratio}
                click.echo(json.dumps(asdict(result) | ratios))
            else:
                click.echo(f"{case:24} {result.time_ratio:8.3f} {result.size_ratio:8.3f}   ({result.sink_s:.3f} s)")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
