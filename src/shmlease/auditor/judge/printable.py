"""Text that came from anybody, made fit to be shown and stored: names of files are bytes, and need be no UTF-8.

Python carries such bytes as lone surrogates, which no encoding takes. A report is made of legible text only; whoever acts on a
file does so by what the system calls it.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final

__all__ = ["encodable", "encodable_fields", "printable"]

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    r"""`text` with the bytes that are no UTF-8 as ``\xff``, the way a shell takes them in ``$'...'``."""
    return text if text.isascii() else _SURROGATE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def encodable_fields(value: Any) -> Any:
    """`value` with all text in it legible: dataclasses, tuples and dicts are gone through."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, tuple):
        return tuple(map(encodable_fields, value))
    if isinstance(value, dict):
        return {encodable_fields(key): encodable_fields(one) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: encodable_fields(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **changed)
    return value


def printable(text: str) -> str:
    """`text` with nothing in it that could steer a terminal or break a line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in encodable(text))
