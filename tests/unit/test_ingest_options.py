"""The options of `leasehold ingest`, which are defined without numpy, say what the rest can do."""

from __future__ import annotations

from leasehold.cli import ingest
from leasehold.tabular.layouts import LAYOUTS


def test_the_layouts_in_the_help_are_those_there_are() -> None:
    assert tuple(LAYOUTS) == ingest.LAYOUTS
