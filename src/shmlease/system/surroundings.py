"""What a registry process inherits from whoever starts it, and what it has instead.

A client may have a umask, an environment or signal dispositions of its own when it happens to start the registry of many.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Final

__all__ = ["DEFAULT_SIGNALS", "environment_for"]

# What an interpreter needs to start and to write its messages, and what is ours; the rest of a client's environment, which
# may hold secrets, is not kept by a process that outlives it.
_KEPT: Final = ("LANG", "LC_", "LD_LIBRARY_PATH", "SHMLEASE_")
# All whose disposition can be set.
DEFAULT_SIGNALS: Final = frozenset(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def environment_for(environment: Mapping[str, str]) -> dict[str, str]:
    """What a registry process keeps of its starter's environment."""
    return {name: value for name, value in environment.items() if name.startswith(_KEPT)}
