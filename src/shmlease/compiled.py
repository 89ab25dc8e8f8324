"""Libraries of C that lie beside the modules that call them, where hatch_build.py has compiled them."""

from __future__ import annotations

import ctypes
import os
import zlib

__all__ = ["load_compiled"]


def load_compiled(source: str) -> ctypes.CDLL | None:
    """The library made of a C file: ``_lines.so`` of ``lines.c``; None if it was not compiled, or from another source."""
    folder, name = os.path.split(source)
    try:
        library = ctypes.CDLL(os.path.join(folder, f"_{os.path.splitext(name)[0]}.so"))
        made_of = ctypes.c_uint32.in_dll(library, "shmlease_source_crc32").value
        with open(source, "rb") as file:
            return library if made_of == zlib.crc32(file.read()) else None
    except (OSError, ValueError):
        return None
