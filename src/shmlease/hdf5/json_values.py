"""Attribute values and small arrays as JSON, exactly, for the journal."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from shmlease.errors import SinkError
from shmlease.hdf5.layout import describe_dtype, parse_dtype, require_storable

__all__ = ["decode_value", "encode_value"]

_ATTRIBUTE_LIMIT_BYTES = 64_000  # HDF5 keeps an attribute's value in an object header of at most 64 KiB


def encode_value(key: str, value: Any) -> dict[str, Any]:
    """`value` of attribute `key`, as JSON: text, a list of texts, or an array.

    Raises
    ------
    SinkError
        The value has no form as an HDF5 attribute, or is too large for one.
    """
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value):
        return {"texts": list(value)}
    try:
        array = np.asarray(value)
        require_storable(array.dtype, key)
    except (TypeError, ValueError) as error:
        raise SinkError(
            f"attribute {key!r}: a {type(value).__name__} has no form in HDF5; "
            f"give it a text, a list of texts, a number or an array of numbers ({error})",
            attribute=key,
        ) from error
    if array.nbytes > _ATTRIBUTE_LIMIT_BYTES:
        raise SinkError(
            f"attribute {key!r} takes {array.nbytes} bytes, HDF5 allows {_ATTRIBUTE_LIMIT_BYTES}; write it as a dataset",
            attribute=key,
            size_bytes=array.nbytes,
        )
    return {
        "dtype": describe_dtype(array.dtype),
        "shape": list(array.shape),
        "data": base64.b64encode(array.tobytes()).decode(),
    }


def decode_value(encoded: dict[str, Any]) -> Any:
    """What `encode_value` encoded; an array of no axes becomes a numpy scalar."""
    if "text" in encoded:
        return encoded["text"]
    if "texts" in encoded:
        return encoded["texts"]
    data = base64.b64decode(encoded["data"])
    return np.frombuffer(data, parse_dtype(encoded["dtype"])).reshape(encoded["shape"])[()]
