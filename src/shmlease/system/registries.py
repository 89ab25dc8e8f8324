"""The registries of this user: their directories, and what the default one is called."""

from __future__ import annotations

import os
import re
import stat

from shmlease.system import syscalls
from shmlease.system.directory import RegistryDirectory
from shmlease.system.names import DIRECTORY_NAME
from shmlease.system.shm_root import SHM_ROOT, list_root

__all__ = ["default_registry_id", "registry_directories"]


def registry_directories(root: str = SHM_ROOT) -> list[RegistryDirectory]:
    """The directories of this user's registries, live and dead.

    Raises
    ------
    UnsupportedPlatformError
        There is no `root`.
    """
    found = []
    for name in list_root(root):
        match = DIRECTORY_NAME.fullmatch(name)
        if match is None:
            continue
        directory = RegistryDirectory(match[1], root)
        try:
            if directory.exists():
                found.append(directory)
        except OSError:
            continue  # a neighbour's, or no directory
    return found


def default_registry_id(root: str = SHM_ROOT) -> str:
    """The id of this user's default registry, which ``shmlease serve`` runs and ``connect()`` joins: ``u<user id>``.

    Anybody can tell that name and take it first. Where somebody else has, it gets a random tail, and is known by this
    user's directory of such a name.

    Raises
    ------
    UnsupportedPlatformError
        There is no `root`.
    """
    usual = f"u{os.geteuid()}"
    try:
        status = syscalls.stat(f"{root}/shmlease-{usual}", follow_symlinks=False)
    except OSError:
        is_free = True
    else:
        is_free = False
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            return usual
    with_tail = re.compile(rf"{usual}x[0-9a-f]{{8}}")
    others = [directory.id for directory in registry_directories(root) if with_tail.fullmatch(directory.id)]
    return min(others, default=usual if is_free else f"{usual}x{os.urandom(4).hex()}")
