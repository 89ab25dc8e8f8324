"""Faults of a registry's own, planted one at a time in registries that a test starts, and in their successors.

A registry that imports this module while SHMLEASE_PLANTED_FAULT names a fault has it. Faults stand where the table is sent
a message, ends a client, or acts on the file system, whatever the code behind that looks like.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from rig import plants
from shmlease.core import messages as m
from shmlease.core.table import Table
from shmlease.system import launch
from shmlease.system.directory import RegistryDirectory

ENVIRONMENT: Final = "SHMLEASE_PLANTED_FAULT"
SAID: Final = "segment 7 is warm: published cannot happen to it"
_BOOT: Final = launch._BOOT


def _raise(*_: Any, **__: Any) -> Any:
    raise AssertionError(SAID)


def _on(kind: type, what: Callable[..., Any]) -> None:
    def met(table: Table, client: int, message: Any) -> Any:
        del table, client
        if isinstance(message, kind):
            what()
        return message

    plants.on_messages(met)


def trimming_raises() -> None:
    _on(m.Trim, _raise)


def trimming_crashes() -> None:
    """As in a library written in C."""
    _on(m.Trim, lambda: ctypes.string_at(0))


def trimming_is_killed() -> None:
    """As by the kernel, for want of memory."""
    _on(m.Trim, lambda: os.kill(os.getpid(), signal.SIGKILL))


def publishing_raises() -> None:
    """A notice, which no answer is awaited to."""
    _on(m.Publish, _raise)


def publishing_is_killed_three_times() -> None:
    """By somebody."""

    def killed(table: Table, client: int, message: Any) -> Any:
        del client
        if isinstance(message, m.Publish) and table.rows.registry.epoch < 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return message

    plants.on_messages(killed)


def attaching_raises_once_it_is_granted() -> None:
    """The table is changed and not committed."""
    apply = Table.apply

    def changed(self: Table, client: int, message: Any, now_ns: int) -> None:
        apply(self, client, message, now_ns)
        if isinstance(message, m.Attach):
            _raise()

    Table.apply = changed  # type: ignore[method-assign]


def naming_in_shm_raises() -> None:
    """After what was decided is committed; the request is asked again."""
    RegistryDirectory.link_alias = _raise  # type: ignore[method-assign]


def unlinking_raises() -> None:
    RegistryDirectory.retire_segment = _raise  # type: ignore[method-assign]


def deaths_raise() -> None:
    Table.holder_died = _raise  # type: ignore[method-assign]


def expiry_raises() -> None:
    from shmlease.core.tickets import Tickets

    Tickets._due = _raise  # type: ignore[method-assign]


_ALL: Final = (
    trimming_raises,
    trimming_crashes,
    trimming_is_killed,
    publishing_raises,
    publishing_is_killed_three_times,
    attaching_raises_once_it_is_granted,
    naming_in_shm_raises,
    unlinking_raises,
    deaths_raise,
    expiry_raises,
)
FAULTS: Final = {fault.__name__: fault for fault in _ALL}


def infect(name: str) -> None:
    """Registries that this process starts have the fault `name`: they get it although they get no environment."""
    tests = str(Path(__file__).parents[1])
    plant = f"os.environ[{ENVIRONMENT!r}] = {name!r}; sys.path.append({tests!r}); import {__name__}; from shmlease.registry"
    launch._BOOT = _BOOT.replace("from shmlease.registry", plant)  # type: ignore[misc]


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Registries that this process starts meanwhile have the fault `name`."""
    infect(name)
    try:
        yield
    finally:
        launch._BOOT = _BOOT  # type: ignore[misc]


if os.environ.get(ENVIRONMENT) in FAULTS:
    FAULTS[os.environ[ENVIRONMENT]]()
