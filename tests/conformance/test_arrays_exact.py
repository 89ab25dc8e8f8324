"""An array is read as it was written: to the byte, dtype, shape, order and byte order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from worlds import World

import shmlease

RECORD = np.dtype(
    [(("the position", "pos"), ">u4"), ("depth", "i2", (3,)), ("pair", [("a", "f8"), ("b", "S3")])], align=True
)


def filled(dtype: Any, shape: tuple[int, ...], order: Any = "C") -> np.ndarray[Any, Any]:
    """An array of which every byte is another one than its neighbours."""
    array = np.empty(shape, dtype, order)
    flat = array.reshape(-1, order="A").view(np.uint8)
    flat[:] = np.arange(flat.size) % 251
    return array


ARRAYS = {
    "C order": np.arange(24.0).reshape(2, 3, 4),
    "F order": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "structured": filled(RECORD, (7,)),
    "structured in F order": filled(RECORD, (3, 5), "F"),
    "big-endian": np.arange(-3, 9, dtype=">i4"),
    "datetime64": np.array(["2026-11-22T17:00", "NaT", "1969-12-31T23:59"], "M8[ms]"),
    "timedelta64": np.array([-1, 0, 86_400], "m8[s]"),
    "bool": np.array([True, False, True]),
    "complex": np.array([1 + 2j, complex("nan")], "c8"),
    "half": np.array([0.1, -0.0, np.inf], "f2"),
    "bytes": np.array([b"abc", b"", b"a\0b"], "S5"),
    "text": np.array(["ä", "", "日本"], ">U3"),
    "no items": np.empty((3, 0, 2), "f4"),
    "no width": np.empty(4, np.dtype([])),
    "no dimensions": np.array(7.5),
    "record without dimensions": filled(RECORD, (1,)).reshape(()),
    "many pages": np.arange(20_000, dtype="i8"),
}


def looks(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    """All that two arrays must have in common; what lies between fields numpy does not copy."""
    dtype = array.dtype
    order = (array.flags.c_contiguous, array.flags.f_contiguous)
    content = array.tobytes("A") if dtype.names is None else repr(array.tolist())
    return dtype.str, repr(dtype.fields), dtype.isalignedstruct, array.shape, order, content


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_array_is_read_as_it_was_written(
    lasting_world: World, peer: shmlease.RegistryHandle, array: np.ndarray[Any, Any]
) -> None:
    order = "C" if array.flags.c_contiguous else "F"
    with lasting_world.registry.lease("written", shape=array.shape, dtype=array.dtype, order=order) as lease:
        lease.array[...] = array
        assert (lease.shape, lease.dtype, lease.nbytes) == (array.shape, array.dtype, array.nbytes)
        lease.publish()
        with peer.attach("written") as seen:
            assert looks(seen.array) == looks(array)
            assert (seen.shape, seen.dtype, seen.nbytes) == (array.shape, array.dtype, array.nbytes)


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_array_is_shared_as_it_is(lasting_world: World, peer: shmlease.RegistryHandle, array: np.ndarray[Any, Any]) -> None:
    with lasting_world.registry.share(array) as lease:
        assert looks(lease.array) == looks(array)
        with peer.redeem(lease.ticket()) as seen:
            assert looks(seen.array) == looks(array)


def test_another_process_reads_an_array_as_it_was_written(lasting_world: World) -> None:
    array = ARRAYS["structured in F order"]
    with lasting_world.registry.share(array, "a"):
        seen = lasting_world.process()("with registry.attach('a') as lease: seen = lease.array.copy('A')\nseen")
        assert looks(seen) == looks(array)


def test_array_in_neither_order_is_shared_in_c_order(lasting_world: World) -> None:
    array = np.arange(24).reshape(2, 3, 4)[:, ::-1, ::2]
    with lasting_world.registry.share(array) as lease:
        assert lease.array.flags.c_contiguous
        assert np.array_equal(lease.array, array)


def test_masked_values_are_not_shared_as_if_they_were_values(lasting_world: World) -> None:
    masked = np.ma.masked_array([1, 2, 3], [False, True, False])
    with pytest.raises(shmlease.DTypeError, match="would lose its mask"):
        lasting_world.registry.share(masked)
    with lasting_world.registry.share(masked.filled(0)) as lease, lasting_world.registry.share(masked[:1]) as first:
        assert (lease.array.tolist(), first.array.tolist()) == ([1, 0, 3], [1])


def test_list_is_shared_as_the_array_it_makes(lasting_world: World) -> None:
    with lasting_world.registry.share([[1.5, 2.0]]) as lease:
        assert (lease.shape, lease.dtype) == ((1, 2), np.dtype(float))
        assert lease.array.tolist() == [[1.5, 2.0]]


def test_sub_array_dtype_adds_its_dimensions(lasting_world: World) -> None:
    with lasting_world.registry.lease(shape=3, dtype="(2,)i4") as lease:
        assert lease.array.shape == np.empty(3, "(2,)i4").shape == (3, 2)


def test_single_number_is_a_shape(lasting_world: World) -> None:
    with lasting_world.registry.lease(shape=np.int32(3)) as lease:
        assert (lease.shape, lease.dtype) == ((3,), np.dtype(float))


def test_two_arrays_do_not_share_memory(lasting_world: World) -> None:
    with lasting_world.registry.lease(shape=10) as one, lasting_world.registry.lease(shape=10) as other:
        one.array[:], other.array[:] = 1, 2
        assert one.array.sum() == 10


def test_reader_sees_the_writers_memory_and_no_copy(lasting_world: World, peer: shmlease.RegistryHandle) -> None:
    with lasting_world.registry.lease("a", shape=10) as lease:
        view = lease.array[:]
        lease.publish()
        with peer.attach("a") as seen:
            view[:] = 3
            assert seen.array.sum() == 30
        del view


@pytest.mark.parametrize("dtype", [object, [("a", "i4"), ("b", object)]], ids=["object", "field of objects"])
def test_dtype_with_objects_is_refused(registry: shmlease.Registry, dtype: Any) -> None:
    with pytest.raises(shmlease.DTypeError, match="Python objects") as refused:
        registry.lease("a", shape=3, dtype=dtype)
    assert isinstance(refused.value, TypeError)
    assert refused.value.dtype == str(np.dtype(dtype))
    assert registry.statistics().counters.get("leases", 0) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shape": -1}, "negative dimension"),
        ({"shape": (1,) * 65}, "more than 64"),
        ({"shape": 3, "order": "K"}, "neither 'C' nor 'F'"),
        ({"shape": 2**60}, "larger than any memory"),
        ({"shape": 3, "timeout": "soon"}, "soon"),
        ({"shape": 3, "timeout": -1}, "-1"),
        ({"shape": 3, "name": ""}, "cannot be the name of a segment"),
        ({"shape": 3, "name": "a" * 256}, "cannot be the name of a segment"),
        ({"shape": 3, "name": "a\nb"}, "cannot be the name of a segment"),
        ({"shape": 3, "name": "\ud800"}, "UTF-8"),
    ],
)
def test_what_cannot_be_leased_is_refused(lasting_world: World, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lasting_world.registry.lease(**arguments)


def test_dtype_without_a_width_is_refused(lasting_world: World) -> None:
    with pytest.raises(shmlease.DTypeError, match="no width"):
        lasting_world.registry.lease(shape=3, dtype="S")


def test_name_is_a_string(lasting_world: World) -> None:
    with pytest.raises(TypeError, match="not bytes"):
        lasting_world.registry.lease(b"a", shape=3)  # type: ignore[arg-type]
