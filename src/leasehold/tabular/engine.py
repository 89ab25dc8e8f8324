"""Which parser reads the blocks of an ingest: the general one, or its compiled twin where that pays."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Literal, TypeAlias, cast

from leasehold.errors import IngestError
from leasehold.tabular.parse import ParsedBlock, parse_block

__all__ = ["Engine", "ParseBlock", "choose_parser"]

Engine: TypeAlias = Literal["auto", "numpy", "numba"]
ParseBlock: TypeAlias = Callable[..., ParsedBlock]  # called as `parse_block` is

# Importing numba and loading the compiled loop takes 0.35 s once compiled, and saves about 2 ns a byte of one core: with two
# cores it pays from a little more than this many bytes of text.
_WORTH_COMPILING = 256 << 20


def choose_parser(text_bytes: int, engine: Engine = "auto") -> ParseBlock:
    """`parse_block`, or its compiled twin: to be called before workers are forked, since it may import and compile.

    Parameters
    ----------
    text_bytes : int
        How much text there is to read, unpacked.
    engine : {"auto", "numpy", "numba"}
        ``auto`` takes numba where it is installed and there is enough to read for it to pay.

    Raises
    ------
    IngestError
        numba was asked for and is not installed.
    """
    installed = importlib.util.find_spec("numba") is not None
    if engine == "numba" and not installed:
        raise IngestError("the engine numba was asked for and is not installed; pip install 'leasehold[numba]'")
    if engine == "numpy" or not installed or (engine == "auto" and text_bytes < _WORTH_COMPILING):
        return parse_block
    return cast(ParseBlock, importlib.import_module("leasehold.tabular.compiled").parse_block_compiled)
