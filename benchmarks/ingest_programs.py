"""What benchmarks/ingest.py compares: the tables it makes, and the programs that read them, each run as one of its own.

The idiom is what one finds written: a process and a ``SharedMemory`` for each file, `numpy.loadtxt`, and a parent that
writes h5py gzip-4 with shuffle (or nothing) while the others go on. As usually printed it fails: each child starts a
resource tracker of its own, which unlinks the child's segment when the child exits. Here it is repaired by starting the
tracker first, and each child answers through a pipe of its own. polars reads the files one after another, with all its
threads, and writes parquet with zstd.
"""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from watched_run import MARK

_ROWS_AT_ONCE = 250_000
WIDE_COLUMNS = 200


@dataclass(frozen=True)
class Table:
    """A kind of table: its lines, and how each reader is told of it."""

    lines: Callable[[np.random.Generator, int, int], Iterator[str]]  # of some rows, and the number of the first
    dtype: list[tuple[str, str]]
    columns: tuple[int, ...]
    delimiter: str = "\t"
    quote: str | None = None

    def ingest_options(self) -> list[str]:
        fields = ",".join(f"{name}:{kind}" for name, kind in self.dtype)
        options = ["--dtype", fields, "--columns", ",".join(map(str, self.columns))]
        options += ["--delimiter", {"\t": "tab", ",": "comma"}[self.delimiter]]
        return options + (["--quote", self.quote] if self.quote else [])


def _calls(random: np.random.Generator, count: int, first: int) -> Iterator[str]:
    """Sites along the chromosomes, with the coverage and the methylation of a real sample."""
    chromosome = np.sort(random.integers(1, 23, count)).tolist()
    position = (np.cumsum(random.integers(1, 180, count)) + first * 90 % 200_000_000).tolist()
    coverage = random.poisson(12, count) + 1
    methylated = random.binomial(coverage, np.where(random.random(count) < 0.7, 0.9, 0.1))
    for where, site, good, total in zip(chromosome, position, methylated.tolist(), coverage.tolist(), strict=True):
        yield f"chr{where}\t{site}\t{site}\t{100 * good / total:.6g}\t{good}\t{total - good}\n"


def _wide(random: np.random.Generator, count: int, first: int) -> Iterator[str]:  # noqa: ARG001
    """Measurements of 200 sensors with four decimals."""
    for start in range(0, count, 1000):
        values = random.normal(20, 5, (min(1000, count - start), WIDE_COLUMNS))
        yield from ("\t".join([f"{value:.4f}" for value in row]) + "\n" for row in values.tolist())


def _quoted(random: np.random.Generator, count: int, first: int) -> Iterator[str]:
    """A catalogue: names and places within quotes, with commas, doubled quotes and letters beyond ASCII."""
    places = ["Zürich", "São Paulo", "Kraków", "東京", "Oslo, Norway", "Malmö", "Nice", 'The ""Hague""']
    values = random.normal(50, 20, count).round(2).tolist()
    for number, (place, value) in enumerate(
        zip(random.integers(0, len(places), count).tolist(), values, strict=True), first
    ):
        yield f'{number},"item no. {number}","{places[place]}",{value}\n'


TABLES = {
    "calls": Table(
        _calls, [("chr", "S10"), ("pos", "i4"), ("pct", "f4"), ("c", "i4"), ("t", "i4")], columns=(0, 1, 3, 4, 5)
    ),
    "wide": Table(_wide, [(f"c{index}", "f4") for index in range(WIDE_COLUMNS)], columns=tuple(range(WIDE_COLUMNS))),
    "quoted": Table(
        _quoted,
        [("number", "i4"), ("name", "S20"), ("place", "S16"), ("value", "f4")],
        columns=(0, 1, 2, 3),
        delimiter=",",
        quote='"',
    ),
}


def make_file(directory: str, kind: str, index: int, rows: int, *, packed: bool = False) -> str:
    """A file of a table, made once."""
    path = os.path.join(directory, f"{kind}_{index}_{rows}.{'txt.gz' if packed else 'txt'}")
    if os.path.exists(path):
        return path
    random = np.random.default_rng(index)
    with gzip.open(path + ".new", "wt", compresslevel=6) if packed else open(path + ".new", "w") as file:
        for start in range(0, rows, _ROWS_AT_ONCE):
            file.writelines(TABLES[kind].lines(random, min(_ROWS_AT_ONCE, rows - start), start))
    os.replace(path + ".new", path)
    return path


