"""Layouts: every dtype that can be shared arrives exact to the byte, and what describes none is a clear error."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from shmlease.client.layout import decode_layout, layout_of
from shmlease.errors import DTypeError, ProtocolError

CALLS = np.dtype([("chr", "S10"), ("pos", "<i4"), ("pct", "<f4"), ("c", "<i4"), ("t", "<i4")])
EXACT = [
    "i1",
    "u8",
    "<f8",
    ">f8",
    ">i2",
    "f2",
    "c8",
    ">c16",
    "?",
    "S5",
    "U3",
    ">U3",
    "V7",
    "M8[ns]",
    ">M8[D]",
    "m8[25us]",
    "M8",
    np.longdouble,
    CALLS,
    CALLS.newbyteorder(">"),
    np.dtype([("a", "i1"), ("b", "f8")], align=True),
    np.dtype([("a", "i4", (2, 3)), ("b", [("x", "?"), ("y", "S2", (4,))])]),
    np.dtype({"names": ["lo", "whole"], "formats": ["<u2", "<u4"], "offsets": [0, 0]}),
    np.dtype({"names": ["a"], "formats": ["i2"], "offsets": [6], "itemsize": 32}),
    np.dtype([(("the title", "a"), "i4"), ("b", "i4")]),
    np.dtype([]),
]


def same(one: np.dtype[Any], other: np.dtype[Any]) -> bool:
    """Equal also in what numpy's equality overlooks."""
    if one != other or one.isalignedstruct != other.isalignedstruct or one.itemsize != other.itemsize:
        return False
    return one.names is None or repr(one.fields) == repr(other.fields)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_layout_arrives_exactly(dtype: Any, order: str) -> None:
    layout = layout_of((3, 0, 2), dtype, order)
    again = decode_layout(layout.encoded)
    assert same(again.dtype, np.dtype(dtype))
    assert (again.shape, again.order, again.nbytes) == ((3, 0, 2), order, 0)
    array = np.empty((3, 4), dtype, order)  # type: ignore[call-overload]
    assert layout_of(array.shape, array.dtype, order).nbytes == array.nbytes


