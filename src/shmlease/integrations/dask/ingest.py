"""Ingest over a cluster: each task brings some of the files into a shard, and the output is a virtual dataset over them.

A task is an ordinary `shmlease.ingest` of its files, or of ranges of them, on the worker that runs it. So a worker that is
lost costs what it had not stored: another resumes its shard. Shards lie in ``<out>.shards``, with the plan of the run.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from distributed import Client, as_completed

import shmlease
from shmlease.errors import IngestError
from shmlease.ingestion.plan import check_output_path, plan_ingest, schema_of
from shmlease.ingestion.report import IngestReport
from shmlease.ingestion.shard_join import JoinedShards, join_shards
from shmlease.ingestion.tasks import EXAMPLES
from shmlease.integrations.dask.shards import FileRange, Shards, remove
from shmlease.text.schema import Schema
from shmlease.text.sources import PathLike
from shmlease.text.string_lengths import fit_needed_strings, measure_strings

__all__ = ["ingest", "ingest_on"]

# So that who is done early, or takes over from a lost worker, has something to do. A shard costs some 10 ms of a processor.
_SHARDS_A_THREAD: Final = 4
_OF_SCHEMA: Final = ("layout", "dtype", "columns", "matrix")
_OF_ONE_PROCESS: Final = ("executor", "reader", "registry", "restart")


def ingest(
    client: Client,
    paths: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    into: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    shards: int | None = None,
    **options: Any,
) -> IngestReport:
    """Bring text tables into one HDF5 file, by the workers of a Dask cluster.

    The file is an HDF5 virtual dataset over shards in ``<out>.shards``, which must stay beside it; `consolidate` makes one
    plain file. A large file is read by several workers, each a range of it. One that can only be read from its start is
    read by one: compressed, with quoted cells, or with something behind the table.

    Parameters
    ----------
    client : Client
        Of the cluster. It, and the workers, must see the files and the output under the same paths.
    paths, out, into, overwrite, resume
        As of `shmlease.ingest`; pipes cannot be read. With `overwrite` the old file and its shards are removed first. With
        `resume`, shards whose files were changed since are written anew.
    shards : int, optional
        How many files to write at most; by default four for each thread of the workers, and none of less than 16 MiB of a
        file.
    **options
        Of `shmlease.ingest`, for each shard: ``workers`` (0 by default, for a shard is a task, whose thread does the work)
        and ``capacity`` are a shard's. Not ``executor``, ``reader``, ``registry``.

    Returns
    -------
    IngestReport
        Of all shards together.

    Raises
    ------
    IngestError, SinkError
        As `shmlease.ingest`; what was stored stays, for a run with `resume`.
    """
    began_s = time.monotonic()
    for option in _OF_ONE_PROCESS:
        if options.get(option):
            raise IngestError(f"{option} is of one machine, and not for a cluster; leave it out, or the cluster")
    job: dict[str, Any] = {"into": into, "options": {key: repr(value) for key, value in sorted(options.items())}}
    schema, options = _schema(options)
    names = [os.path.abspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    out = os.path.abspath(out)
    folder = f"{out}.shards"
    if overwrite:
        remove(out, folder)
    check_output_path(out, names, overwrite=False)
    count = shards or _SHARDS_A_THREAD * sum(client.nthreads().values())
    job["paths"] = names
    plan = Shards.planned(folder, names, schema, (count, shards is not None), job, resume=resume)
    schema = _fitted(client, plan, schema, all_strings=options.pop("fit_strings", False))
    reports = _written(client, plan, {"workers": 0, "into": into, "layout": schema, **options})
    joined = join_shards(
        out,
        plan.paths,
        into,
        is_columnar=bool(options.get("columnar")),
        rejected=f"{folder}/rejected.h5",
    )
    return _report(out, plan, joined, reports, time.monotonic() - began_s)


def ingest_on(
    scheduler: str, paths: Sequence[PathLike], out: PathLike, *, progress: object = None, **options: Any
) -> IngestReport:
    """`ingest` by the cluster whose scheduler is at that address; how far it is, its dashboard shows."""
    del progress
    with Client(scheduler, set_as_default=False) as client:
        return ingest(client, paths, out, **options)


def _schema(options: dict[str, Any]) -> tuple[Schema, dict[str, Any]]:
    """The schema that the options of `shmlease.ingest` mean, and the others."""
    known = inspect.signature(shmlease.ingest).parameters
    reading = {name: value for name, value in options.items() if name not in known}
    layout, dtype, columns, matrix = (options.get(name) for name in _OF_SCHEMA)
    others = {name: value for name, value in options.items() if name in known and name not in _OF_SCHEMA}
    return schema_of(layout, dtype, columns, reading, matrix), others


def _fitted(client: Client, plan: Shards, schema: Schema, *, all_strings: bool) -> Schema:
    """The schema with strings long enough for all files, which the workers measure if need be."""
    if not (all_strings or schema.needs_fitting):
        return schema
    longest: dict[str, int] = {}
    for _, lengths in _done(client, _string_lengths, [(group, schema) for group in plan.groups]):
        for name, length in lengths.items():
            longest[name] = max(length, longest.get(name, 0))
    return fit_needed_strings(schema, longest, all_strings=all_strings)


def _string_lengths(group: list[FileRange], schema: Schema) -> dict[str, int]:
    """Runs on a worker: the longest strings of its files, by field."""
    longest: dict[str, int] = {}
    for table in plan_ingest([each.path for each in group], schema, ranges=_ranges(group)).tables:
        for name, length in measure_strings(table).items():
            longest[name] = max(length, longest.get(name, 0))
    return longest


def _write_shard(group: list[FileRange], path: str, options: dict[str, Any]) -> IngestReport | None:
    """Runs on a worker; None if the shard was there, complete."""
    if os.path.exists(path):
        return None
    return shmlease.ingest([each.path for each in group], path, resume=True, ranges=_ranges(group), **options)


def _ranges(group: list[FileRange]) -> dict[PathLike, tuple[int, int]]:
    return {each.path: each.bytes for each in group if each.bytes is not None}


def _written(client: Client, plan: Shards, options: dict[str, Any]) -> dict[int, IngestReport]:
    """The reports of the shards that this run has written, by number."""
    tasks = [(group, path, options) for group, path in zip(plan.groups, plan.paths, strict=True)]
    reports = {number: report for number, report in _done(client, _write_shard, tasks) if report is not None}
    plan.require_unchanged()
    for path in plan.paths:
        if not os.path.isfile(path):
            raise IngestError(
                f"{path}: was written by a worker and is not seen here; "
                "the workers and this process need a file system in common",
                path=path,
            )
    return dict(sorted(reports.items()))


def _done(client: Client, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> list[tuple[int, Any]]:
    """What the workers make of each, as they come, with their numbers; after an error the others are given up."""
    futures = {client.submit(function, *task, pure=False): number for number, task in enumerate(tasks)}
    try:
        return [(futures[each], result) for each, result in as_completed(futures, loop=client.loop, with_results=True)]
    except BaseException:
        client.cancel(list(futures), force=True)
        raise


def _report(
    out: str, plan: Shards, joined: JoinedShards, reports: dict[int, IngestReport], elapsed_s: float
) -> IngestReport:
    rejected = (joined.in_file(number, each) for number, report in reports.items() for each in report.rejected)
    written = list(reports.values())
    return IngestReport(
        path=out,
        datasets=joined.datasets,
        files=joined.files,
        rejected=tuple(rejected)[:EXAMPLES],
        size_bytes=sum(os.path.getsize(path) for path in plan.paths),
        elapsed_s=elapsed_s,
        parser=written[0].parser if written else "",
        workers=sum(report.workers for report in written),
        workers_replaced=sum(report.workers_replaced for report in written),
        shared_peak_bytes=max((report.shared_peak_bytes for report in written), default=0),
        capacity_bytes=max((report.capacity_bytes for report in written), default=0),
        resumed_rows=sum(report.resumed_rows for report in written),
        leaks=tuple(leak for report in written for leak in report.leaks),
    )
