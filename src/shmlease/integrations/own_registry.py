"""The registry of a program that has not said which: one that runs already, or one of its own.

A registry of its own is started at first use, is shared by all in this process that have not said which, and ends with the
last of them.
"""

from __future__ import annotations

import os
import threading
from typing import Final

from shmlease import Registry, RegistryHandle, RegistryUnavailableError, connect

__all__ = ["RegistryUse"]


class RegistryUse:
    """The use of a registry by one object, from when it is made until `end`.

    Attributes
    ----------
    registry : RegistryHandle
        The one that is used.
    is_own : bool
        It was started here, and ends with its last use.
    """

    def __init__(self, registry: RegistryHandle | None = None) -> None:
        own = None if registry is not None else _own.begin(self)
        self.is_own = own is not None
        self.registry: RegistryHandle = registry or own or connect()

    def end(self) -> None:
        """The object does not use it any more; doing so twice does nothing."""
        if self.is_own:
            _own.end(self)


class _OwnRegistry:
    """The one that this process has started, while it has users."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: list[RegistryUse] = []
        self._registry: Registry | None = None

    def begin(self, user: RegistryUse) -> Registry | None:
        """A registry of our own; None if there is another to be joined."""
        with self._lock:
            if self._registry is None:
                if _runs_already():
                    return None
                self._registry = Registry()
            self._users.append(user)
            return self._registry

    def end(self, user: RegistryUse) -> None:
        """Count one user less; the last ends the registry."""
        with self._lock:
            if user not in self._users:
                return
            self._users.remove(user)
            if self._users or self._registry is None:
                return
            ended, self._registry = self._registry, None
            ended.close()


def _runs_already() -> bool:
    try:
        connect()
    except RegistryUnavailableError:
        return False
    return True


_own: Final = _OwnRegistry()
# A forked child finds its parent's registry as it finds any other, and the lock may have been held.
os.register_at_fork(after_in_child=_own.__init__)  # type: ignore[misc]
