"""Objects packed and unpacked: equal in every respect, their memory neither copied nor moved, and nothing else loaded."""

from __future__ import annotations

import dataclasses
import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shmlease.client import objects
from shmlease.client.objects import pack, unpack
from shmlease.errors import ObjectError

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(eq=False)
class Sample:
    name: str
    values: Array
    rest: dict[str, Any]


def frame(**options: Any) -> Any:
    pd = pytest.importorskip("pandas")
    return pd.DataFrame({"a": np.arange(2000), "b": np.linspace(0, 1, 2000)}, **options)


def arrow_backed() -> Any:
    pytest.importorskip("pyarrow")
    return frame().astype({"a": "int64[pyarrow]", "b": "float64[pyarrow]"})


def categorical() -> Any:
    pd = pytest.importorskip("pandas")
    return pd.DataFrame({"c": pd.Categorical.from_codes(np.arange(2000) % 3, ["x", "y", "z"]), "n": np.arange(2000)})


def multi_index() -> Any:
    pd = pytest.importorskip("pandas")
    return frame(index=pd.MultiIndex.from_product([range(40), range(50)], names=["i", "j"]))


def dated() -> Any:
    pd = pytest.importorskip("pandas")
    return frame(index=pd.date_range("2024-01-01", periods=2000, freq="h", tz="UTC"))


def series() -> Any:
    return frame()["b"]


def table() -> Any:
    pa = pytest.importorskip("pyarrow")
    return pa.table({"a": np.arange(2000), "s": [f"row {number}" for number in range(2000)]})


def polars_frame() -> Any:
    pl = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    return pl.DataFrame({"a": np.arange(2000), "s": [f"a string that is long enough {number}" for number in range(2000)]})


def sparse() -> Any:
    return pytest.importorskip("scipy.sparse").random(200, 200, 0.1, format="csr", rng=np.random.default_rng(1))


def dataset() -> Any:
    xr = pytest.importorskip("xarray")
    return xr.Dataset({"t": (("y", "x"), np.arange(6000.0).reshape(60, 100))}, {"x": np.arange(100)}, {"units": "K"})


def tensor() -> Any:
    torch = pytest.importorskip("torch", reason="torch is not installed: tensors in shared memory are NOT tested here")
    return torch.arange(6000, dtype=torch.float32).reshape(60, 100)


KINDS: dict[str, Callable[[], Any]] = {
    "float64": lambda: np.arange(1000.0),
    "no dimension": lambda: np.array(7),
    "no elements": lambda: np.zeros((0, 3), "i2"),
    "F order": lambda: np.asfortranarray(np.arange(600).reshape(20, 30)),
    "strided": lambda: np.arange(2000)[::2],
    "axes swapped": lambda: np.arange(600).reshape(2, 3, 100).transpose(1, 0, 2),
    "big-endian": lambda: np.arange(1000, dtype=">i4"),
    "complex": lambda: np.arange(1000) * 1j,
    "booleans": lambda: np.arange(1000) % 3 == 0,
    "float16": lambda: np.arange(1000, dtype="f2"),
    "datetime64": lambda: np.arange(1000).astype("M8[s]"),
    "timedelta64": lambda: np.arange(1000).astype("m8[ms]"),
    "bytes": lambda: np.array([b"abc", b"de"] * 500),
    "text": lambda: np.array(["abc", "de"] * 500),
    "structured": lambda: np.zeros(500, [("position", "<i8"), ("when", "M8[ns]"), ("base", "S1")]),
    "records": lambda: np.rec.array([(1, 2.0)] * 500, dtype=[("a", "i4"), ("b", "f8")]),
    "masked": lambda: np.ma.array(np.arange(1000), mask=np.arange(1000) % 2 == 0, fill_value=-1),
    "scalar": lambda: np.float64(3.5),
    "dictionary": lambda: {"x": np.arange(1000), "y": [np.ones(500), np.zeros(300, "i4")], "z": "text"},
    "tuple": lambda: (np.arange(1000), None, {1, 2}),
    "dataclass": lambda: Sample("s", np.arange(1000), {"k": 1}),
    "frame": frame,
    "arrow frame": arrow_backed,
    "categorical frame": categorical,
    "frame with MultiIndex": multi_index,
    "frame with dates": dated,
    "series": series,
    "arrow table": table,
    "polars": polars_frame,
    "sparse": sparse,
    "xarray": dataset,
    "tensor": tensor,
}
IN_BAND: dict[str, Any] = {
    "objects": np.array([{"a": 1}, "b"], object),
    "bytes object": b"x" * 5000,
    "bytearray": bytearray(b"y" * 5000),
    "text": "é" * 3000,
    "nothing": None,
    "integer": 10**50,
}


