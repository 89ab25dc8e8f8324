"""`leasehold ingest`: text tables into one HDF5 file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import click

from leasehold.cli.ingest_words import as_json, as_text, plan_as_json, plan_as_text
from leasehold.errors import LeaseholdError
from leasehold.pipeline.api import ingest
from leasehold.pipeline.job import plan_job, schema_of
from leasehold.pipeline.report import Progress
from leasehold.tabular.infer import infer
from leasehold.tabular.layouts import LAYOUTS
from leasehold.tabular.schema import Schema

__all__ = ["command"]

_DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " ", "blanks": None}
_INTERRUPTED, _TERMINATED = 130, 143  # 128 and the number of the signal, as shells have it


@click.command("ingest")
@click.argument("files", metavar="FILES...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="OUT.h5", help="The HDF5 file to make.")
@click.option("--layout", metavar="NAME", help=f"How the files are written: {', '.join(LAYOUTS)}.")
@click.option(
    "--dtype", metavar="FIELDS", help='The fields, such as "chr:S10,pos:i4,pct:f4"; name:type=fill for missing ones.'
)
@click.option("--columns", metavar="LIST", help="The column of each field, from 0, or its name in the header: 0,1,3.")
@click.option(
    "--infer", "inferred", is_flag=True, help="Look at the first file, and print the schema that it seems to have."
)
@click.option("--delimiter", metavar="CHARACTER", help=f"Between cells: a character, or {', '.join(_DELIMITERS)}.")
@click.option("--header/--no-header", default=None, help="Whether the first line names the columns.")
@click.option("--skip-lines", type=click.IntRange(0), metavar="N", help="Lines before the table that are not data.")
@click.option("--comment", "comments", multiple=True, metavar="TEXT", help="Skip lines that begin so; may be repeated.")
@click.option("--quote", metavar="CHARACTER", help="Around cells that hold delimiters or line ends.")
@click.option("--missing", multiple=True, metavar="TEXT", help="A cell that means a missing value; may be repeated.")
@click.option("--encoding", metavar="NAME", help="Of the files; utf-8, latin-1 and their like.")
@click.option("--into", metavar="NAME", help="All files into one dataset, in the order given; by default one for each.")
@click.option(
    "--compression", type=click.Choice(["gzip", "none", "lzf", "zstd", "blosc2"]), default="gzip", show_default=True,
    help="zstd and blosc2 need the package hdf5plugin.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Worker processes; by default one for each processor.")
@click.option("--capacity", metavar="SIZE", help="The most shared memory to use; by default 32MiB a worker and 64MiB.")
@click.option(
    "--on-error", type=click.Choice(["fail", "skip", "quarantine"]), default="fail", show_default=True,
    help="For lines that are no rows: fail at the first, leave them out, or keep them in the file, under rejected/.",
)  # fmt: skip
@click.option(
    "--parser", type=click.Choice(["auto", "native", "numpy"]), default="auto", show_default=True,
    help="What reads the lines: C where it was compiled, or numpy. Both give the same.",
)  # fmt: skip
@click.option("--fit-strings", is_flag=True, help="Read all files first, and make string fields as long as they need.")
@click.option("--resume", is_flag=True, help="Go on with what an interrupted run has left, if it has.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--json", "is_json", is_flag=True, help="Write the summary as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, and no summary unless it is JSON.")
def command(
    files: tuple[str, ...],
    output: str | None,
    layout: str | None,
    dtype: str | None,
    columns: str | None,
    inferred: bool,
    into: str | None,
    compression: str,
    workers: int | None,
    capacity: str | None,
    on_error: Any,
    parser: Any,
    fit_strings: bool,
    resume: bool,
    dry_run: bool,
    is_json: bool,
    quiet: bool,
    **reading: Any,
) -> None:
    """Load text tables into one HDF5 file: parsed and compressed by worker processes, through leased shared memory.

    Files may be packed (gzip, BGZF, bzip2, xz, zstd). Each becomes a dataset named after it, its rows in their order and
    its values those that numpy.loadtxt gives. OUT.h5 appears when it is complete. The run ends with a check that it has
    left nothing in shared memory.

    Exit codes: 0 all lines became rows; 1 the file is complete, and some lines did not; 2 failed, and there is no file; 130
    interrupted.
    """
    options = _reading(reading)
    schema: str | Schema | None = layout
    if inferred:
        schema = _inferred(files[0], layout, dtype, options, quiet=quiet and output is not None)
        options = {}
    elif output is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--output': the HDF5 file to make.")
    chosen = None if columns is None else [int(each) if each.isdigit() else each for each in columns.split(",")]
    if dry_run:
        job = plan_job(files, schema_of(schema, dtype, chosen, options), into)
        click.echo(plan_as_json(job, output) if is_json else plan_as_text(job, output))
        return
    if output is None:
        return
    signal.signal(signal.SIGTERM, _terminate)
    with _display(shown=not quiet) as progress:
        report = _checked(
            output,
            lambda: ingest(
                files, output, layout=schema, dtype=dtype, columns=chosen, into=into, compression=compression,
                workers=workers, capacity=capacity, on_error=on_error, fit_strings=fit_strings, resume=resume,
                progress=progress, parser=parser, **options,
            ),
        )  # fmt: skip
    if is_json:
        click.echo(as_json(report))
    elif not quiet:
        click.echo(as_text(report))
    for leak in report.leaks:
        click.echo(f"leasehold: left in shared memory: {leak}", err=True)
    sys.exit(report.exit_code)


def _checked(output: str, run: Callable[[], Any]) -> Any:
    """The result of `run`; failures in one line, which says so when something is left to be resumed."""
    try:
        return run()
    except KeyboardInterrupt:
        click.echo(f"leasehold: interrupted{_to_resume(output)}", err=True)
        sys.exit(_INTERRUPTED)
    except LeaseholdError as error:
        click.echo(f"leasehold: {error}{_to_resume(output)}", err=True)
    except (OSError, MemoryError, ValueError) as error:
        click.echo(f"leasehold: {type(error).__name__}: {error}{_to_resume(output)}", err=True)
    sys.exit(2)


def _to_resume(output: str) -> str:
    return (
        f" (what was stored is in {output}.partial, --resume goes on with it)" if os.path.isdir(f"{output}.partial") else ""
    )


def _terminate(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - a signal handler's signature
    sys.exit(_TERMINATED)


def _reading(given: dict[str, Any]) -> dict[str, Any]:
    """The options of a schema that were given."""
    options = {name: value for name, value in given.items() if value not in (None, ())}
    if "delimiter" in options:
        name = options["delimiter"]
        options["delimiter"] = _DELIMITERS.get(name, name)
    return options


def _inferred(path: str, layout: str | None, dtype: str | None, options: dict[str, Any], *, quiet: bool) -> Schema:
    if layout or dtype or options:
        raise click.UsageError(
            "--infer finds out what --layout, --dtype and the options for reading say; give one or the other"
        )
    inference = infer(path)
    if not quiet:
        click.echo(f"{path}: {inference}", err=True)
    return inference.schema


def _display(*, shown: bool) -> AbstractContextManager[Callable[[Progress], None] | None]:
    if not shown or not sys.stderr.isatty():
        return nullcontext()
    from leasehold.cli.progress import Display  # noqa: PLC0415 - only a terminal needs rich

    return Display()