@given(stn.nested_dtypes(max_itemsize=400), stn.array_shapes(min_dims=0, max_dims=5, max_side=9))
def test_any_dtype_that_can_be_shared_arrives_exactly(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    base = dtype.base if dtype.subdtype else dtype
    again = decode_layout(layout_of(shape, dtype).encoded)
    assert same(again.dtype, base)
    assert again.shape == np.empty(shape, dtype).shape


def test_alignment_and_titles_are_kept_though_numpy_calls_the_dtypes_equal() -> None:
    plain = np.dtype([("a", "i4"), ("b", "i4")])
    aligned = np.dtype([("a", "i4"), ("b", "i4")], align=True)
    assert plain == aligned
    assert not decode_layout(layout_of(1, plain).encoded).dtype.isalignedstruct
    assert decode_layout(layout_of(1, aligned).encoded).dtype.isalignedstruct
    assert not decode_layout(layout_of(1, plain).encoded).dtype.isalignedstruct


def test_zero_dimensions_and_numpy_integers_are_shapes() -> None:
    assert layout_of((), "f8").nbytes == 8
    assert layout_of(np.int64(3), "f8").shape == (3,)  # type: ignore[arg-type]
    assert layout_of((np.uint8(2), 3), "f8").shape == (2, 3)  # type: ignore[arg-type]


def test_sub_array_dtype_adds_its_shape_as_numpy_does() -> None:
    assert layout_of(3, "(2,)i4").shape == np.empty(3, "(2,)i4").shape == (3, 2)


@pytest.mark.parametrize("dtype", ["O", [("a", "O")], [("a", "i4"), ("b", [("c", "O")])], "(2,)O"], ids=str)
def test_objects_cannot_be_shared(dtype: Any) -> None:
    with pytest.raises(DTypeError, match=r"Python objects.*use fixed-width fields"):
        layout_of(3, dtype)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy before 2.0")
def test_strings_of_variable_width_cannot_be_shared() -> None:
    with pytest.raises(DTypeError, match="variable-width"):
        layout_of(3, np.dtypes.StringDType())


def test_dtype_with_more_fields_than_a_message_holds_is_refused() -> None:
    with pytest.raises(DTypeError, match="32768 are allowed"):
        layout_of(1, [(f"a rather long name of field {number}", "f8") for number in range(2000)])
    many = layout_of(1, [(f"f{number}", "f8") for number in range(900)])
    assert decode_layout(many.encoded).dtype == many.dtype


@pytest.mark.parametrize(
    ("shape", "order"), [(-1, "C"), ((2, -3), "C"), ((1,) * 65, "C"), (3, "A"), (3, "K"), (10**19, "C")]
)
def test_shape_or_order_that_cannot_be_is_a_value_error(shape: Any, order: str) -> None:
    with pytest.raises(ValueError, match=r"shape|order"):
        layout_of(shape, "f8", order)


@pytest.mark.parametrize("shape", [2.5, (2.0,), (3, 2.5), "12", ("3",), None, 3j], ids=repr)
def test_shape_that_is_not_of_integers_is_refused_and_not_rounded(shape: Any) -> None:
    with pytest.raises(TypeError, match="neither an integer nor a sequence of integers"):
        layout_of(shape, "f8")


@pytest.mark.parametrize("dtype", ["S", "U", str, [("pos", "i4"), ("chr", "S")], [("a", [("b", "U")])]], ids=str)
def test_strings_without_a_width_are_refused_in_fields_too(dtype: Any) -> None:
    with pytest.raises(DTypeError, match="say how long its strings may be"):
        layout_of(3, dtype)


def encode(*wire: Any) -> bytes:
    return msgspec.msgpack.encode(wire)


def nested(levels: int) -> bytes:
    """A sub-array of sub-arrays of sub-arrays."""
    return b"\x93" + b"\x92" * levels + b"\xa3<i4" + b"\x91\x01" * levels + b"\x91\x01\xa1C"


FIELD = {"names": ["a"], "formats": ["<i4"], "offsets": [0], "titles": [None], "itemsize": 4, "aligned": False}


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\xc1",
        b"\x91" * 30_000,
        encode("<i4", [1]),
        encode("<i4", [1], "A"),
        encode("<i4", [-1], "C"),
        encode("<i4", [1] * 65, "C"),
        encode("O", [1], "C"),
        encode("(,", [1], "C"),
        encode("T", [1], "C"),
        encode("\ud7ff", [1], "C"),
        encode("<i4,<i4", [1], "C"),
        encode("S99999999999", [1], "C"),
        encode("M8[fortnight]", [1], "C"),
        encode(None, [1], "C"),
        encode(5, [1], "C"),
        encode({}, [1], "C"),
        encode(["<i4"], [1], "C"),
        encode(["<i4", [-1]], [1], "C"),
        encode(["<i4", [2**62]], [1], "C"),
        encode(["<i4", ["x"]], [1], "C"),
        encode({**FIELD, "formats": ["O"]}, [1], "C"),
        encode({**FIELD, "offsets": [-4]}, [1], "C"),
        encode({**FIELD, "offsets": [2**40]}, [1], "C"),
        encode({**FIELD, "itemsize": 1}, [1], "C"),
        encode({**FIELD, "names": 7}, [1], "C"),
        nested(10_000),
    ],
    ids=lambda encoded: encoded[:24].hex(),
)
def test_bytes_that_describe_no_layout_are_a_protocol_error(encoded: bytes) -> None:
    with pytest.raises(ProtocolError, match="describe no array layout"):
        decode_layout(encoded)


def test_damaged_layouts_are_layouts_or_a_protocol_error() -> None:
    rng = random.Random(7)
    whole = [layout_of((2, 3), dtype).encoded for dtype in EXACT]
    for _ in range(4000):
        damaged = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            layout = decode_layout(bytes(damaged))
        except ProtocolError:
            continue
        assert not layout.dtype.hasobject
        assert layout.nbytes >= 0


@given(st.binary(max_size=200))
def test_any_bytes_are_a_layout_or_a_protocol_error(data: bytes) -> None:
    try:
        decode_layout(data)
    except ProtocolError:
        return
