"""A name for a plan: the same for the same plan, so that an interrupted run is known again."""

from __future__ import annotations

from typing import Any

import msgspec

try:  # where hashlib has it from, without the 10 ms in which that loads OpenSSL
    from _blake2 import blake2b
except ImportError:  # a Python that was built without hashes of its own
    from hashlib import blake2b

__all__ = ["digest_of"]


def digest_of(*parts: Any) -> str:
    """Of what the plan consists of."""
    return blake2b(msgspec.json.encode(msgspec.to_builtins(parts)), digest_size=16).hexdigest()