def content_of(value: Any) -> Array:
    """The bytes that a segment holds for `value`, at a page's beginning."""
    packed = pack(value)
    room = np.zeros(packed.nbytes + 4096, np.uint8)
    start = -room.ctypes.data % 4096
    content = room[start : start + packed.nbytes]
    packed.write_into(content)
    content.flags.writeable = packed.needs_private
    return content


def arrays_in(value: Any) -> list[Array]:
    """The arrays that `value` is made of, as far as they can be reached."""
    kind = type(value).__module__.partition(".")[0]
    if kind == "torch":
        return [value.numpy()]
    if kind == "polars":
        return [value["a"].to_numpy(allow_copy=False)]
    if kind == "pyarrow":
        return [np.frombuffer(chunk.buffers()[1], np.uint8) for column in value.columns for chunk in column.chunks]
    if kind == "scipy":
        return [value.data, value.indices, value.indptr]
    if kind == "xarray":
        return [value["t"].values]
    if kind == "pandas":
        first = value if value.ndim == 1 else value.iloc[:, 0]
        if hasattr(first.array, "_pa_array"):
            return [np.frombuffer(first.array._pa_array.chunk(0).buffers()[1], np.uint8)]
        return [first.array.codes if hasattr(first.array, "codes") else first.to_numpy(copy=False)]
    if isinstance(value, np.ma.MaskedArray):
        return [value.data, value.mask]
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, Sample):
        return [value.values]
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [array for member in members for array in arrays_in(member)]


def assert_equal(value: Any, made: Any) -> None:
    assert type(made) is (np.ndarray if type(value) is np.memmap else type(value))
    kind = type(value).__module__.partition(".")[0]
    if kind == "pandas":
        testing = sys.modules["pandas"].testing
        (testing.assert_series_equal if value.ndim == 1 else testing.assert_frame_equal)(value, made)
    elif kind == "xarray":
        assert value.identical(made)
    elif kind == "scipy":
        assert (value != made).nnz == 0
    elif kind == "torch":
        assert (value.dtype, value.shape, bool((value == made).all())) == (made.dtype, made.shape, True)
    elif kind in ("pyarrow", "polars"):
        assert value.equals(made)
    elif isinstance(value, np.ndarray):
        assert (value.dtype, value.shape) == (made.dtype, made.shape)
        assert value.flags.f_contiguous == made.flags.f_contiguous or not value.flags.contiguous
        assert value.tolist() == made.tolist()
        if isinstance(value, np.ma.MaskedArray):
            assert (value.mask == made.mask).all()
            assert value.fill_value == made.fill_value
    elif isinstance(value, Sample):
        assert_equal(vars(value), vars(made))
    elif isinstance(value, dict | list | tuple):
        assert list(value) == list(made) if isinstance(value, dict) else len(value) == len(made)
        pairs = (
            zip(value.values(), made.values(), strict=True) if isinstance(value, dict) else zip(value, made, strict=True)
        )
        for one, other in pairs:
            assert_equal(one, other)
    else:
        assert value == made


@pytest.mark.parametrize("kind", KINDS)
def test_object_is_equal_and_its_memory_is_the_segments(kind: str) -> None:
    value = KINDS[kind]()
    content = content_of(value)
    made = unpack(content, "segment 'a'")
    assert_equal(value, made)
    first, last = content.ctypes.data, content.ctypes.data + content.nbytes
    for array in arrays_in(made):
        if array.nbytes:
            assert first <= array.ctypes.data < last, "copied"
            assert (array.ctypes.data - first) % objects.ALIGNMENT == 0
            assert kind == "tensor" or not array.flags.writeable


