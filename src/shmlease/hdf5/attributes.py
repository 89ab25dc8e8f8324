"""The attributes of a dataset or of the file: a mapping that is checked when it is set, logged as JSON, stored
at the end.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import numpy as np

from shmlease.errors import SinkError
from shmlease.hdf5.layout import describe_dtype, parse_dtype, require_storable
from shmlease.hdf5.provenance import PREFIX

__all__ = ["Attributes", "decode_attribute", "encode_attribute"]

_ATTRIBUTE_LIMIT_BYTES = 64_000  # HDF5 keeps an attribute's value in an object header of at most 64 KiB


def encode_attribute(key: str, value: Any) -> dict[str, Any]:
    """`value` of attribute `key` as JSON, exactly: text, a list of texts, or an array.

    Raises
    ------
    SinkError
        The sink keeps the name for itself, HDF5 has no such attribute, or the value is too large for one.
    """
    if not isinstance(key, str) or not key or "\0" in key or key.startswith(PREFIX):
        raise SinkError(
            f"{key!r} is not a name for an attribute; give a text without NUL that does not begin with {PREFIX!r}"
        )
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


def decode_attribute(encoded: dict[str, Any]) -> Any:
    """What `encode_attribute` encoded; an array of no axes becomes a numpy scalar."""
    if "text" in encoded:
        return encoded["text"]
    if "texts" in encoded:
        return encoded["texts"]
    data = base64.b64decode(encoded["data"])
    return np.frombuffer(data, parse_dtype(encoded["dtype"])).reshape(encoded["shape"])[()]


class Attributes(MutableMapping[str, Any]):
    """Texts, lists of texts, numbers and arrays by name; names that begin with ``shmlease_`` are the sink's own."""

    def __init__(self, values: dict[str, Any], changed: Callable[[str, dict[str, Any] | None], None]) -> None:
        self._values = values
        self._changed = changed

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        encoded = encode_attribute(key, value)
        self._changed(key, encoded)
        self._values[key] = decode_attribute(encoded)

    def __delitem__(self, key: str) -> None:
        del self._values[key]
        self._changed(key, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Attributes({self._values!r})"
