"""What `shmlease ingest` does with its options."""

from __future__ import annotations

import contextlib
import csv
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import click

from shmlease.cli.ingest_output import (
    as_json,
    inference_as_command,
    inference_as_json,
    plan_as_json,
    plan_as_text,
)
from shmlease.errors import LeaseError
from shmlease.ingestion.ingest import ingest
from shmlease.ingestion.plan import check_output_path, plan_ingest, require_present, schema_of
from shmlease.ingestion.report import Progress
from shmlease.integrations.dask.shards import plan_of
from shmlease.system.shm_shortage import explained
from shmlease.text.schema import Schema

__all__ = ["columns_of", "run"]


def run(
    files: tuple[str, ...],
    output: str | None,
    *,
    layout: str | None,
    dtype: str | None,
    columns: str | None,
    inferred: bool,
    dry_run: bool,
    is_json: bool,
    quiet: bool,
    reading: dict[str, Any],
    beside: Sequence[str],
    into: str | None,
    matrix: str | None,
    overwrite: bool,
    scheduler: str | None,
    reader: str | None,
    **how: Any,
) -> None:
    """Infer, plan, or ingest; ends the process with the exit code of the command after an ingest."""
    if output is not None:
        check_output_path(output, files, overwrite=overwrite)
    function = None if reader is None else _function(reader)
    if function is not None:
        given = [
            f"--{name.replace('_', '-')}"
            for name, value in {**reading, "layout": layout, "dtype": dtype, "columns": columns, "matrix": matrix}.items()
            if value is not None
        ]
        given += [
            option for option, is_on in (("--columnar", how["columnar"]), ("--fit-strings", how["fit_strings"])) if is_on
        ]
        given += ["--infer"] * inferred + ["--dry-run"] * dry_run
        if given:
            raise click.UsageError(f"{given[0]} says how text is read; a reader of your own reads its files itself.")
        require_present(file for file in files if "://" not in file)  # a reader may open what is no file
    schema: str | Schema | None = layout
    chosen = columns_of(columns)
    if inferred:
        only = output is None and not dry_run
        schema = _infer(files, layout, dtype, chosen, reading, shown=not quiet, is_json=is_json, only=only, beside=beside)
        dtype, chosen, reading = None, None, {}
    elif output is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--output': the HDF5 file to make.")
    if dry_run:
        require_present(files)
        plan = plan_ingest(files, schema_of(schema, dtype, chosen, reading, matrix), into, columnar=how["columnar"])
        click.echo(plan_as_json(plan, output) if is_json else plan_as_text(plan, output))
        return
    if output is None:
        return
    do: Callable[..., Any] = ingest
    if function is not None:
        how["reader"] = function
    if scheduler is not None and how.pop("restart"):
        raise click.UsageError("--restart does not go with --scheduler; --overwrite drops what is there.")
    if scheduler is not None:
        do = _on_cluster(scheduler)
        how = {name: value for name, value in how.items() if name != "workers" or value is not None}
    with _display(shown=not quiet) as progress:
        report = _checked(
            output,
            lambda: do(
                files,
                output,
                layout=schema,
                dtype=dtype,
                columns=chosen,
                overwrite=overwrite,
                into=into,
                matrix=matrix,
                progress=progress,
                **how,
                **reading,
            ),
        )
    if is_json:
        click.echo(as_json(report))
    elif not quiet:
        click.echo(str(report))
    for leak in report.leaks:
        click.echo(f"shmlease: left in shared memory: {leak}", err=True)
    sys.exit(report.exit_code)


def _on_cluster(scheduler: str) -> Callable[..., Any]:
    """`ingest` by the workers of that Dask cluster."""
    try:
        from shmlease.integrations.dask.ingest import ingest_on  # noqa: PLC0415 - only a cluster needs Dask
    except ModuleNotFoundError as error:
        raise click.UsageError(f"--scheduler: {error}; pip install 'shmlease[dask]'") from None

    return functools.partial(ingest_on, scheduler)


