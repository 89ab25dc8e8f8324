"""Datasets whose pieces are parsed in turn: whole files for each worker, chunks made where their rows are parsed."""

import gzip
import random
from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest
from jobs import run_jobs

from shmlease.errors import IngestError
from shmlease.hdf5 import verify
from shmlease.ingestion.budget import Budget
from shmlease.ingestion.coordinator import Coordinator
from shmlease.ingestion.plan import IngestPlan, plan_ingest
from shmlease.ingestion.work import EncodeWork, ParseWork
from shmlease.text.schema import Schema

PLAIN = Schema().with_dtype("chr:S8,pos:i4,pct:f4")
QUOTED = Schema(quote='"').with_dtype("chr:S8,pos:i4,pct:f4")
ROWS = np.dtype([("chr", "S8"), ("pos", "<i4"), ("pct", "<f4")])
BUDGET = Budget(
    block_bytes=8192, step_bytes=40_000, parse_bytes=40_000, chunks_a_task=2, encode_bytes=2 << 20, limit_bytes=8 << 20
)


def run(plan: IngestPlan, out: Path, pool, registry, *, compression: str = "gzip", budget: Budget = BUDGET) -> Coordinator:
    return run_jobs(plan, out, pool, registry, budget, compression=compression, in_turn=True)


@pytest.fixture
def written(tmp_path, text):
    """A file of so many lines: plain, packed, or with its first cells in quotes, of which some hold a line end."""

    def write(kind: str, name: str, rows: int, seed: int) -> tuple[Path, np.ndarray]:
        lines = text(rows, seed).splitlines(keepends=True)
        values = np.loadtxt(lines, dtype=ROWS, delimiter="\t", ndmin=1)
        if kind == "quoted":
            dice = random.Random(seed)
            for index, line in enumerate(lines):
                if dice.random() < 0.05:
                    cell, rest = line.split("\t", 1)
                    lines[index] = f'"{cell}\n"\t{rest}'
                    values["chr"][index] = f"{cell}\n"
        path = tmp_path / (name + (".gz" if kind == "packed" else ""))
        content = "".join(lines).encode()
        path.write_bytes(gzip.compress(content) if kind == "packed" else content)
        return path, values

    return write


@pytest.mark.parametrize("compression", ["gzip", "none"])
@pytest.mark.parametrize("kind", ["plain", "packed", "quoted"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_are_those_of_each_file_whatever_is_done_first(
    seed: int, kind: str, compression: str, written, pool, registry, tmp_path
) -> None:
    """One worker does all in any order: what it kept of a file is gone when it goes on with another."""
    files = [
        written(kind, f"{name}.tsv", rows, seed) for seed, (name, rows) in enumerate({"a": 9000, "b": 5, "c": 7000}.items())
    ]
    plan = plan_ingest([path for path, _ in files], QUOTED if kind == "quoted" else PLAIN)
    coordinator = run(plan, tmp_path / "out.h5", pool(seed), registry, compression=compression)
    with h5py.File(tmp_path / "out.h5") as file:
        for name, (_, values) in zip("abc", files, strict=True):
            assert file[name][...].tobytes() == values.tobytes()
    assert sorted(each.rows for each in coordinator.reports()) == [5, 7000, 9000]
    assert verify(tmp_path / "out.h5", tmp_path).is_good
    assert registry.statistics().tickets == 0


@pytest.mark.parametrize("kind", ["plain", "packed", "quoted"])
def test_files_of_one_dataset_follow_one_another(kind: str, written, pool, registry, tmp_path) -> None:
    files = [written(kind, f"{seed}.tsv", rows, seed) for seed, rows in enumerate([5000, 1, 6000])]
    plan = plan_ingest([path for path, _ in files], QUOTED if kind == "quoted" else PLAIN, "all")
    run(plan, tmp_path / "out.h5", pool(1), registry)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["all"][...].tobytes() == np.concatenate([values for _, values in files]).tobytes()
    assert verify(tmp_path / "out.h5", tmp_path).is_good


@pytest.mark.parametrize("kind", ["plain", "packed"])
def test_chunks_are_made_where_their_rows_are_parsed_but_those_at_the_ends_of_a_step(
    kind: str, written, pool, registry, tmp_path
) -> None:
    path, values = written(kind, "a.tsv", 260_000, 0)
    works = []

    class Noting(type(pool(0))):
        def submit(self, work, *, first: bool = False) -> None:
            works.append(work)
            super().submit(work, first=first)

    budget = msgspec.structs.replace(BUDGET, block_bytes=500_000, step_bytes=2_500_000)  # 20 bytes a line
    run(plan_ingest(path, PLAIN), tmp_path / "out.h5", Noting(registry, 0), registry, budget=budget)
    steps = [work for work in works if isinstance(work, ParseWork)]
    joined = [chunk for work in works if isinstance(work, EncodeWork) for chunk in work.chunks]
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["a"].id.get_num_chunks() == 4
        assert file["a"][...].tobytes() == values.tobytes()
    assert all(work.text is None for work in steps), "text lay in a segment"
    assert len(steps) in (3, 4)  # a packed file may end with a step in which there is nothing
    assert len(joined) == 2


@pytest.mark.parametrize("kind", ["plain", "packed"])
def test_malformed_lines_have_their_numbers_in_the_file(kind: str, text, pool, registry, tmp_path) -> None:
    wrong = [5, 1500, 6000, 6001, 8990]
    for name in ("a", "b"):
        lines = text(9000).splitlines(keepends=True)
        for number in wrong:
            lines[number - 1] = f"bad{number}\n"
        content = "".join(lines).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if kind == "packed" else content)
    plan = plan_ingest([tmp_path / "a", tmp_path / "b"], PLAIN, on_error="quarantine")
    run(plan, tmp_path / "out.h5", pool(2), registry)
    with h5py.File(tmp_path / "out.h5") as file:
        for name in ("a", "b"):
            assert len(file[name]) == 8995
            assert file[f"rejected/{name}/lines"]["line"].tolist() == wrong
    with pytest.raises(IngestError) as refused:
        run(plan_ingest([tmp_path / "a", tmp_path / "b"], PLAIN), tmp_path / "again.h5", pool(3), registry)
    assert refused.value.line == 5


def test_a_packed_file_that_is_cut_short_is_named(written, pool, registry, tmp_path) -> None:
    files = [written("packed", f"{name}.tsv", 9000, 0)[0] for name in "ab"]
    files[1].write_bytes(files[1].read_bytes()[:-1000])
    with pytest.raises(IngestError, match=r"b\.tsv\.gz: the gzip data are cut short"):
        run(plan_ingest(files, PLAIN), tmp_path / "out.h5", pool(0), registry)


def test_a_file_that_all_others_would_have_to_be_waited_for_is_not_parsed_in_turn(written, tmp_path) -> None:
    def chosen(*rows: int, workers: int = 2) -> str:
        paths = [written("plain", name, count, 0)[0] for name, count in zip("abcdef", rows, strict=False)]
        return "".join(sorted(plan_ingest(paths, PLAIN).in_turn(workers)))

    assert chosen(100, 100, 100, 100) == "abc"
    assert chosen(100, 100, 100, 100, workers=4) == "a"
    assert chosen(100, 100, 100, 99) == "ab"
    assert chosen(10, 1000, 10) == "a"
    assert chosen(1000) == ""
    assert chosen(1000, workers=1) == ""
