"""`shmlease verify`: whether an HDF5 file, and the sources it was made from, are what they were."""

from __future__ import annotations

import sys

import click
import msgspec

from shmlease.hdf5.verification import VerifyReport, verify

__all__ = ["command"]


@click.command("verify")
@click.argument("path", metavar="FILE")
@click.option("--sources", metavar="DIRECTORY", help="Compare the source files, which lie in this directory.")
@click.option("--json", "as_json", is_flag=True, help="Write the report as JSON.")
def command(path: str, sources: str | None, as_json: bool) -> None:
    """Check an HDF5 file that shmlease wrote against its checksums and row counts.

    Exit codes: 0 everything is as recorded; 1 something is not; 2 the file cannot be read, or carries no record.
    """
    report = verify(path, sources)
    click.echo(_as_json(report) if as_json else str(report))
    sys.exit(0 if report.is_good else 1)


def _as_json(report: VerifyReport) -> str:
    return msgspec.json.encode({"good": report.is_good, **msgspec.to_builtins(report)}).decode()
