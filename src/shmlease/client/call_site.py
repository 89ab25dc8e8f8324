"""Where in the user's code a lease is taken."""

from __future__ import annotations

import os
import sys
from typing import Final

__all__ = ["calling_site"]

_DIRECTORY: Final = os.path.join(os.path.dirname(__file__), "")
_LENGTH: Final = 512


def calling_site() -> str:
    """``file:line in function`` of the nearest caller outside the client."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_DIRECTORY) and frame.f_back is not None:
        frame = frame.f_back
    code = frame.f_code
    site = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"[-_LENGTH:]
    # a file name that is no UTF-8 arrives with surrogates, which cannot travel
    return site if site.isascii() else site.encode(errors="backslashreplace").decode()[-_LENGTH:]
