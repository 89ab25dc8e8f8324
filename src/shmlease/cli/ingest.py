"""`shmlease ingest`: text tables into one HDF5 file. Its options; what it does is in `shmlease.cli.ingest_run`."""

from __future__ import annotations

import gc
import os
from typing import Any

import click

from shmlease.ingestion import worker_forkserver

__all__ = ["command"]

DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " ", "blanks": None}
# As in shmlease.text.formats, which imports numpy.
FORMATS = (
    "bismark-cov",
    "bedgraph-methylation",
    "methylkit",
    "allc",
    "gembs",
    "metoffice",
    "tmy3",
    "nsrdb",
    "rdb",
    "csv",
    "tsv",
    "blanks",
)
COMPRESSIONS = click.Choice(["gzip", "none", "lzf", "zstd", "blosc2"])
ON_ERROR = click.Choice(["fail", "skip", "quarantine"])
PARSERS = click.Choice(["auto", "native", "numpy"])


def _reading_options(given: dict[str, Any]) -> dict[str, Any]:
    """Those options of a schema that were given, as `Schema` takes them."""
    options = {name: value for name, value in given.items() if value not in (None, ())}
    if "delimiter" in options:
        options["delimiter"] = DELIMITERS.get(options["delimiter"], options["delimiter"])
    return options


@click.command("ingest")
@click.argument("files", metavar="FILES...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="OUT.h5", help="The HDF5 file to write.")
@click.option("--layout", metavar="NAME", help=f"Layout of the files: {', '.join(FORMATS)}.")
@click.option(
    "--dtype", metavar="FIELDS", help='The fields, such as "chr:S10,pos:i4,pct:f4"; name:type=fill for missing values.'
)
@click.option("--columns", metavar="LIST", help="The column of each field, from 0, or its name in the header: 0,1,3.")
@click.option("--infer", "inferred", is_flag=True, help="Print the schema that the first file seems to have.")
@click.option("--delimiter", metavar="CHARACTER", help=f"What separates cells: a character, or {', '.join(DELIMITERS)}.")
@click.option("--header/--no-header", default=None, help="Whether the first line names the columns.")
@click.option("--skip-lines", type=click.IntRange(0), metavar="N", help="How many lines to skip before the table.")
@click.option(
    "--comment", "comments", multiple=True, metavar="TEXT", help="Skip lines that begin with this; may be repeated."
)
@click.option("--quote", metavar="CHARACTER", help="The character around cells that contain delimiters or line ends.")
@click.option(
    "--missing", multiple=True, metavar="TEXT", help="Text of a cell that means a missing value; may be repeated."
)
@click.option("--encoding", metavar="NAME", help="Encoding of the files, such as utf-8 or latin-1.")
@click.option(
    "--into", metavar="NAME", help="Put all files into one dataset, in the order given; by default each has its own."
)
@click.option(
    "--compression",
    type=COMPRESSIONS,
    default="gzip",
    show_default=True,
    help="zstd and blosc2 need the package hdf5plugin.",
)
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Worker processes; by default one per processor.")
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
@click.option("--overwrite", is_flag=True, help="Replace OUT.h5, if it is there, when the new file is complete.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run, if there was one.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--json", "is_json", is_flag=True, help="Write the summary as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, and no summary unless it is JSON.")
def command(files: tuple[str, ...], output: str | None, dry_run: bool, **options: Any) -> None:
    """Load text tables into one HDF5 file: parsed and compressed by worker processes, through leased shared memory.

    Files may be compressed (gzip, BGZF, bzip2, xz, zstd, zip), which is detected from their content; - is standard
    input. Each becomes a dataset named after it, with its rows in their order and the values that numpy.loadtxt gives.
    OUT.h5 appears when it is complete; a file there is replaced only with --overwrite. The run ends with a check that it
    has left nothing in shared memory.

    Exit codes: 0 every line became a row; 1 the file is complete, and some lines were malformed; 2 failed, and there is no
    new file; 130 interrupted.
    """
    names = ("delimiter", "header", "skip_lines", "comments", "quote", "missing", "encoding")
    reading = _reading_options({name: options.pop(name) for name in names})
    if output is not None and not dry_run:
        # Whatever is imported from here on the workers' fork server imports beside it. Nothing here multiplies matrices.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        worker_forkserver.begin()
    gc.disable()
    from shmlease.cli.ingest_run import run  # noqa: PLC0415 - after the fork server has begun

    gc.freeze()
    gc.enable()
    try:
        run(files, output, dry_run=dry_run, reading=reading, **options)
    finally:
        worker_forkserver.drop()
