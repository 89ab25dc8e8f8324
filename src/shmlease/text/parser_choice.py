"""Which parser reads the blocks of an ingest: the general one, or the one in C where that was compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from shmlease.errors import IngestError
from shmlease.text.native_parser import library, max_rows_native, parse_block_native
from shmlease.text.parser import ParsedBlock, max_rows, parse_block
from shmlease.text.schema import Schema
from shmlease.text.text_buffer import Bytes

__all__ = ["PARSERS", "ParseBlock", "Parser", "Reading", "choose_parser"]

Parser: TypeAlias = Literal["native", "numpy"]
ParseBlock: TypeAlias = Callable[..., ParsedBlock]  # called as `parse_block` is


class Reading(NamedTuple):
    """The functions of a parser."""

    parse_block: ParseBlock
    max_rows: Callable[[Bytes, Schema], int]


PARSERS: dict[Parser, Reading] = {
    "native": Reading(parse_block_native, max_rows_native),
    "numpy": Reading(parse_block, max_rows),
}


def choose_parser(wish: Literal["auto"] | Parser = "auto") -> Parser:
    """The parser to use; by default the one in C where it was compiled, which gives the same in a quarter of the time.

    Raises
    ------
    IngestError
        The one in C was asked for and is not there.
    """
    if wish != "auto" and wish not in PARSERS:
        raise ValueError(f"parser={wish!r}; it is one of auto, {', '.join(PARSERS)}")
    if wish == "native" and library() is None:
        raise IngestError(
            "the native parser was asked for and was not compiled; install shmlease where there is a C compiler (cc), or "
            "run python hatch_build.py in its source tree"
        )
    if wish == "auto":
        return "numpy" if library() is None else "native"
    return wish
