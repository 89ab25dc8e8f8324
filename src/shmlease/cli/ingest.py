"""`shmlease ingest`: text tables into one HDF5 file. Its options; what it does is in `shmlease.cli.ingest_run`."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from shmlease.cli.ingest_options import DELIMITERS, FORMATS, READING, reading_options, words_beside
from shmlease.errors import LeaseError
from shmlease.ingestion import worker_forkserver
from shmlease.ingestion.little_input import is_little

__all__ = ["command"]

_TERMINATED = 143  # 128 and the number of the signal
ON_ERROR = click.Choice(["fail", "skip", "quarantine"])
EXTRA = click.Choice(["error", "ignore", "join"])
SHORT = click.Choice(["error", "missing"])
LINE_ENDS = click.Choice(["auto", "lf", "cr"])
PARSERS = click.Choice(["auto", "native", "numpy"])


def _attributes(given: tuple[str, ...]) -> dict[str, str]:
    for each in given:
        if "=" not in each.strip("="):
            raise click.BadParameter(f"{each!r} is not KEY=VALUE", param_hint="--attr")
    return {key: value for key, _, value in (each.partition("=") for each in given)}


@click.command("ingest")
@click.argument("files", metavar="FILES...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="OUT.h5", help="The HDF5 file to write.")
@click.option("--layout", metavar="NAME", help=f"Layout of the files: {', '.join(FORMATS)}.")
@click.option(
    "--dtype", metavar="FIELDS", help='The fields, such as "chr:S10,pos:i4,pct:f4"; name:type=fill for missing values.'
)
@click.option("--columns", metavar="LIST", help="The column of each field, from 0, or its name in the header: 0,1,3.")
@click.option(
    "--infer",
    "inferred",
    is_flag=True,
    help="Find out how the files are written: print a command that reads them, or, with -o, read them.",
)
@click.option("--delimiter", metavar="CHARACTER", help=f"What separates cells: a character, or {', '.join(DELIMITERS)}.")
@click.option("--header/--no-header", default=None, help="Whether the first line names the columns.")
@click.option("--skip-to", metavar="TEXT", help="Skip lines until one that begins with this, which is the header.")
@click.option("--skip-lines", type=click.IntRange(0), metavar="N", help="How many lines to skip before the table.")
@click.option(
    "--comment", "comments", multiple=True, metavar="TEXT", help="Skip lines that begin with this; may be repeated."
)
@click.option("--skip-after-header", type=click.IntRange(0), metavar="N", help="How many lines to skip after the header.")
@click.option("--units", is_flag=True, default=None, help="The first of these has units, which become attributes.")
@click.option(
    "--attribute-lines", is_flag=True, default=None, help="Lines of a word and a value before the data are attributes."
)
@click.option("--widths", metavar="LIST", help="Bytes of each cell in a table of fixed width: 11,4,2.")
@click.option("--ends-at", metavar="TEXT", help="The table ends before the first line that begins with this.")
@click.option("--quote", metavar="CHARACTER", help="The character around cells that contain delimiters or line ends.")
@click.option(
    "--missing", multiple=True, metavar="TEXT", help="Text of a cell that means a missing value; may be repeated."
)
@click.option("--decimal", metavar="CHARACTER", help="The decimal sign: a point or a comma.")
@click.option("--thousands", metavar="CHARACTER", help="What may stand between groups of three digits.")
@click.option("--after-number", metavar="REGEX", help="What may follow a number in its cell; it is cut off and counted.")
@click.option(
    "--extra", type=EXTRA, help="What becomes of cells past the expected number; by default the line is malformed."
)
@click.option("--short", type=SHORT, help="What becomes of a row with too few cells; by default the line is malformed.")
@click.option(
    "--exact",
    is_flag=True,
    default=None,
    help="Refuse numbers that a field would change: 0123, integers beyond 2**53 in f8.",
)
@click.option("--line-end", type=LINE_ENDS, help="What ends a line; by default the first line of the file decides.")
@click.option("--width", type=click.IntRange(1), metavar="N", help="How many cells a row has; by default as in the header.")
@click.option("--encoding", metavar="NAME", help="Encoding of the files, such as utf-8 or latin-1.")
@click.option("--matrix", metavar="TYPE", help="Make one two-dimensional dataset of all columns, of this type: f4.")
@click.option(
    "--transpose", is_flag=True, default=None, help="With --matrix: columns of the table are rows of the dataset."
)
@click.option(
    "--attr", "attributes", multiple=True, metavar="KEY=VALUE", help="An attribute for every dataset; may be repeated."
)
@click.option(
    "--into", metavar="NAME", help="Put all files into one dataset, in the order given; by default each has its own."
)
@click.option("--columnar", is_flag=True, help="Make a group of each dataset, with one dataset for each column.")
@click.option(
    "--compression",
    default="gzip",
    show_default=True,
    metavar="NAME",
    help="gzip, none, lzf, zstd or blosc2; the last two need the package hdf5plugin. With --columnar, columns may have "
    "their own: gzip,pos=zstd.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Worker processes; by default one per processor, none for files of up to 1 MiB.",
)
@click.option("--capacity", metavar="SIZE", help="The most shared memory to use; by default 32MiB per worker plus 64MiB.")
@click.option(
    "--on-error",
    type=ON_ERROR,
    default="fail",
    show_default=True,
    help="For malformed lines: fail at the first, skip and count them, or keep them in the file under rejected/.",
)
@click.option(
    "--parser",
    type=PARSERS,
    default="auto",
    show_default=True,
    help="What reads the lines: compiled C where it is available, or numpy. Both give the same rows.",
)
@click.option("--fit-strings", is_flag=True, help="Read all files first, and make string fields as long as they need.")
@click.option(
    "--reader",
    metavar="MODULE:FUNCTION",
    help="Read the files with a function of yours, which takes a path and gives arrays with their names.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.h5, if it is there, when the new file is complete.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run, if there was one.")
@click.option("--restart", is_flag=True, help="Drop what an interrupted run has stored, and begin again.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Let the workers of this Dask cluster do it; OUT.h5 is a virtual dataset over shards in OUT.h5.shards.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--json", "is_json", is_flag=True, help="Write the summary as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, and no summary unless it is JSON.")
def command(files: tuple[str, ...], output: str | None, dry_run: bool, **options: Any) -> None:
    """Load text tables into one HDF5 file: parsed and compressed by worker processes, through leased shared memory.

    With --reader, the files are whatever your function reads: its arrays become datasets in a group for each file.

    Files may be compressed (gzip, BGZF, bzip2, xz, zstd, zip), which is detected from their content; - is standard
    input. Each becomes a dataset named after it, with its rows in their order and the values that numpy.loadtxt gives.
    OUT.h5 appears when it is complete; a file there is replaced only with --overwrite. The run ends with a check that it
    has left nothing in shared memory.

    Exit codes: 0 every line became a row; 1 the file is complete, and some lines were malformed; 2 failed, and there is no
    new file; 130 interrupted.
    """
    beside = words_beside(click.get_current_context())
    reading = reading_options({name: options.pop(name) for name in READING})
    options["attributes"] = _attributes(options["attributes"])
    ahead: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    gc.disable()  # what is imported lives as long as the process
    if output is not None and not dry_run:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing here multiplies matrices
        if not options["scheduler"] and (options["reader"] or options["workers"] or not is_little(files)):
            ahead = _begun(options["workers"], options["capacity"], options["compression"])
    with _ended_by_sigterm(), ahead:
        from shmlease.cli.ingest_run import run  # noqa: PLC0415 - beside the start of the processes

        gc.freeze()
        gc.enable()
        run(files, output, dry_run=dry_run, reading=reading, beside=beside, **options)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """A block that SIGTERM ends in order, as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - a signal handler's signature
    sys.exit(_TERMINATED)


@contextlib.contextmanager
def _begun(workers: int | None, capacity: str | None, compression: str) -> Iterator[None]:
    """A block whose ingest with these finds its processes begun: they start beside the imports of this one."""
    with contextlib.ExitStack() as leaving:
        leaving.callback(worker_forkserver.drop)
        worker_forkserver.begin()
        from shmlease.ingestion import resources  # noqa: PLC0415 - the fork server imports much of it meanwhile

        leaving.callback(resources.drop)
        with contextlib.suppress(LeaseError, OSError, ValueError):  # what is wrong is said where the run begins
            count = workers or len(os.sched_getaffinity(0))
            resources.begin(count, capacity, compressed=compression.partition(",")[0] != "none")
        yield
