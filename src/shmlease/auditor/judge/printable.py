"""Untrusted text, made safe to print and to store: names of files are bytes, and need not be UTF-8.

Python represents such bytes as lone surrogates, which no encoding accepts. A report contains encodable text only; code that
acts on a file uses the name that the system uses.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final

import msgspec

__all__ = ["cut_command", "encodable", "encodable_fields", "printable"]

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# Of a command line, where it stands within a sentence: enough to know which program it is.
_COMMAND_LENGTH: Final = 60


def encodable(text: str) -> str:
    r"""`text` with the bytes that are not UTF-8 as ``\xff``, the way a shell takes them in ``$'...'``."""
    return text if text.isascii() else _SURROGATE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def encodable_fields(value: Any) -> Any:
    """`value` with all text in it encodable, also in structs, dataclasses, tuples and dicts."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, tuple):
        return tuple(map(encodable_fields, value))
    if isinstance(value, dict):
        return {encodable_fields(key): encodable_fields(one) for key, one in value.items()}
    if isinstance(value, msgspec.Struct):
        changed = {name: encodable_fields(getattr(value, name)) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **changed)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: encodable_fields(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **changed)
    return value


def printable(text: str) -> str:
    """`text` without characters that could control a terminal or break a line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in encodable(text))


def cut_command(command: str) -> str:
    """`command` for a sentence: the program without its directory, and no more than fits into a line."""
    program, blank, arguments = command.partition(" ")
    short = (program.rpartition("/")[2] or program) + blank + arguments
    return short if len(short) <= _COMMAND_LENGTH else f"{short[: _COMMAND_LENGTH - 3].rstrip()}..."
