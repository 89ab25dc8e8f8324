"""Where in the user's code a lease is taken."""

from __future__ import annotations

import os
import sys
from types import CodeType
from typing import Final

__all__ = ["calling_site"]

_DIRECTORY: Final = os.path.join(os.path.dirname(__file__), "")
_LENGTH: Final = 512
# The calls of one program that take leases are few; what is generated anew all the time must not pile up.
_MOST_KNOWN: Final = 256
# By the id of a code object, kept so that no other gets the same, and the instruction in it: to look up a line takes 1 us.
_known: Final[dict[tuple[int, int], tuple[CodeType, str]]] = {}


def calling_site() -> str:
    """``file:line in function`` of the nearest caller outside the client."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_DIRECTORY) and frame.f_back is not None:
        frame = frame.f_back
    code, at = frame.f_code, (id(frame.f_code), frame.f_lasti)
    known = _known.get(at)
    if known is not None and known[0] is code:
        return known[1]
    site = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"[-_LENGTH:]
    # a file name that is no UTF-8 arrives with surrogates, which cannot travel
    site = site if site.isascii() else site.encode(errors="backslashreplace").decode()[-_LENGTH:]
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[at] = code, site
    return site
