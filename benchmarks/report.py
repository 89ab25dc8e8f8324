"""Turns measurements, as the other scripts store them with --json, into a page of the documentation: what each means for a
user, a chart, a table, and the machine.

    python benchmarks/report.py RESULT.json... [--into docs]

writes docs/benchmarks/<name>.svg and replaces what stands in docs/benchmarks.md below the line ``<!-- measured -->``, in
the order of the files given. Charts of measurements that are not among them are removed. `make bench` measures all of it
and calls this.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from shmlease.verification.bench.report import as_chart, as_markdown, file_name
from shmlease.verification.bench.timing import Measurement

MARK = "<!-- measured -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, default=Path("docs"))
    options = parser.parse_args()
    measurements = [
        measurement
        for result in options.results
        for measurement in msgspec.json.decode(result.read_bytes(), type=list[Measurement])
    ]
    charts = options.into / "benchmarks"
    charts.mkdir(exist_ok=True)
    for old in charts.glob("*.svg"):
        old.unlink()
    for measurement in measurements:
        (charts / f"{file_name(measurement)}.svg").write_text(as_chart(measurement) + "\n")
    page = options.into / "benchmarks.md"
    kept = page.read_text().partition(MARK)[0]
    page.write_text("\n".join([kept.rstrip(), "", MARK, "", *map(as_markdown, measurements)]))


if __name__ == "__main__":
    main()
