"""Whether there is so little to read that this thread has read it before a worker would have started.

Nothing heavy is imported here: the command asks before it imports the rest.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Final

__all__ = ["is_little"]

# A registry and two workers take 150 ms of processor time; so much text and its rows take 20 ms.
_LITTLE_BYTES: Final = 1 << 20
_FEW_FILES: Final = 16


def is_little(paths: Sequence[str]) -> bool:
    """Whether these are a few files of 1 MiB together; False for what is no file, or is not there."""
    if len(paths) > _FEW_FILES:
        return False
    try:
        states = [os.stat(path) for path in paths]
    except (OSError, ValueError):
        return False
    return all(stat.S_ISREG(state.st_mode) for state in states) and sum(each.st_size for each in states) <= _LITTLE_BYTES
