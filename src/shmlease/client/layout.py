"""An array's dtype, shape and order as bytes, exact and without pickle.

`numpy.lib.format` loses titles, alignment and overlapping offsets; a pickle would run code of whoever sent it. The form
here is msgpack: a plain dtype is its `numpy.dtype.str`, a sub-array ``[base, shape]``, a structured dtype its names,
formats, offsets, titles, size and alignment flag. What comes back is compared with what went in before anything is sent.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from typing import Any, Final, Literal

import msgspec
import numpy as np

from shmlease.errors import DTypeError, ProtocolError

__all__ = ["Layout", "decode_layout", "layout_of", "layout_of_array", "layout_of_object"]

Order = Literal["C", "F"]
# What lies there: an array; or an object in bytes, of which one kind is to be mapped copy-on-write.
Kind = Literal["array", "object", "private object"]
_MAX_DIMENSIONS: Final = 64
_MAX_BYTES: Final = 2**56
_MAX_LAYOUT_BYTES: Final = 32 * 1024
_MAX_KNOWN: Final = 256


class _Wire(msgspec.Struct, frozen=True, array_like=True):
    dtype: Any
    shape: tuple[int, ...]
    order: Order
    kind: Kind = "array"


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Wire)


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """How an array lies on a segment, from its first byte on."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Order
    encoded: bytes
    kind: Kind = "array"
    nbytes: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nbytes", math.prod(self.shape) * self.dtype.itemsize)


def layout_of(shape: int | tuple[int, ...], dtype: Any, order: str = "C") -> Layout:
    """The layout of an array of `shape`, `dtype` and `order`.

    Raises
    ------
    DTypeError
        The dtype holds Python objects or variable-width strings, which live outside the array, or is not one that can be
        described exactly.
    TypeError
        A shape that is not made of integers.
    ValueError
        A negative dimension, or an order other than ``"C"`` and ``"F"``.
    """
    try:
        sizes = tuple(map(operator.index, shape if isinstance(shape, tuple) else _sizes(shape)))
    except TypeError:  # int() would make 2 of 2.5
        raise TypeError(f"shape {shape!r} is neither an integer nor a sequence of integers") from None
    kind = np.dtype(dtype)
    if kind.subdtype is not None:  # numpy.empty(3, "(2,)i4") has shape (3, 2) as well
        sizes, kind = sizes + kind.shape, kind.base
    return _layout(kind, sizes, order, "" if kind.names is None else _metadata_key(kind))


def layout_of_array(array: np.ndarray[Any, Any]) -> Layout:
    """The layout of `array`, made contiguous: in F order if it is in that order only, else in C order.

    Raises
    ------
    DTypeError
        As `layout_of`.
    """
    flags, dtype = array.flags, array.dtype
    order = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
    return _layout(dtype, array.shape, order, "" if dtype.names is None else _metadata_key(dtype))


def layout_of_object(nbytes: int, *, needs_private: bool) -> Layout:
    """The layout of an object that takes `nbytes`: an array of bytes, and what they are."""
    kind: Kind = "private object" if needs_private else "object"
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    return Layout(dtype, (nbytes,), "C", _encoder.encode(_Wire(dtype.str, (nbytes,), "C", kind)), kind)


def _sizes(shape: Any) -> tuple[Any, ...]:
    return (shape,) if shape.__class__ is int or isinstance(shape, int | np.integer) else tuple(shape)


@functools.lru_cache(maxsize=256)
def _layout(dtype: np.dtype[Any], shape: tuple[int, ...], order: str, _key: str) -> Layout:
    if order not in ("C", "F"):
        raise ValueError(f"order {order!r} is neither 'C' nor 'F'")
    if min(shape, default=0) < 0 or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"shape {shape} has a negative dimension or more than {_MAX_DIMENSIONS} of them")
    if math.prod([max(size, 1) for size in shape]) * max(dtype.itemsize, 1) > _MAX_BYTES:
        raise ValueError(f"an array of shape {shape} and dtype {dtype} is larger than any memory")
    described = _describe(dtype)
    if _dtype(described) != dtype:
        raise DTypeError(f"dtype {dtype} cannot be described exactly; use a plain numpy dtype", dtype=str(dtype))
    exact_order: Order = "F" if order == "F" else "C"
    encoded = _encoder.encode(_Wire(described, shape, exact_order))
    if len(encoded) > _MAX_LAYOUT_BYTES:
        raise DTypeError(
            f"dtype with {len(dtype.names or ())} fields takes {len(encoded)} bytes to describe; "
            f"at most {_MAX_LAYOUT_BYTES} are allowed"
        )
    return Layout(dtype, shape, exact_order, encoded)


@functools.lru_cache(maxsize=256)
def decode_layout(encoded: bytes) -> Layout:
    """The layout that `layout_of` described.

    Raises
    ------
    ProtocolError
        The bytes describe none.
    """
    try:
        wire = _decoder.decode(encoded)
        if min(wire.shape, default=0) < 0 or len(wire.shape) > _MAX_DIMENSIONS:
            raise ValueError(f"shape {wire.shape}")
        return Layout(_dtype(wire.dtype), wire.shape, wire.order, encoded, wire.kind)
    except (msgspec.DecodeError, TypeError, ValueError, KeyError, SyntaxError, RecursionError, DTypeError) as error:
        raise ProtocolError(f"{len(encoded)} bytes describe no array layout: {error}") from None


# Of dtypes that were seen lately, by identity: to write one out takes as long as all else that a lease does with it.
_metadata_keys: dict[int, tuple[np.dtype[Any], str]] = {}


def _metadata_key(dtype: np.dtype[Any]) -> str:
    """What numpy's equality of dtypes ignores and we keep: titles and alignment."""
    known = _metadata_keys.get(id(dtype))
    if known is None or known[0] is not dtype:
        if len(_metadata_keys) >= _MAX_KNOWN:
            _metadata_keys.clear()
        known = _metadata_keys[id(dtype)] = dtype, f"{dtype.isalignedstruct}{dtype.fields!r}"
    return known[1]


def _describe(dtype: np.dtype[Any]) -> Any:
    if dtype.hasobject or dtype.kind == "T":
        raise DTypeError(
            f"dtype {dtype} holds Python objects or variable-width strings, which an array in shared memory cannot; "
            "use fixed-width fields such as 'S10' or 'U10', or put(), which takes any object",
            dtype=str(dtype),
        )
    if dtype.kind in "SU" and dtype.itemsize == 0:
        raise DTypeError(f"dtype {dtype!r} has no width; say how long its strings may be, such as 'S10' or 'U10'")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [_describe(base), list(shape)]
    if dtype.names is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names] if dtype.fields is not None else []
    return {
        "names": list(dtype.names),
        "formats": [_describe(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "titles": [field[2] if len(field) > 2 else None for field in fields],
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }


def _dtype(described: Any) -> np.dtype[Any]:
    if isinstance(described, str):
        plain = np.dtype(described)
        if plain.names is not None or plain.hasobject:
            raise ValueError(f"{described!r} is not a plain dtype")
        return plain
    if isinstance(described, list):
        base, shape = described
        return np.dtype((_dtype(base), tuple(int(size) for size in shape)))
    spec = {key: described[key] for key in ("names", "offsets", "titles", "itemsize")}
    if not any(spec["titles"]):
        del spec["titles"]
    spec["formats"] = [_dtype(field) for field in described["formats"]]
    structured: np.dtype[Any] = np.dtype(spec, align=bool(described["aligned"]))  # type: ignore[call-overload]
    return structured
