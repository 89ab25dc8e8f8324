"""Libraries of C that lie beside the modules that call them, where hatch_build.py has compiled them."""

from __future__ import annotations

import ctypes
import zlib
from pathlib import Path

__all__ = ["load_compiled"]


def load_compiled(source: Path) -> ctypes.CDLL | None:
    """The library made of a C file: ``_lines.so`` of ``lines.c``; None if it was not compiled, or from another source."""
    try:
        library = ctypes.CDLL(str(source.with_name(f"_{source.stem}.so")))
        made_of = ctypes.c_uint32.in_dll(library, "leasehold_source_crc32").value
        return library if made_of == zlib.crc32(source.read_bytes()) else None
    except (OSError, ValueError):
        return None
