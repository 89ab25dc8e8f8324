"""A plain file with quoted cells is looked through for the ends of its records, and parsed by several workers in pieces."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import h5py
import numpy as np
import pytest

from shmlease.hdf5 import HDF5Sink
from shmlease.ingestion.bad_rows import BadRows
from shmlease.ingestion.budget import Budget
from shmlease.ingestion.coordinator import Coordinator
from shmlease.ingestion.dataset_job import DatasetJob
from shmlease.ingestion.plan import plan_ingest
from shmlease.ingestion.work import ParseWork
from shmlease.text.parser_choice import PARSERS
from shmlease.text.schema import Schema

SCHEMA = Schema(delimiter=",", quote='"').with_dtype("n:i4,name:S40,x:f4")
CELLS = ['"a"', '"b, c"', '"two\nlines"', '"two\r\nlines"', '"said ""no"""', '""', "plain", '5" pipe', '"\n\n"', '"é, ü"']
WRONG = ['"a" b', '"never closed', "two,cells", '"three\nlines\n", and more']


def text(seed: int, rows: int, wrong: float) -> str:
    dice = random.Random(seed)
    cells = (dice.choice(WRONG if dice.random() < wrong else CELLS) for _ in range(rows))
    lines = "".join(f"{number},{cell},{number / 8}\n" for number, cell in enumerate(cells))
    return lines[:-1] if seed % 2 else lines


def ingested(path: Path, out: Path, pool, registry, block_bytes: int) -> dict[str, np.ndarray]:
    budget = Budget(block_bytes, block_bytes * 2, block_bytes * 40, 1, 1 << 20, 32 << 20)
    plan = plan_ingest(path, SCHEMA, on_error="quarantine", parser="native")
    sink = HDF5Sink(out, encoders=1)
    bad_rows = BadRows("quarantine", sink)
    jobs = (DatasetJob(name, inputs, sink, registry, bad_rows, 1) for name, inputs in plan.inputs(budget))
    Coordinator(jobs, pool, sink, budget, 2, {"job": "test"}, lambda _: None).run()
    sink.close()
    with h5py.File(out) as file:
        return {name: file[name][...] for name in ("table", "rejected/table/lines", "rejected/table/text") if name in file}


@pytest.mark.parametrize("wrong", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_rows_and_malformed_lines_are_those_of_the_whole_text(seed: int, wrong: float, pool, registry, tmp_path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text(seed, 3000, wrong), newline="")
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    parsed = PARSERS["numpy"].parse_block(whole, plan_ingest(path, SCHEMA).schema)
    works: list[ParseWork] = []

    class Noting(type(pool(0))):
        def submit(self, work, *, first: bool = False) -> None:
            works.extend([work] if isinstance(work, ParseWork) else [])
            super().submit(work, first=first)

    found = ingested(path, tmp_path / "out.h5", Noting(registry, seed), registry, 4096)
    assert found["table"].tobytes() == parsed.rows.tobytes()
    assert [each.line for each in parsed.bad] == found.get("rejected/table/lines", np.zeros(0, [("line", "i8")]))[
        "line"
    ].tolist()
    assert len(works) > 8
    assert all(work.text is None for work in works), "rows of text lay in a segment"
    assert all(before.piece.stop == work.piece.offset for before, work in itertools.pairwise(works))
