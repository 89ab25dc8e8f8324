"""What the options of `shmlease ingest` mean to a schema, without numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

__all__ = ["DELIMITERS", "FORMATS", "READING", "reading_options", "words_beside"]

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
    *("line_end", "width", "transpose"),
)
# Options beside them that say what a table is, or how to say it.
_OF_TABLES = ("output", "layout", "dtype", "columns", "inferred", "dry_run", "is_json", "quiet")


def reading_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of a schema that were given, as `Schema` takes them."""
    options = {name: given[name] for name in READING if given[name] not in (None, ())}
    if "delimiter" in options:
        options["delimiter"] = DELIMITERS.get(options["delimiter"], options["delimiter"])
    if "widths" in options:
        options["widths"] = _numbers("--widths", options["widths"])
    return options


def words_beside(context: click.Context) -> list[str]:
    """The options that were given and say nothing of how a table is written, as words of a command line."""
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        is_given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if not is_given or name in (*READING, *_OF_TABLES) or not isinstance(parameter, click.Option):
            continue
        value, option = context.params[name], parameter.opts[-1]
        if parameter.is_flag:
            words.append(option)
            continue
        for each in value if parameter.multiple else (value,):
            words += option, str(each)
    return words


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 11,4,2", param_hint=option) from None
