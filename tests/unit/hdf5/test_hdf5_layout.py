"""Dtypes that HDF5 can hold, and the shape of chunks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmlease.errors import DTypeError, SinkError
from shmlease.hdf5.layout import Grid, describe_dtype, is_all_float, padding_bytes, parse_dtype, require_storable

shapes = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)


@given(shapes, st.sampled_from([1, 2, 8]), st.integers(1, 200))
def test_chunks_cut_an_array_into_runs_that_follow_each_other(
    shape: tuple[int, ...], itemsize: int, target_bytes: int
) -> None:
    grid = Grid.fit(shape[1:], itemsize, target_bytes, shape[0])
    array = np.arange(math.prod(shape)).reshape(shape)
    parts = [
        part for start in range(0, shape[0], grid.chunk_rows) for part in grid.cut(array[start : start + grid.chunk_rows])
    ]
    assert [value for part in parts for value in part.ravel()] == list(range(array.size))
    if array.size:
        assert all(0 < part.size <= grid.elements for part in parts)
        assert grid.elements * itemsize <= max(target_bytes, itemsize)
        for index, part in enumerate(parts):
            assert grid.first_element(index) == part.ravel()[0]
            assert array[grid.origin(index)] == part.ravel()[0]


def test_a_chunk_takes_as_many_rows_as_the_target_holds_when_their_number_is_open() -> None:
    assert Grid.fit((), 26, 1 << 20).chunk_shape == (40329,)
    assert Grid.fit((100, 10), 4, 1 << 20).chunk_shape == (262, 100, 10)


def test_chunks_are_even_rather_than_full_and_a_sliver() -> None:
    assert Grid.fit((), 8, 800, 101).chunk_shape == (51,)


def test_a_row_larger_than_a_chunk_is_split_unless_it_must_not_be() -> None:
    assert Grid.fit((1000, 1000), 8, 1 << 20).chunk_shape == (1, 125, 1000)
    assert Grid.fit((1000, 1000), 8, 1 << 20, whole_rows=True).chunk_shape == (1, 1000, 1000)


def test_a_chunk_of_four_gibibytes_is_refused() -> None:
    with pytest.raises(SinkError, match="HDF5 allows fewer than 4294967296"):
        Grid.fit((1 << 29,), 8, 1 << 20, whole_rows=True)


@pytest.mark.parametrize(
    ("dtype", "hint"),
    [
        ("O", "Python objects"),
        ("U3", "encode it to bytes"),
        ("M8[s]", "view\\('i8'\\)"),
        ([("a", "i4"), ("when", "m8[s]")], "view\\('i8'\\)"),
        ("S0", "0 bytes"),
    ],
)
def test_a_dtype_that_hdf5_cannot_hold_is_refused_with_a_way_out(dtype: object, hint: str) -> None:
    with pytest.raises(DTypeError, match=hint) as caught:
        require_storable(np.dtype(dtype), "calls")
    assert "'calls'" in str(caught.value)


def test_fields_out_of_order_are_refused() -> None:
    dtype = np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0]})
    with pytest.raises(DTypeError, match="out of order"):
        require_storable(dtype, "calls")


@pytest.mark.parametrize(
    "dtype",
    [
        "<f8",
        ">i2",
        "S7",
        "?",
        "c16",
        "V3",
        [("a", "S3"), ("b", "<f4", (2, 3))],
        np.dtype([("a", "i1"), ("b", "f8")], align=True),
        np.dtype([("a", "i1"), ("in", np.dtype([("b", "i1"), ("c", "f8")], align=True))], align=True),
    ],
)
def test_a_storable_dtype_survives_its_description(dtype: object) -> None:
    dtype = np.dtype(dtype)
    require_storable(dtype, "calls")
    assert parse_dtype(describe_dtype(dtype)) == dtype


def test_padding_is_every_byte_of_no_field_however_deep() -> None:
    inner = np.dtype([("b", "i1"), ("c", "i2")], align=True)
    dtype = np.dtype([("a", "i1"), ("in", inner, (2,)), ("z", "f8")], align=True)
    assert list(padding_bytes(np.dtype([("a", "i1"), ("b", "f8")]))) == []
    assert dtype.itemsize == 24
    assert list(padding_bytes(dtype)) == [1, 3, 7, *range(10, 16)]


def test_all_float_looks_into_fields() -> None:
    assert is_all_float(np.dtype("f4"))
    assert is_all_float(np.dtype([("x", "f8"), ("y", "c8", (2,))]))
    assert not is_all_float(np.dtype([("x", "f8"), ("n", "i4")]))
