"""`ingest`: text tables, or what a reader of the user's gives, into one HDF5 file."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from shmlease.errors import IngestError
from shmlease.exhaustion import explains_shortage
from shmlease.hdf5 import HDF5Sink
from shmlease.hdf5.columnar_sink import ColumnarSink
from shmlease.hdf5.filters import compressions_named
from shmlease.ingestion.bad_rows import BadRows
from shmlease.ingestion.budget import Budget, budget_for
from shmlease.ingestion.coordinator import TICK_S, Coordinator, Job
from shmlease.ingestion.dataset_job import DatasetJob
from shmlease.ingestion.file_progress import report_of
from shmlease.ingestion.inline_resources import InlineResources
from shmlease.ingestion.plan import IngestPlan, check_output_path, plan_ingest, require_present, schema_of
from shmlease.ingestion.report import DatasetReport, FileReport, IngestReport, Progress, Rejected
from shmlease.ingestion.resuming import position_of, require_asked, require_unchanged_sources
from shmlease.ingestion.tasks import OnError
from shmlease.ingestion.watch import Watch
from shmlease.system.identity import require_proc
from shmlease.text.parser_choice import Parser, choose_parser
from shmlease.text.pipes import forget_pipes
from shmlease.text.schema import Schema
from shmlease.text.sources import PathLike

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from shmlease.client.handle import RegistryHandle
    from shmlease.ingestion.load_plan import LoadPlan
    from shmlease.ingestion.resources import RunResources

__all__ = ["ingest"]


@explains_shortage("the files cannot be ingested")
def ingest(
    paths: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    layout: str | Schema | None = None,
    dtype: Any = None,
    columns: Sequence[int | str] | None = None,
    matrix: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    into: str | None = None,
    columnar: bool = False,
    compression: str = "gzip",
    workers: int | None = None,
    capacity: int | str | None = None,
    on_error: OnError = "fail",
    fit_strings: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    restart: bool = False,
    executor: Executor | None = None,
    registry: RegistryHandle | None = None,
    progress: Callable[[Progress], None] | None = None,
    parser: Literal["auto"] | Parser = "auto",
    reader: Callable[..., Any] | None = None,
    ranges: Mapping[PathLike, tuple[int, int]] | None = None,
    **reading: Any,
) -> IngestReport:
    """Bring text tables, or what your own reader gives, into one HDF5 file, through worker processes and leased memory.

    The file appears under its name when it is complete, and not before; an interrupted run can be resumed. Values are
    those `numpy.loadtxt` gives for the same dtype, bit for bit. Rows keep the order of their file.

    Parameters
    ----------
    paths : path or sequence of paths
        Text files, plain or compressed (gzip, BGZF, bzip2, xz, zstd); members of zip archives (``a.zip/b.csv``; the archive
        stands for all of its members); pipes, FIFOs, and ``-`` for standard input, which are read as streams.
    out : path
        The HDF5 file to make.
    layout : str or Schema, optional
        How the files are written and which fields they have: the name of a layout, such as ``"bismark-cov"``, or a schema.
    dtype : str or numpy.dtype or sequence of Field, optional
        The fields: ``"chr:S10,pos:i4,pct:f4"``, or a structured dtype.
    columns : sequence of int or str, optional
        The column of each field, by number from 0 or by its name in the header.
    matrix : str, optional
        A type such as ``"f4"``: all columns, from the one in `columns` on, are one two-dimensional dataset of it.
    attributes : mapping, optional
        Attributes that every dataset gets.
    into : str, optional
        Put all files into one dataset of this name, in the order given. By default each file has one, named after it.
    columnar : bool
        Make each dataset a group with one dataset for each field, so that a column is read without the others.
    compression : str
        As of `HDF5Sink`. With `columnar`, columns may have their own: ``"gzip,name=zstd,id=none"``.
    workers : int, optional
        Worker processes; by default as many as there are processors. 0: the calling thread does the work itself, without
        shared memory unless a registry is given; this is the default for a few plain files of up to 1 MiB together.
    capacity : int or str, optional
        The most shared memory to use; by default 32 MiB for each worker and two more, at most half of what is free.
    on_error : {"fail", "skip", "quarantine"}
        What becomes of malformed lines: the run fails at the first, they are skipped and counted, or they are kept in the
        file, under ``rejected/``.
    fit_strings : bool
        Read all files once for the lengths of their strings first, and make all string fields so long. Without, that is
        done for fields without a length only (``name:S``).
    overwrite : bool
        Replace the file that is at `out`, when the new one is complete. Otherwise a file there is an error.
    resume : bool
        Go on with what an interrupted run of the same files left beside `out`, if it left something.
    restart : bool
        Drop that, and begin again. Without either, a run of the same files and options that finds 64 MiB or more stored is
        an error; so is one of others, unless `overwrite` is given.
    executor : Executor, optional
        Whose workers are used instead of processes of its own; they must be on this machine. What happens when one of
        them is killed is the executor's affair.
    registry : RegistryHandle, optional
        A registry to use; by default one is started for the run.
    progress : callable, optional
        Called some ten times a second with a `Progress`.
    parser : {"auto", "native", "numpy"}
        What reads the lines: by default C where it was compiled, else numpy; both give the same.
    reader : callable, optional
        Your own loader, called in the workers instead of reading text: ``reader(path)`` returns or yields arrays with their
        names, as pairs or as a mapping, or an array alone; a third element of a pair has attributes. ``reader(path, out)``
        may also fill ``out(name, shape, dtype)``, an array in shared memory. Each path becomes a group named after it; with
        `into`, all are one group (``"/"``: the file itself), and arrays of one name are joined along their first axis. An
        array that comes several times goes on. `on_error` is for paths then: one for which the reader raises fails the run,
        is left out, or noted under ``rejected/``; what it had given before stays. When a worker was killed, or a run is
        resumed, the reader is called again: it must give the same. Workers find it by module and name, as `pickle` does.
    ranges : mapping of path to (int, int), optional
        Of these files, which must be plain text that can be cut, only the lines that begin in a range of bytes: start, and
        the byte after the last. Several runs share a large file so. Lines that were malformed are counted from the first of
        the range.
    **reading
        Options of `Schema`, such as ``delimiter=","`` or ``header=True``, in place of those of the layout.

    Returns
    -------
    IngestReport
        What was done. Its `leaks` are empty when nothing is left in shared memory.

    Raises
    ------
    IngestError
        A file cannot be read, or has a malformed line and `on_error` is ``"fail"``. Nothing is put at `out`. If a reader
        raised, `traceback` has what Python would print.
    SinkError
        There is a file at `out` already, or the HDF5 file cannot be written.
    CapacityError
        The capacity is too small for the rows, or /dev/shm is full.
    UnsupportedPlatformError
        There is no /proc.
    """
    began_s = time.monotonic()
    require_proc()
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error={on_error!r}; it is one of {', '.join(get_args(OnError))}")
    if resume and restart:
        raise ValueError("resume goes on with what is stored, and restart drops it; choose one")
    chosen = choose_parser(parser)
    compression, own = compressions_named(compression)
    names = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    check_output_path(out, names, overwrite=overwrite)
    try:
        plan: IngestPlan | LoadPlan
        if reader is None:
            require_present(names)
            schema = schema_of(layout, dtype, columns, reading, matrix)
            plan = plan_ingest(names, schema, into, on_error, chosen, columnar=columnar, ranges=ranges)
            _require_columns(own, plan)
        else:
            text = {"layout": layout, "dtype": dtype, "columns": columns, "matrix": matrix, "fit_strings": fit_strings}
            from shmlease.ingestion.load_plan import (  # noqa: PLC0415 - text needs nothing of it
                plan_load,
                require_none_of_text,
            )

            require_none_of_text(**text, columnar=columnar or bool(own), ranges=ranges, **reading)
            plan = plan_load(names, reader, into, compression, on_error)
        if workers is None:
            is_inline = plan.is_little and executor is None and registry is None
            workers = 0 if is_inline else len(os.sched_getaffinity(0))
        with _resources(workers, capacity, executor, registry, compressed=compression != "none") as resources:
            watch = Watch(plan, resources, began_s, progress)
            if isinstance(plan, IngestPlan) and (fit_strings or plan.schema.needs_fitting):
                plan.require_files("the lengths of its strings are measured before; declare them, such as name:S16")
                from shmlease.ingestion.string_length_pass import measure  # noqa: PLC0415 - it is seldom asked for

                plan = plan.with_string_lengths(measure(plan.tables, resources.pool, watch), all_strings=fit_strings)
            budget = budget_for(resources.capacity_bytes, resources.workers, plan.schemas)
            require_asked(out, plan.digest(), overwrite=overwrite, resume=resume, restart=restart)
            sink = HDF5Sink(out, compression=compression, encoders=1, overwrite=overwrite, resume=resume, keep_partial=True)
            stored = _store(plan, budget, sink, own, resources, watch, attributes)
    finally:
        forget_pipes(names)
    return IngestReport(
        path=os.fspath(out),
        datasets=stored.datasets,
        files=stored.files,
        rejected=stored.rejected,
        size_bytes=os.stat(out).st_size,
        elapsed_s=time.monotonic() - began_s,
        parser=("numpy" if plan.needs_numpy else chosen) if isinstance(plan, IngestPlan) else plan.reader.name,
        workers=resources.workers,
        workers_replaced=resources.pool.replaced,
        shared_peak_bytes=resources.peak_bytes,
        capacity_bytes=resources.capacity_bytes,
        resumed_rows=stored.resumed_rows,
        leaks=resources.leaks,
    )


def _resources(
    workers: int,
    capacity: int | str | None,
    executor: Executor | None,
    registry: RegistryHandle | None,
    *,
    compressed: bool,
) -> RunResources | InlineResources:
    if workers == 0 and executor is None and registry is None:
        return InlineResources(capacity)
    from shmlease.ingestion.resources import RunResources, take  # noqa: PLC0415 - most of it is for processes

    if executor is None and registry is None:
        return take(workers, capacity, compressed=compressed)
    return RunResources(workers, capacity, executor, registry, compressed=compressed)


class _Stored(msgspec.Struct, frozen=True):
    """What is in the file: of each input, and of the lines that were skipped."""

    datasets: tuple[DatasetReport, ...]
    files: tuple[FileReport, ...]
    rejected: tuple[Rejected, ...]
    resumed_rows: int


def _require_columns(own: Mapping[str, str], plan: IngestPlan) -> None:
    """Raise unless all columns that have a compression of their own are datasets."""
    for name in own:
        if not plan.columnar:
            raise IngestError(f"compression {name}={own[name]}: a column has one of its own in a columnar file only")
        if name not in plan.schema.names:
            raise IngestError(
                f"compression {name}={own[name]}: no column is {name!r}; there are {', '.join(plan.schema.names)}"
            )


def _store(
    plan: IngestPlan | LoadPlan,
    budget: Budget,
    sink: HDF5Sink,
    own: Mapping[str, str],
    resources: RunResources | InlineResources,
    watch: Watch,
    attributes: Mapping[str, Any] | None,
) -> _Stored:
    """Parse the files of `plan` into `sink`, and close it; after an error, keep what may be resumed.

    `own` has the compressions of single columns.
    """
    columns = plan.columns if isinstance(plan, IngestPlan) else {}
    tables = ColumnarSink(sink, columns, budget.encode_bytes, own) if columns else sink
    before = tables.completed()
    coordinator = None
    try:
        digest = plan.digest()
        opened = position_of(before, digest, sink.path)
        require_unchanged_sources(before)
        if before.position is None:
            sink.checkpoint({"job": digest, "open": {}})
        bad_rows = BadRows(plan.on_error, sink)
        jobs: Iterator[Job]
        if not isinstance(plan, IngestPlan):
            from shmlease.ingestion.load_job import LoadJob  # noqa: PLC0415 - text needs nothing of it
            from shmlease.ingestion.reader import StepLimit  # noqa: PLC0415 - see above

            # an executor has an order of its own, so that a path must be read in one step there
            step_bytes = sys.maxsize if resources.is_executor else budget.block_bytes
            # who does it all himself says in between how far he is
            step_s = TICK_S if isinstance(resources, InlineResources) else math.inf
            load = LoadJob(
                plan,
                sink,
                resources.registry,
                bad_rows,
                StepLimit(step_bytes, step_s),
                budget.chunks_a_task,
                resources.workers,
                opened.get(LoadJob.name),
                attributes,
            )
            jobs = iter([load])
        else:
            chunks_a_task = 1 if columns else budget.chunks_a_task  # those of a table are larger by so many times
            in_turn = plan.in_turn(resources.workers) if resources.has_processes and budget.has_long_steps else frozenset()
            jobs = (
                DatasetJob(
                    *(name, inputs, tables, resources.registry, bad_rows, chunks_a_task, opened.get(name), attributes),
                    in_turn=name in in_turn,
                )
                for name, inputs in plan.inputs(budget)
                if name not in before.finished
            )
        coordinator = Coordinator(jobs, resources.pool, tables, budget, resources.workers, {"job": digest}, watch)
        coordinator.run()
        resources.pool.finish()
        watch(coordinator)
        contents = sink.contents()
        sink.close()
    except BaseException:
        if coordinator is not None:
            coordinator.abandon()
        # a partial file in which nothing is stored is of no use to anybody; one that could not be resumed may be, elsewhere
        sink.abort(keep_partial=bool(before.rows) or (coordinator is not None and coordinator.has_stored))
        raise
    if not isinstance(plan, IngestPlan):
        datasets = tuple(
            DatasetReport(name, str(dtype), shape[0], dtype.itemsize * math.prod(shape[1:]))
            for name, (dtype, shape) in sorted(contents.items(), key=lambda each: each[0])
            if not name.startswith("rejected/")
        )
        return _Stored(datasets, tuple(coordinator.reports()), tuple(bad_rows.examples), sum(before.rows.values()))
    earlier = [report_of(source, name) for name in before.finished for source in before.sources[name] if source.path]
    reports = {report.path: report for report in [*coordinator.reports(), *earlier]}
    files = tuple(reports[table.path] for table in plan.tables)
    return _Stored(
        datasets=plan.dataset_reports(files),
        files=files,
        rejected=tuple(bad_rows.examples),
        resumed_rows=sum(before.rows.get(name, 0) for name in set(plan.datasets)),
    )