def shmlease_command(kind: str, compression: str, out: str, paths: list[str], parser: str = "auto") -> list[str]:
    """The product."""
    return [
        *(sys.executable, "-m", "shmlease", "ingest", *paths, "-o", out, "--overwrite", "--quiet", "--parser", parser),
        *(*TABLES[kind].ingest_options(), "--compression", compression),
    ]


def program(name: str, *arguments: str) -> list[str]:
    """One of the functions below as a program of its own."""
    return [sys.executable, __file__, name, *arguments]


def idiom(kind: str, compression: str, out: str, *paths: str) -> None:
    from multiprocessing import Pipe, Process, resource_tracker
    from multiprocessing.shared_memory import SharedMemory

    import h5py

    table = TABLES[kind]
    dtype = np.dtype(table.dtype)
    resource_tracker.ensure_running()

    def load(path: str, segment: str, answer: Any) -> None:
        rows = np.loadtxt(
            path,
            dtype=dtype,
            delimiter=table.delimiter,
            usecols=table.columns,
            quotechar=table.quote,
            encoding="latin-1",  # one byte is one character, so that UTF-8 comes to lie in S fields as it is
        )
        memory = SharedMemory(name=segment, create=True, size=rows.nbytes)
        np.ndarray(rows.shape, dtype, memory.buf)[:] = rows
        memory.close()
        answer.send(len(rows))

    children = []
    for index, path in enumerate(paths):
        ours, theirs = Pipe()
        segment = f"{os.environ.get(MARK, 'bench')}-{index}"
        child = Process(target=load, args=(path, segment, theirs))
        child.start()
        children.append((child, ours, segment, path))
    filters = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if compression == "gzip" else {}
    with h5py.File(out, "w") as file:
        for child, answer, segment, path in children:
            count = answer.recv()
            memory = SharedMemory(name=segment)
            rows = np.ndarray(count, dtype, memory.buf)
            file.create_dataset(os.path.basename(path), data=rows, **filters)
            del rows
            memory.close()
            memory.unlink()
            child.join()


def parquet(kind: str, out: str, *paths: str) -> None:
    import polars

    types = {"S": polars.String, "i": polars.Int32, "f": polars.Float32}
    table = TABLES[kind]
    kinds = dict(zip(table.columns, (np.dtype(kind).kind for _, kind in table.dtype), strict=True))
    schema = {f"column_{column}": types[kinds.get(column, "S")] for column in range(max(table.columns) + 1)}
    size = 0
    with tempfile.TemporaryDirectory(dir=os.path.dirname(out)) as directory:
        for index, path in enumerate(paths):
            frame = polars.read_csv(
                path,
                has_header=False,
                separator=table.delimiter,
                quote_char=table.quote,
                columns=list(table.columns),
                schema=schema,
            )
            written = os.path.join(directory, f"{index}.parquet")
            frame.write_parquet(written, compression="zstd")
            size += os.path.getsize(written)
    with open(out, "wb") as file:  # for its size only
        file.truncate(size)


def sink(size_bytes: str, out: str) -> None:
    import h5py  # noqa: F401 - as the reference, which has it imported before it looks at the clock

    from shmlease.hdf5 import HDF5Sink
    from sink import methylation_rows

    rows = methylation_rows(int(size_bytes) // 26)
    began = time.perf_counter()
    with HDF5Sink(out, overwrite=True) as file:
        file.append("data", rows)
    print(time.perf_counter() - began)


def h5py_gzip(size_bytes: str, out: str) -> None:
    import h5py

    from sink import methylation_rows

    rows = methylation_rows(int(size_bytes) // 26)
    chunk = (1 << 20) // rows.dtype.itemsize
    began = time.perf_counter()
    with h5py.File(out, "w") as file:
        file.create_dataset("data", data=rows, chunks=(chunk,), compression="gzip", compression_opts=4, shuffle=True)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    {each.__name__: each for each in (idiom, parquet, sink, h5py_gzip)}[sys.argv[1]](*sys.argv[2:])
