"""String fields are made just long enough for the whole table, whichever block holds the longest cell."""

from __future__ import annotations

import gzip

import pytest

from shmlease.text.header import open_table
from shmlease.text.schema import Schema
from shmlease.text.string_lengths import fit_strings, measure_strings


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("place", [0, 150, 299])
def test_the_longest_cell_is_found_in_any_block(write, pack, place):
    lines = [f"{'x' * (9 if n == place else 3)}\t{n}\t\n" for n in range(300)]
    schema = Schema(comments=("#",)).with_dtype("name:S,n:i4,empty:S")
    table = open_table(write(pack("".join(["# a long comment here\n", *lines]).encode())), schema)
    lengths = measure_strings(table, block_bytes=500)
    assert lengths == {"name": 9, "empty": 0}
    fitted = fit_strings(schema, lengths)
    assert [each.type for each in fitted.fields] == ["S9", "i4", "S1"]
    assert not fitted.needs_fitting
    assert schema.needs_fitting


def test_a_length_that_was_given_is_fitted_too():
    assert (
        fit_strings(Schema().with_dtype("a:S40,b:U9"), {"a": 5, "b": 12}).dtype.str
        == Schema().with_dtype("a:S5,b:U12").dtype.str
    )
