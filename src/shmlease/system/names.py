"""What a registry and its directory in /dev/shm may be called."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["DIRECTORY_NAME", "REGISTRY_ID"]

REGISTRY_ID: Final = re.compile(r"[0-9a-z]{1,32}")
DIRECTORY_NAME: Final = re.compile(rf"shmlease-({REGISTRY_ID.pattern})")
