"""The options of `shmlease ingest`, which are defined without numpy, say what the rest can do."""

from __future__ import annotations

import inspect
import shlex
from dataclasses import fields, replace
from pathlib import Path

import pytest

from shmlease.cli import ingest, ingest_options
from shmlease.cli.ingest_output import inference_as_command
from shmlease.cli.ingest_run import _checked, columns_of
from shmlease.errors import IngestError
from shmlease.ingestion.ingest import ingest as ingest_function
from shmlease.ingestion.plan import schema_of
from shmlease.text.formats import FORMATS
from shmlease.text.inference import infer
from shmlease.text.schema import Schema


def test_the_layouts_in_the_help_are_those_there_are() -> None:
    assert tuple(FORMATS) == ingest_options.FORMATS


def test_every_option_of_a_schema_is_one_of_the_command() -> None:
    assert {*ingest_options.READING, "fields", "matrix"} == {each.name for each in fields(Schema)}
    options = {parameter.name for parameter in ingest.command.params}
    assert set(ingest_options.READING) < options


# What the command has for what only a program can give, and the other way round.
OF_PROGRAMS = {"registry", "executor", "progress", "reading", "ranges"}
OF_THE_COMMAND = {"quiet", "is_json", "dry_run", "inferred", "scheduler"}
OTHER_NAMES = {"paths": "files", "out": "output"}


def test_every_option_of_the_function_is_one_of_the_command_and_the_other_way_round() -> None:
    function = {OTHER_NAMES.get(name, name) for name in inspect.signature(ingest_function).parameters} - OF_PROGRAMS
    options = {parameter.name for parameter in ingest.command.params} - OF_THE_COMMAND - set(ingest_options.READING)
    assert function == options


TABLES = [
    "a,b\n1,2\n",
    "Wind speed;tmax, C;n;n\n1,5;2;3;x\n2,5;-;5;y\n",
    'a,b\n"x, y",1\n"z",NA\n',
    "# note\n1 2.5 it's\n3 4.5 $x\n",
    "datum\tn\tsex\n\t[m]\t\n1.2.2020\t1\tT\n13.2.2020\t2\tF\n1.3.2020\t9007199254740993\tF\n",
    "prose\nmore prose\na|b\n" + "1|2\n" * 20,
    "a\rb\r1\r2\r",
    "2019;2020\n1;2\n",
    "##fileformat=VCF\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\nchr1\t1\t.\tA\tT\t.\tPASS\tx\n",
    "%%MatrixMarket matrix coordinate integer general\n3 3 1\n1 1 7\n",
    "ncols 2\nnrows 1\n1 2\n",
]


@pytest.mark.parametrize("text", TABLES)
@pytest.mark.parametrize("name", ["table.csv", "it's a $table;.csv"])
def test_the_command_that_an_inference_prints_reads_the_file_so(tmp_path, text: str, name: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    inference = infer(path)
    words = shlex.split(inference_as_command([str(path)], inference))
    assert words[:2] == ["shmlease", "ingest"]
    options = ingest.command.make_context("ingest", words[2:]).params
    assert options["files"] == (str(path),)
    assert options["output"] == "OUT.h5"
    reading = ingest_options.reading_options(options)
    columns = columns_of(options["columns"])
    schema = schema_of(options["layout"], options["dtype"], columns, reading, options["matrix"])
    assert _by_name(schema) == _by_name(inference.schema)


def _by_name(schema: Schema) -> Schema:
    """A field whose column has its name needs no column."""
    return replace(schema, fields=tuple(replace(f, source=None if f.source == f.name else f.source) for f in schema.fields))


@pytest.mark.parametrize(("stored", "is_offered"), [("00000.h5", True), ("00001.h5.partial", True), (None, False)])
def test_what_a_cluster_has_only_planned_is_not_offered_for_resuming(
    stored: str | None, is_offered: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing() -> None:
        (tmp_path / "out.h5.shards").mkdir()
        for name in ("plan.json", stored):
            if name is not None:
                (tmp_path / "out.h5.shards" / name).touch()
        raise IngestError("no such compression")

    with pytest.raises(SystemExit):
        _checked(str(tmp_path / "out.h5"), failing)
    assert ("--resume goes on with it" in capsys.readouterr().err) == is_offered
