"""The attributes of a dataset or of the file, as a mapping that is checked when it is set and stored at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from shmlease.errors import SinkError
from shmlease.hdf5.json_values import decode_value, encode_value
from shmlease.hdf5.provenance import PREFIX

__all__ = ["Attributes", "encode_attribute"]


def encode_attribute(key: str, value: Any) -> dict[str, Any]:
    """`value` as JSON, once the name and the value have passed.

    Raises
    ------
    SinkError
        The sink keeps the name for itself, or HDF5 has no such attribute.
    """
    if not isinstance(key, str) or not key or "\0" in key or key.startswith(PREFIX):
        raise SinkError(f"{key!r} is no name for an attribute; give a text without NUL that does not begin with {PREFIX!r}")
    return encode_value(key, value)


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
        self._values[key] = decode_value(encoded)

    def __delitem__(self, key: str) -> None:
        del self._values[key]
        self._changed(key, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Attributes({self._values!r})"