@pytest.mark.parametrize("kind", IN_BAND)
def test_object_without_memory_of_its_own_comes_back_as_a_copy(kind: str) -> None:
    made = unpack(content_of(IN_BAND[kind]), "segment 'a'")
    assert np.array_equal(made, IN_BAND[kind]) if kind == "objects" else made == IN_BAND[kind]


def test_tensor_keeps_the_order_in_which_it_lies_in_memory() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: tensors in shared memory are NOT tested here")
    images = torch.arange(2 * 3 * 40 * 50.0).reshape(2, 3, 40, 50)
    kinds = {
        "channels last": images.contiguous(memory_format=torch.channels_last),
        "transposed": images.transpose(1, 3),
        "with one element in a dimension": images[:1, :1].transpose(0, 1),
        "with gaps": images[:, :, ::2],
        "with elements that lie on each other": images[0, 0, 0].expand(4, 50),
    }
    for kind, value in kinds.items():
        made = unpack(content_of(value), "segment 'a'")
        assert torch.equal(made, value), kind
        if "with" not in kind:
            assert made.stride() == value.stride(), kind
            assert made.is_contiguous(memory_format=torch.channels_last) == (kind == "channels last")


class Blob:
    """A class that pickles its memory as PEP 574 has it, and looks at what it gets."""

    def __init__(self, memory: Any) -> None:
        self.is_empty = not memory
        self.is_as_sent = memory == b"y" * 5000

    def __reduce_ex__(self, _: int) -> Any:
        return Blob, (pickle.PickleBuffer(b"y" * 5000),)


def test_memory_of_any_class_arrives_as_bytes_that_can_be_compared() -> None:
    made = unpack(content_of(Blob(b"")), "segment 'a'")
    assert (made.is_empty, made.is_as_sent) == (False, True)


def test_array_that_occurs_twice_is_stored_once() -> None:
    array = np.arange(10_000)
    assert pack([array, array]).nbytes < 1.1 * array.nbytes
    first, second = unpack(content_of([array, array]), "segment 'a'")
    assert first is second


def test_memory_of_an_object_lives_as_long_as_its_arrays() -> None:
    content = content_of({"x": np.arange(1000)})
    made = unpack(content, "segment 'a'")["x"]
    base = made
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert base is content.base


@pytest.mark.parametrize("kept", [0, 7, 23, 24, 39, 40, 100, -1])
def test_truncated_object_is_an_error_that_says_so(kept: int) -> None:
    content = content_of({"x": np.arange(1000)})
    with pytest.raises(ObjectError, match="segment 'a' holds no object that can be loaded"):
        unpack(content[:kept], "segment 'a'")


def test_segment_of_another_program_is_not_loaded() -> None:
    foreign = np.frombuffer(pickle.dumps(print) + bytes(5000), np.uint8)
    with pytest.raises(ObjectError, match="begins with"):
        unpack(foreign, "segment 'a'")


def test_lengths_that_cannot_be_are_refused_before_anything_is_read() -> None:
    for count, stream in ((2**60, 10), (1, 2**63), (2**64 - 1, 2**64 - 1)):
        content = np.frombuffer(struct.pack("<8sQQ", b"shmlobj1", count, stream) + bytes(100), np.uint8)
        with pytest.raises(ObjectError):
            unpack(content, "segment 'a'")
    places = struct.pack("<8sQQQQ", b"shmlobj1", 1, 10, 2**63, 2**63) + bytes(100)
    with pytest.raises(ObjectError, match="a buffer ends"):
        unpack(np.frombuffer(places, np.uint8), "segment 'a'")


def test_library_that_is_missing_is_named() -> None:
    content = content_of(np.arange(10)).copy()
    stream = content.tobytes().replace(b"shmlease.client.objects", b"nolibrary.there.objects")
    with pytest.raises(ObjectError, match="pip install nolibrary"):
        unpack(np.frombuffer(stream, np.uint8), "segment 'a'")


def test_object_that_cannot_be_pickled_is_refused_by_pickle() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        pack(lambda: None)
