"""Ingest over a cluster: each task brings some of the files into a shard, and the output is a virtual dataset over them.

A task is an ordinary `shmlease.ingest` of its files, or of ranges of them, on the worker that runs it. So a worker that is
lost costs what it had not stored: another resumes its shard. Shards lie in ``<out>.shards``, with the plan of the run.
"""

from __future__ import annotations

import inspect
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from distributed import Client
from distributed.comm.addressing import resolve_address

import shmlease
from shmlease.errors import IngestError
from shmlease.hdf5.filters import compressions_named
from shmlease.ingestion.load_plan import plan_load, require_none_of_text
from shmlease.ingestion.plan import check_output_path, require_present, schema_of
from shmlease.ingestion.reader import Reader, pack_reader
from shmlease.ingestion.report import FileReport, IngestReport
from shmlease.ingestion.shard_join import JoinedShards, join_shards
from shmlease.ingestion.tasks import EXAMPLES
from shmlease.integrations.dask.shard_tasks import run_tasks, string_lengths, write_shard
from shmlease.integrations.dask.shards import Shards, record_of, remove
from shmlease.text.pipes import STANDARD_INPUT
from shmlease.text.schema import Schema
from shmlease.text.sources import PathLike
from shmlease.text.string_lengths import fit_needed_strings

__all__ = ["ingest", "ingest_on"]

_log = logging.getLogger(__name__)

# So that who is done early, or takes over from a lost worker, has something to do. A shard costs some 10 ms of a processor.
_SHARDS_A_THREAD: Final = 4
_OF_TEXT: Final = ("layout", "dtype", "columns", "matrix")
_OF_ONE_PROCESS: Final = ("executor", "progress", "ranges", "registry", "restart")


