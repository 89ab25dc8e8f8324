"""Removing what dead registries left: exactly theirs, and only when nobody is left who could use it."""

from __future__ import annotations

import contextlib

from shmlease.core.model import ClientState
from shmlease.errors import ProtocolError
from shmlease.system.directory import SHM_ROOT, RegistryDirectory
from shmlease.system.identity import is_dead
from shmlease.system.registries import registry_directories

__all__ = ["remove_if_abandoned", "sweep"]


def sweep(root: str = SHM_ROOT) -> list[str]:
    """Remove the directories of this user's registries whose process and all of whose clients are proved dead; their ids.

    One with a live client stays: that client, or its next call, elects a successor.
    """
    removed = []
    for directory in registry_directories(root):
        with contextlib.suppress(OSError):  # one that cannot be removed keeps neither the others nor a start
            if not remove_if_abandoned(directory):
                removed.append(directory.id)
    return removed


def remove_if_abandoned(directory: RegistryDirectory) -> str:
    """Remove one dead registry's directory; the reason why not, if it stays, else the empty string.

    The registry's lock is held meanwhile, so that nobody can succeed it in the middle.

    Raises
    ------
    OSError
        The directory or what is in it is not what it should be, or the kernel refused.
    """
    lock_fd = directory.lock()
    if lock_fd is None:
        return "its registry is running" if directory.exists() else ""
    try:
        reason = _in_use(directory)
        if not reason:
            directory.remove()
        return reason
    finally:
        directory.unlock(lock_fd)


def _in_use(directory: RegistryDirectory) -> str:
    try:
        snapshot = directory.read_ledger()
    except FileNotFoundError:
        return ""  # killed before it had a ledger, or while it was removing itself
    except ProtocolError as error:
        return f"its ledger cannot be read: {error}"
    processes = [client.identity for client in snapshot.clients.values() if client.state is not ClientState.ENDED]
    if snapshot.registry is not None and snapshot.registry.owner is not None:
        processes.append(snapshot.registry.owner)
    alive = sorted({identity.pid for identity in processes if not is_dead(identity)})
    return f"its clients are alive: pid {', '.join(map(str, alive))}" if alive else ""
