"""Ingest over a cluster: each task brings some of the files into a shard, and the output is a virtual dataset over them.

A task is an ordinary `shmlease.ingest` of its files on the worker that runs it. So a worker that is lost costs what it had
not stored: another resumes its shard. Shards lie in ``<out>.shards``, with the plan of the run, which tells a run that
resumes what belongs to it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Final

import msgspec
from distributed import Client, as_completed

import shmlease
from shmlease.errors import IngestError
from shmlease.hdf5.virtual import Part, join, parts_of
from shmlease.ingestion.dataset_names import dataset_names
from shmlease.ingestion.file_progress import report_of
from shmlease.ingestion.plan import check_output_path
from shmlease.ingestion.report import DatasetReport, FileReport, IngestReport
from shmlease.text.field import parse_dtype
from shmlease.text.sources import PathLike

__all__ = ["ingest", "ingest_on"]

# So that who is done early, or takes over from a lost worker, has something to do; a shard costs half a second to begin.
_SHARDS_A_THREAD: Final = 2
_REJECTED: Final = "rejected"


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
    plain file. A file is read by one worker; what is to be read by several is given as several files.

    Parameters
    ----------
    client : Client
        Of the cluster. It, and the workers, must see the files and the output under the same paths.
    paths, out, into, overwrite, resume
        As of `shmlease.ingest`; pipes cannot be read. With `overwrite` the old file and its shards are removed first. With
        `resume`, shards whose files were changed since are written anew.
    shards : int, optional
        How many files to write; by default two for each thread of the workers, and at most one for each input.
    **options
        Of `shmlease.ingest`, for each shard: ``workers`` (0 by default, for a shard is a task, whose thread does the work)
        and ``capacity`` are a shard's. Not ``columnar``, not ``transpose``.

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
    if isinstance(options.get("dtype"), str) and any(each.is_variable for each in parse_dtype(options["dtype"])):
        raise IngestError(
            "strings of variable length are for files that are made on one machine; use S, or leave out the cluster"
        )
    for option in ("columnar", "transpose"):
        if options.get(option):
            raise IngestError(f"{option} is for files that are made on one machine; leave it out, or the cluster")
    names = [os.path.abspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    out = os.path.abspath(out)
    folder = f"{out}.shards"
    if overwrite:
        _remove(out, folder)
    check_output_path(out, names, overwrite=False)
    groups = _planned(folder, names, into, shards or _SHARDS_A_THREAD * sum(client.nthreads().values()), resume, options)
    reports = _written(client, groups, folder, {"workers": 0, "into": into, **options})
    written = [parts_of(_shard(folder, number)) for number in range(len(groups))]
    datasets = _joined(written, into)
    join(out, datasets)
    return _report(out, datasets, reports, time.monotonic() - began_s)


def ingest_on(
    scheduler: str, paths: Sequence[PathLike], out: PathLike, *, progress: object = None, **options: Any
) -> IngestReport:
    """`ingest` by the cluster whose scheduler is at that address; how far it is, its dashboard shows."""
    del progress
    with Client(scheduler, set_as_default=False) as client:
        return ingest(client, paths, out, **options)


def _remove(out: str, folder: str) -> None:
    if os.path.isfile(out):
        os.unlink(out)
    shutil.rmtree(folder, ignore_errors=True)


def _shard(folder: str, number: int) -> str:
    return f"{folder}/{number:05}.h5"


def _planned(
    folder: str, names: list[str], into: str | None, shards: int, resume: bool, options: dict[str, Any]
) -> list[list[str]]:
    """The files of each shard, in order; those of the interrupted run if this one resumes it."""
    job = {"paths": names, "into": into, "options": {key: repr(value) for key, value in sorted(options.items())}}
    files = {name: _state(name) for name in names}
    groups = _grouped(names, shards)
    plan = f"{folder}/plan.json"
    if os.path.isdir(folder) and not resume:
        raise IngestError(f"{folder}: is there already; resume, overwrite, or remove it", path=folder)
    if os.path.isfile(plan):
        with open(plan, "rb") as file:
            before = msgspec.json.decode(file.read())
        if before["job"] != job:
            raise IngestError(
                f"{folder}: the interrupted run was of other files or options; give the same again, or overwrite",
                path=folder,
            )
        groups = before["groups"]
        for number, group in enumerate(groups):
            if any(files[name] != before["files"][name] for name in group):  # corrected since
                _remove(_shard(folder, number), f"{_shard(folder, number)}.partial")
    os.makedirs(folder, exist_ok=True)
    with open(f"{plan}.new", "wb") as file:
        file.write(msgspec.json.encode({"job": job, "files": files, "groups": groups}))
        os.fsync(file.fileno())
    os.replace(f"{plan}.new", plan)
    return groups


def _state(name: str) -> list[int] | None:
    """What changes when a file is changed; None for a member of an archive."""
    try:
        status = os.stat(name)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _grouped(names: list[str], shards: int) -> list[list[str]]:
    """`names` in order, in at most `shards` groups of about the same size."""
    sizes = [os.path.getsize(name) if os.path.isfile(name) else 0 for name in names]
    groups: list[list[str]] = []
    done, total = 0, max(1, sum(sizes))
    for name, size in zip(names, sizes, strict=True):
        if not groups or (len(groups) < shards and done * shards >= len(groups) * total):
            groups.append([])
        groups[-1].append(name)
        done += size
    return groups


def _write_shard(paths: list[str], path: str, options: dict[str, Any]) -> IngestReport | None:
    """Runs on a worker; None if the shard was there, complete."""
    if os.path.exists(path):
        return None
    return shmlease.ingest(paths, path, resume=True, **options)


def _written(client: Client, groups: list[list[str]], folder: str, options: dict[str, Any]) -> list[IngestReport]:
    """The reports of the shards that this run has written."""
    futures = [
        client.submit(_write_shard, group, _shard(folder, number), options, pure=False)
        for number, group in enumerate(groups)
    ]
    try:
        reports = [report for _, report in as_completed(futures, loop=client.loop, with_results=True) if report is not None]
    except BaseException:
        client.cancel(futures, force=True)
        raise
    for number in range(len(groups)):
        if not os.path.isfile(_shard(folder, number)):
            raise IngestError(
                f"{_shard(folder, number)}: was written by a worker and is not seen here; "
                "the workers and this process need a file system in common",
                path=folder,
            )
    return reports


def _joined(written: list[list[Part]], into: str | None) -> dict[str, list[Part]]:
    """The parts of each dataset of the output."""
    plain = [[part for part in parts if not part.dataset.startswith(f"{_REJECTED}/")] for parts in written]
    if into is not None:
        names = {(part.path, part.dataset): into for parts in plain for part in parts}
    else:
        each = [part for parts in plain for part in parts]
        chosen = dataset_names([source.path or "" for part in each for source in part.sources[:1]])
        names = {(part.path, part.dataset): name for part, name in zip(each, chosen, strict=True)}
    datasets: dict[str, list[Part]] = {}
    for number, parts in enumerate(written):
        for part in parts:
            name = names.get((part.path, part.dataset))
            if name is None:  # malformed lines: rejected/NAME/lines and rejected/NAME/text, which refer to each other
                _, *of, kind = part.dataset.split("/")
                name = names[part.path, "/".join(of)]
                name = f"{_REJECTED}/{name}.{number}/{kind}" if into is not None else f"{_REJECTED}/{name}/{kind}"
            datasets.setdefault(name, []).append(part)
    return datasets


def _report(out: str, datasets: dict[str, list[Part]], reports: list[IngestReport], elapsed_s: float) -> IngestReport:
    tables = {name: parts for name, parts in datasets.items() if not name.startswith(f"{_REJECTED}/")}
    files: list[FileReport] = []
    for name, parts in tables.items():
        starts = accumulate((part.rows for part in parts), initial=0)
        for start, part in zip(starts, parts, strict=False):
            files += [replace(report_of(source, name), start_row=source.start + start) for source in part.sources]
    return IngestReport(
        path=out,
        datasets=tuple(
            DatasetReport(name, parts[0].dtype, sum(part.rows for part in parts), parts[0].row_bytes)
            for name, parts in tables.items()
        ),
        files=tuple(files),
        rejected=tuple(each for report in reports for each in report.rejected),
        size_bytes=sum(os.path.getsize(path) for path in {part.path for parts in datasets.values() for part in parts}),
        elapsed_s=elapsed_s,
        parser=reports[0].parser if reports else "",
        workers=sum(report.workers for report in reports),
        workers_replaced=sum(report.workers_replaced for report in reports),
        shared_peak_bytes=max((report.shared_peak_bytes for report in reports), default=0),
        capacity_bytes=max((report.capacity_bytes for report in reports), default=0),
        resumed_rows=sum(report.resumed_rows for report in reports),
        leaks=tuple(leak for report in reports for leak in report.leaks),
    )
