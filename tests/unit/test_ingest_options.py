"""The options of `shmlease ingest`, which are defined without numpy, say what the rest can do."""

from __future__ import annotations

from dataclasses import fields

from shmlease.cli import ingest
from shmlease.text.formats import FORMATS
from shmlease.text.schema import Schema


def test_the_layouts_in_the_help_are_those_there_are() -> None:
    assert tuple(FORMATS) == ingest.FORMATS


def test_every_option_of_a_schema_is_one_of_the_command() -> None:
    assert {*ingest.READING, "fields", "matrix"} == {each.name for each in fields(Schema)}
    options = {parameter.name for parameter in ingest.command.params}
    assert set(ingest.READING) < options