def _function(text: str) -> Callable[..., Any]:
    """The function of that name in that module; modules of the working directory are found as well."""
    module, _, path = text.partition(":")
    if not path or not all(part.isidentifier() for part in module.split(".")):
        raise click.BadParameter(
            f"{text!r} is not MODULE:FUNCTION, such as package.module:load; the module is named as `import` names it",
            param_hint="--reader",
        )
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function: Any = importlib.import_module(module)
        for name in path.split("."):
            function = getattr(function, name)
    except ModuleNotFoundError as error:
        where = "; modules are looked for in the working directory and in PYTHONPATH"
        raise click.BadParameter(f"{text}: {error}{where}", param_hint="--reader") from error
    except AttributeError as error:
        raise click.BadParameter(f"{text}: {error}", param_hint="--reader") from error
    except Exception as error:  # whatever the module does when it is imported
        raise click.BadParameter(f"{text}: {type(error).__name__}: {error}", param_hint="--reader") from error
    if not callable(function):
        raise click.BadParameter(f"{text} is no function", param_hint="--reader")
    return function  # type: ignore[no-any-return]


def columns_of(text: str | None) -> list[int | str] | None:
    """Names and numbers between commas; a name with a comma stands in quotes, as in a table."""
    if text is None:
        return None
    return [int(each) if each.isascii() and each.isdigit() else each for each in next(csv.reader([text]))]


def _infer(
    files: tuple[str, ...],
    layout: str | None,
    dtype: str | None,
    columns: list[int | str] | None,
    reading: dict[str, Any],
    *,
    shown: bool,
    is_json: bool,
    only: bool,
    beside: Sequence[str],
) -> Schema:
    """The schema that the files seem to have, beside what is given; it goes to stdout if it is all that was asked for."""
    from shmlease.text.inference import infer  # noqa: PLC0415 - only for --infer

    inference = infer(files, given=reading, layout=layout)
    if dtype is not None:
        inference = replace(inference, schema=inference.schema.with_dtype(dtype, columns))
    if only and is_json:
        click.echo(inference_as_json(files, inference, beside))
    elif shown or only:
        click.echo(f"{files[0]}: {inference}", err=True)
        click.echo(inference_as_command(files, inference, beside), err=not only)
    return inference.schema


def _checked(output: str, run: Callable[[], Any]) -> Any:
    """The result of `run`; failures in one line, which says so when this run leaves something to be resumed."""
    before = _kept(output)
    try:
        return run()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_to_resume(_kept(output).keys())) from None
    except LeaseError as error:
        message = str(error)
    except OSError as error:
        message = explained(error)
    except (MemoryError, ValueError) as error:
        message = str(error) or "memory has run out"
    # what an earlier run has left may be of other files: this one may have been refused for that
    stored = [path for path, state in _kept(output).items() if state != before.get(path)]
    click.echo(f"shmlease: {message}{_to_resume(stored)}", err=True)
    sys.exit(2)


def _kept(output: str) -> dict[str, list[tuple[str, int, int]]]:
    """The directories of a run to `output` that has stored something and is not complete, and the state of the files."""
    kept = {}
    for path in (f"{os.path.realpath(output)}.{ending}" for ending in ("partial", "shards")):
        with contextlib.suppress(OSError):  # there is none, it is somebody else's, or it is being removed
            stored = sorted(_state(entry) for entry in os.scandir(path) if entry.path != plan_of(path))  # which comes first
            if stored:
                kept[path] = stored
    return kept


def _state(entry: os.DirEntry[str]) -> tuple[str, int, int]:
    status = entry.stat(follow_symlinks=False)
    return entry.name, status.st_size, status.st_mtime_ns


def _to_resume(kept: Iterable[str]) -> str:
    return "".join(f" (what was stored is in {each}, --resume goes on with it)" for each in kept)


def _display(*, shown: bool) -> contextlib.AbstractContextManager[Callable[[Progress], None] | None]:
    if not shown or not sys.stderr.isatty():
        return contextlib.nullcontext()
    from shmlease.cli.progress import Display  # noqa: PLC0415 - only a terminal needs rich

    return Display()
