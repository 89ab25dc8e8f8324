"""What the options of `shmlease ingest` mean to a schema, without numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

__all__ = ["DELIMITERS", "FORMATS", "READING", "reading_options"]

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
    "bismark-cpg-report",
    "bedgraph",
    "bedmethyl",
    "modkit",
    "bed3",
    "bed6",
    "bed12",
    "narrowpeak",
    "vcf",
    "gff",
    "ghcn-daily",
    "uscrn-daily",
    "aeronet",
    "matrix-market",
    "matrix-market-integer",
    "esri-ascii",
    "rdb",
    "csv",
    "tsv",
    "blanks",
)
# The fields of shmlease.text.schema.Schema that are options; how the rest of them is said is --dtype and --matrix.
READING = (
    *("delimiter", "widths", "skip_lines", "skip_to", "header", "skip_after_header", "units", "attribute_lines", "ends_at"),
    *("comments", "quote", "missing", "decimal", "thousands", "exact", "after_number", "extra", "short", "encoding"),
    *("line_end", "width"),
)


def reading_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of a schema that were given, as `Schema` takes them."""
    options = {name: given[name] for name in READING if given[name] not in (None, ())}
    if "delimiter" in options:
        options["delimiter"] = DELIMITERS.get(options["delimiter"], options["delimiter"])
    if "widths" in options:
        options["widths"] = _numbers("--widths", options["widths"])
    return options


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 11,4,2", param_hint=option) from None
