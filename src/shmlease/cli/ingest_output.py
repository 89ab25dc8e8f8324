"""The summary of an ingest, and the plan of one, in words and as JSON."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from shmlease.cli.ingest_options import DELIMITERS, READING
from shmlease.ingestion.plan import IngestPlan
from shmlease.ingestion.report import IngestReport
from shmlease.ingestion.summary import aligned
from shmlease.text.formats import format_named
from shmlease.text.schema import Schema
from shmlease.units import format_bytes

if TYPE_CHECKING:
    from shmlease.text.inference import Inference

__all__ = ["as_json", "inference_as_command", "inference_as_json", "plan_as_json", "plan_as_text"]


def as_json(report: IngestReport) -> str:
    """Everything."""
    content = {
        **msgspec.to_builtins(report),
        "rows": report.rows,
        "rejected_count": report.rejected_count,
        "input_bytes": report.input_bytes,
    }
    return msgspec.json.encode(content).decode()


def inference_as_json(paths: Sequence[str], inference: Inference, beside: Sequence[str] = ()) -> str:
    """What the files seem to be."""
    content = {
        "path": paths[0],
        "command": inference_as_command(paths, inference, beside),
        **msgspec.to_builtins(inference),
        "dtype": ",".join(map(str, inference.schema.fields)),
    }
    return msgspec.json.encode(content).decode()


def inference_as_command(paths: Sequence[str], inference: Inference, beside: Sequence[str] = ()) -> str:
    """The command that reads the files so, for a shell; `beside` are other options of it."""
    schema = inference.schema
    default = Schema() if inference.layout is None else format_named(inference.layout)
    words = ["shmlease", "ingest", *(path if path == "-" or not path.startswith("-") else f"./{path}" for path in paths)]
    words += [] if inference.layout is None else ["--layout", inference.layout]
    for name, option in _OPTIONS.items():
        value = getattr(schema, name)
        if value == getattr(default, name):
            continue
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif isinstance(value, tuple) and name != "widths":
            words += [word for each in value for word in (option, each)]
        else:
            text = (
                ",".join(map(str, value))
                if name == "widths"
                else str(_DELIMITER_NAMES.get(value, value) if name == "delimiter" else value)
            )
            words += [option, text]
    if schema.fields != default.fields and not schema.matrix and "--matrix" not in beside:
        words += ["--dtype", ",".join(map(str, schema.fields))]
        if any(each.source not in (None, each.name) for each in schema.fields):
            words += ["--columns", _joined(each.name if each.source is None else each.source for each in schema.fields)]
    return shlex.join([*words, *beside, "-o", "OUT.h5"])


# the option of the command for each option of a schema
_OPTIONS = {name: "--" + name.replace("_", "-") for name in READING} | {"comments": "--comment"}
_DELIMITER_NAMES = {character: name for name, character in DELIMITERS.items()}


def _joined(columns: Iterable[int | str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(columns)
    return line.getvalue()


def plan_as_json(plan: IngestPlan, output: str | None) -> str:
    """What would be done."""
    files = [
        {"path": table.path, "dataset": name, "size_bytes": state.size_bytes, "compression": table.compression}
        for table, state, name in zip(plan.tables, plan.states, plan.datasets, strict=True)
    ]
    content: dict[str, Any] = {"path": output, "files": files, "schema": msgspec.to_builtins(plan.schema)}
    return msgspec.json.encode(content).decode()


def plan_as_text(plan: IngestPlan, output: str | None) -> str:
    """For people."""
    table = [("dataset", "size", "compressed", "file")]
    for each, state, name in zip(plan.tables, plan.states, plan.datasets, strict=True):
        compressed = "" if each.compression == "plain" else each.compression
        table.append((name, format_bytes(state.size_bytes), compressed, each.path))
    fields = [("field", "type", "column"), *_fields(plan)]
    total = f"{format_bytes(plan.size_bytes)} of text files into {output or 'no file'}; nothing was done"
    return "\n".join([*aligned(table, right={1}), "", *aligned(fields, right={2}), "", total])


def _fields(plan: IngestPlan) -> Iterable[tuple[str, str, str]]:
    for each, place in plan.schema.places():
        yield each.name, each.type, str(place) if each.width == 1 else f"{place}-{place + each.width - 1}"
