"""Datasets of a run, made by the coordinator with workers of a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmlease.hdf5 import HDF5Sink
from shmlease.ingestion.bad_rows import BadRows
from shmlease.ingestion.budget import Budget
from shmlease.ingestion.coordinator import Coordinator
from shmlease.ingestion.dataset_job import DatasetJob
from shmlease.ingestion.plan import IngestPlan


def run_jobs(
    plan: IngestPlan,
    out: Path,
    pool: Any,
    registry: Any,
    budget: Budget,
    *,
    compression: str = "gzip",
    in_turn: bool = False,
    on_tick: Callable[[Coordinator], None] = lambda _: None,
) -> Coordinator:
    """The file `out` of a plan; nothing is left of it after an error."""
    sink = HDF5Sink(out, encoders=1, compression=compression)
    bad_rows = BadRows(plan.on_error, sink)
    jobs = (
        DatasetJob(name, inputs, sink, registry, bad_rows, budget.chunks_a_task, in_turn=in_turn)
        for name, inputs in plan.inputs(budget)
    )
    coordinator = Coordinator(jobs, pool, sink, budget, 2, {"job": "test"}, on_tick)
    try:
        coordinator.run()
    except BaseException:
        coordinator.abandon()
        sink.abort()
        raise
    sink.close()
    return coordinator
