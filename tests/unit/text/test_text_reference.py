"""Random small tables are what a slow and obvious reader makes of them, or are refused; see `random_tables`."""

from __future__ import annotations

import os

import pytest

from random_tables.comparison import run


def test_random_tables_are_what_the_obvious_reader_makes_of_them() -> None:
    assert run(400, seed=1) == []


@pytest.mark.stress
@pytest.mark.timeout(7200)
def test_a_million_random_tables_are_what_the_obvious_reader_makes_of_them() -> None:
    count = int(os.environ.get("RANDOM_TABLES", "1000000"))
    assert run(count, seed=int(os.environ.get("RANDOM_SEED", "2"))) == []
