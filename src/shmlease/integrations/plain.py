"""Whether a value is seen at a glance to be small, without numpy, which nobody should have to import for that."""

from __future__ import annotations

import functools
import types
from typing import Final

__all__ = ["is_plain"]

_NUMBERS: Final = {int, float, complex, bool, type(None)}
_BY_NAME: Final = {types.FunctionType, types.BuiltinFunctionType}
_FEW: Final = 8


def is_plain(value: object, min_nbytes: int, depth: int = 5) -> bool:
    """Whether `value` is seen at a glance to be small: numbers, texts, functions, small arrays, a few of them together.

    It is then sent as it is. Most of the time that small messages take here is Python code that is not in the caches.
    """
    kind = type(value)
    if kind in _NUMBERS:
        return True
    if kind in (str, bytes):
        return len(value) < min_nbytes  # type: ignore[arg-type]
    if kind.__name__ == "ndarray" and kind.__module__ == "numpy":
        return value.nbytes < min_nbytes and not value.dtype.hasobject  # type: ignore[attr-defined]
    if kind in (tuple, list):
        few = len(value) <= _FEW and depth > 0  # type: ignore[arg-type]
        return few and all(is_plain(part, min_nbytes, depth - 1) for part in value)  # type: ignore[attr-defined]
    if kind is functools.partial:
        return not value.keywords and is_plain((value.func, *value.args), min_nbytes, depth)  # type: ignore[attr-defined]
    return kind in _BY_NAME or (kind is dict and not value)
