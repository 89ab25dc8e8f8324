"""The options of `shmlease ingest`, which are defined without numpy, say what the rest can do."""

from __future__ import annotations

from shmlease.cli import ingest
from shmlease.text.formats import FORMATS


def test_the_layouts_in_the_help_are_those_there_are() -> None:
    assert tuple(FORMATS) == ingest.FORMATS
