"""The tasks of an ingest over a cluster: a shard, or the lengths of strings.

A shard is there once its file and its report are; both stay from then on. A task whose worker is lost is run again by
another, and goes on with what was stored. A worker cannot end a task that was cancelled, so a task looks for that itself:
the lock on its shard is free then for the run that resumes it.
"""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
from distributed import Client, KilledWorker, as_completed, get_worker

import shmlease
from shmlease.errors import IngestError, SinkError
from shmlease.ingestion.plan import plan_ingest
from shmlease.ingestion.report import IngestReport, Progress
from shmlease.integrations.dask.shards import FileRange, plan_of, record_of, remove, write_whole
from shmlease.text.schema import Schema
from shmlease.text.sources import PathLike
from shmlease.text.string_lengths import measure_strings

__all__ = ["run_tasks", "string_lengths", "write_shard"]

# A task of an interrupted run ends a tenth of a second after it was cancelled, or when the user's reader has returned.
_LOCK_TIMEOUT_S: Final = 60.0


def run_tasks(
    client: Client, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], again: dict[str, Any] | None = None
) -> list[Any]:
    """What the workers make of each; after an error the others are given up.

    Parameters
    ----------
    client : Client
    function : callable
    tasks : sequence of tuple
        Its arguments; the first is what files it reads.
    again : dict, optional
        With these options, in the last argument, a task is tried once more that has killed its workers.

    Raises
    ------
    IngestError
        Tasks were cancelled by somebody else, or have killed their workers; and whatever a task raised.
    """
    futures = {client.submit(function, *task, pure=False): number for number, task in enumerate(tasks)}
    results: list[Any] = [None] * len(tasks)
    tried_again: set[int] = set()
    completed = as_completed(list(futures), loop=client.loop, with_results=True, raise_errors=False)
    try:
        for future, result in completed:
            number = futures[future]
            if future.status == "finished":
                results[number] = result
            elif future.status != "error":
                raise IngestError("the tasks were cancelled: the scheduler was lost, or the cluster restarted; resume then")
            elif not isinstance(result[1], KilledWorker):
                raise result[1].with_traceback(result[2])
            elif again is None or number in tried_again:
                first = tasks[number][0][0].path
                raise IngestError(
                    f"{result[1].allowed_failures + 1} workers died while they read {first} and what is in its shard; "
                    "their logs say why: most often it was their limit of memory",
                    path=first,
                ) from result[1]
            else:
                tried_again.add(number)
                *others, options = tasks[number]
                another = client.submit(function, *others, {**options, **again}, pure=False)
                futures[another] = number
                completed.add(another)
        return results
    except BaseException:
        client.cancel(list(futures), force=True)
        raise


def string_lengths(group: list[FileRange], schema: Schema) -> dict[str, int]:
    """The longest strings of some files, by field."""
    longest: dict[str, int] = {}
    for table in plan_ingest([each.path for each in group], schema, ranges=_ranges(group)).tables:
        for name, length in measure_strings(table).items():
            longest[name] = max(length, longest.get(name, 0))
    return longest


def write_shard(group: list[FileRange], path: str, options: dict[str, Any]) -> IngestReport:
    """Make a shard, unless it is there; `options` are those of `shmlease.ingest`.

    Raises
    ------
    IngestError, SinkError
        As `shmlease.ingest`; or the directory of the shards is not the client's.
    """
    folder = os.path.dirname(path)
    if not os.path.isfile(plan_of(folder)):
        raise IngestError(
            f"{folder}: is not seen by the worker on {platform.node()}; "
            "the workers and the client need a file system in common",
            path=folder,
        )
    deadline_s = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        report = _written_before(path)
        if report is not None:
            return report
        try:
            return _write(group, path, options)
        except SinkError as error:
            if error.fields.get("errno") != errno.EWOULDBLOCK or time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)  # a task that was given up has not yet noticed


def _written_before(path: str) -> IngestReport | None:
    try:
        with open(record_of(path), "rb") as file:
            report = msgspec.json.decode(file.read(), type=IngestReport)
    except FileNotFoundError:
        return None
    return replace(report, resumed_rows=report.rows) if os.path.isfile(path) else None


def _write(group: list[FileRange], path: str, options: dict[str, Any]) -> IngestReport:
    remove(record_of(path))
    overwrite = os.path.isfile(path)  # its worker was lost before it could report
    options = {**options, "progress": _end_if_cancelled, "overwrite": overwrite, "resume": True}
    report = shmlease.ingest([each.path for each in group], path, ranges=_ranges(group) or None, **options)
    write_whole(record_of(path), report)
    return report


def _ranges(group: list[FileRange]) -> dict[PathLike, tuple[int, int]]:
    return {each.path: each.bytes for each in group if each.bytes is not None}


def _end_if_cancelled(progress: Progress) -> None:
    """Called some ten times a second by `shmlease.ingest`, in the thread of the task."""
    del progress
    try:
        worker = get_worker()
    except ValueError:  # this is no task
        return
    task = worker.state.tasks.get(worker.get_current_task())
    if task is None or task.state == "cancelled":
        raise IngestError("the run was interrupted")  # nobody waits for it
