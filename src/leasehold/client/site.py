"""Where in the user's code a lease is taken."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["calling_site"]

_PACKAGE: Final = __name__.rpartition(".")[0]
_LENGTH: Final = 512


def calling_site() -> str:
    """``file:line in function`` of the nearest caller outside the client."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").rpartition(".")[0] == _PACKAGE:
        frame = frame.f_back
    code = frame.f_code
    site = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"[-_LENGTH:]
    # a file name that is no UTF-8 arrives with surrogates, which cannot travel
    return site if site.isascii() else site.encode(errors="backslashreplace").decode()[-_LENGTH:]