def ingest(
    client: Client,
    paths: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    into: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    shards: int | None = None,
    reader: Callable[..., Any] | None = None,
    **options: Any,
) -> IngestReport:
    """Bring text tables, or what your own reader gives, into one HDF5 file, by the workers of a Dask cluster.

    The file is an HDF5 virtual dataset over shards in ``<out>.shards``, which must stay beside it; `consolidate` makes one
    plain file. A large text file is read by several workers, each a range of it. One that can only be read from its start
    is read by one: compressed, with quoted cells, or with something behind the table.

    Parameters
    ----------
    client : Client
        Of the cluster. It, and the workers, must see the files and the output under the same paths.
    paths, out, into, overwrite, resume
        As of `shmlease.ingest`; pipes cannot be read. With `overwrite` the old file and its shards are removed first. With
        `resume`, shards whose files were changed since are written anew.
    shards : int, optional
        How many files to write at most; by default four for each thread of the workers, and none of less than 16 MiB of a
        file that is cut.
    reader : callable, optional
        As of `shmlease.ingest`: your own loader, called once for each path by a worker. Workers import its module, and look
        also where this program finds its own; a function of ``__main__``, of a notebook, or within another goes by value.
    **options
        Of `shmlease.ingest`, for each shard: ``workers`` (0 by default, for a shard is a task, whose thread does the work)
        and ``capacity`` are a shard's. Not ``executor``, ``progress``, ``ranges``, ``registry``, ``restart``.

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
    if shards is not None and shards < 1:
        raise ValueError(f"shards={shards}; at least one is needed")
    job: dict[str, Any] = {"into": into, "options": {key: repr(value) for key, value in sorted(options.items())}}
    given = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    schema: Schema | None = None
    groups: dict[str, str] | None = None
    if reader is None:
        if STANDARD_INPUT in given:
            raise IngestError(f"{STANDARD_INPUT}: standard input is of this process; name files that workers can read")
        names = [os.path.abspath(path) for path in given]
        require_present(names)
        schema, options = _schema(options)
    else:
        # what is no file may be an address, or whatever the reader knows
        names = [os.path.abspath(path) if os.path.lexists(path) else path for path in given]
        options["reader"], groups = _reader(names, reader, into, options)
        job["reader"] = options["reader"].name
    out = os.path.abspath(out)
    folder = f"{out}.shards"
    if overwrite:
        remove(out, folder)
    check_output_path(out, names, overwrite=False)
    job["paths"] = names
    plan = Shards.planned(folder, names, schema, (shards or _count(client), shards is not None), job, resume=resume)
    if schema is not None:
        options["layout"] = _fitted(client, plan, schema, all_strings=options.pop("fit_strings", False))
    reports = _written(client, plan, {"workers": 0, "into": into, **options})
    joined = join_shards(
        out,
        plan.paths,
        into if groups is None or into is None else into.strip("/"),
        is_columnar=bool(options.get("columnar")),
        rejected=f"{folder}/rejected.h5" if options.get("on_error") == "quarantine" else None,
        groups=groups,
    )
    if groups is not None:
        joined = replace(joined, files=_with_failures(joined.files, reports))
    remove(*map(record_of, plan.paths))
    threads = min(len(reports), sum(client.nthreads().values()))
    return _report(out, plan, joined, reports, threads=threads, elapsed_s=time.monotonic() - began_s)


def ingest_on(
    scheduler: str, paths: Sequence[PathLike], out: PathLike, *, progress: object = None, **options: Any
) -> IngestReport:
    """`ingest` by the cluster whose scheduler is at that address; how far it is, its dashboard shows.

    Raises
    ------
    IngestError
        It is no address, or nobody answers there.
    """
    del progress
    try:
        resolve_address(scheduler)  # of a wrong one a client takes a minute to let go
    except (OSError, ValueError) as error:
        raise IngestError(f"{scheduler}: is no address of a scheduler, such as tcp://host:8786: {error}") from error
    try:
        client = Client(scheduler, set_as_default=False)
    except OSError as error:
        raise IngestError(f"the scheduler at {scheduler} cannot be reached: {error}") from error
    with client:
        return ingest(client, paths, out, **options)


def _schema(options: dict[str, Any]) -> tuple[Schema, dict[str, Any]]:
    """The schema that the options of `shmlease.ingest` mean, and the others."""
    known = inspect.signature(shmlease.ingest).parameters
    reading = {name: value for name, value in options.items() if name not in known}
    layout, dtype, columns, matrix = (options.get(name) for name in _OF_TEXT)
    others = {name: value for name, value in options.items() if name in known and name not in _OF_TEXT}
    return schema_of(layout, dtype, columns, reading, matrix), others


def _reader(
    names: list[str], reader: Callable[..., Any], into: str | None, options: dict[str, Any]
) -> tuple[Reader, dict[str, str]]:
    """A reader as workers can have it, and the group of each path; refuses what the workers would refuse."""
    known = inspect.signature(shmlease.ingest).parameters
    text = (*_OF_TEXT, "fit_strings", "columnar", *(name for name in options if name not in known))
    require_none_of_text(**{name: options.get(name) for name in text})
    compression, own = compressions_named(options.get("compression", "gzip"))
    require_none_of_text(columnar=bool(own))
    packed = pack_reader(reader, runs_main=False)
    plan = plan_load(names, packed, into, compression, options.get("on_error", "fail"))
    return packed, dict(zip(plan.paths, plan.groups, strict=True))


def _count(client: Client) -> int:
    """How many shards to write, if nothing was said of it."""
    if not client.nthreads():
        _log.warning("no worker has come to %s yet; waiting for the first", client.scheduler_info()["address"])
        client.submit(os.getpid, pure=False).result()  # a cluster that adapts itself starts some for it
    return _SHARDS_A_THREAD * max(1, sum(client.nthreads().values()))


def _fitted(client: Client, plan: Shards, schema: Schema, *, all_strings: bool) -> Schema:
    """The schema with strings long enough for all files, which the workers measure if need be."""
    if not (all_strings or schema.needs_fitting):
        return schema
    longest: dict[str, int] = {}
    for lengths in run_tasks(client, string_lengths, [(group, schema) for group in plan.groups]):
        for name, length in lengths.items():
            longest[name] = max(length, longest.get(name, 0))
    return fit_needed_strings(schema, longest, all_strings=all_strings)


def _written(client: Client, plan: Shards, options: dict[str, Any]) -> list[IngestReport]:
    """The reports of the shards, which the workers write unless they are there."""
    tasks = [(group, path, options) for group, path in zip(plan.groups, plan.paths, strict=True)]
    # who calls a reader that kills its process does so in another one then, which says which path it was
    again = {"workers": 1} if "reader" in options and not options["workers"] else None
    reports: list[IngestReport] = run_tasks(client, write_shard, tasks, again)
    plan.require_unchanged()
    for path in plan.paths:
        if not os.path.isfile(path):
            raise IngestError(
                f"{path}: was written by a worker and is not seen here; "
                "the workers and this process need a file system in common",
                path=path,
            )
    return reports


def _report(
    out: str, plan: Shards, joined: JoinedShards, reports: list[IngestReport], *, threads: int, elapsed_s: float
) -> IngestReport:
    rejected = (joined.in_file(number, each) for number, report in enumerate(reports) for each in report.rejected)
    return IngestReport(
        path=out,
        datasets=joined.datasets,
        files=joined.files,
        rejected=tuple(rejected)[:EXAMPLES],
        size_bytes=sum(os.path.getsize(path) for path in plan.paths),
        elapsed_s=elapsed_s,
        parser=reports[0].parser,
        workers=threads * max(report.workers for report in reports),
        workers_replaced=sum(report.workers_replaced for report in reports),
        shared_peak_bytes=max(report.shared_peak_bytes for report in reports),
        capacity_bytes=max(report.capacity_bytes for report in reports),
        resumed_rows=sum(report.resumed_rows for report in reports),
        leaks=tuple(leak for report in reports for leak in report.leaks),
    )


def _with_failures(files: Sequence[FileReport], reports: list[IngestReport]) -> tuple[FileReport, ...]:
    """What became of the paths of a reader: where their rows are, and which could not be read."""
    of_path = {file.path: file for report in reports for file in report.files}
    return tuple(
        replace(file, rejected=of_path[file.path].rejected, size_bytes=of_path[file.path].size_bytes) for file in files
    )
