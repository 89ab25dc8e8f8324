"""What becomes of a process's links in its forked children: each begins anew there, as a client of its own."""

from __future__ import annotations

import weakref
from typing import Final, Protocol

from shmlease.system.forks import after_fork_in_child

__all__ = ["begin_anew_in_child"]


class Forked(Protocol):
    """What must not go on in a forked child as it is."""

    def after_fork_in_child(self) -> None: ...


# Every link of this process; not a WeakSet, which runs Python code when one of its members dies.
_links: Final[list[weakref.ref[Forked]]] = []


def begin_anew_in_child(link: Forked) -> None:
    """Have `link` told of forks for as long as it lives."""
    _links[:] = [reference for reference in _links if reference() is not None]
    _links.append(weakref.ref(link))


def _after_fork_in_child() -> None:
    for reference in _links:
        link = reference()
        if link is not None:
            link.after_fork_in_child()


after_fork_in_child(_after_fork_in_child)
