"""What a segment is called in /dev/shm itself, once somebody has asked for a name that any program can open."""

from __future__ import annotations

import re

try:  # where hashlib has it from, without the 10 ms in which that loads OpenSSL
    from _blake2 import blake2b
except ImportError:  # a Python that was built without hashes of its own
    from hashlib import blake2b

from shmlease.core.model import RegistryRow, SegmentRow

__all__ = ["can_be_os_name", "os_name_of", "os_names_of"]

_RANDOM_BYTES = 8
_NAME_MAX = 255  # NAME_MAX of tmpfs
_RESERVED = "shmlease-"  # what registries call their directories, and the names that they choose


def can_be_os_name(name: str) -> bool:
    """Whether a segment called `name` may be called so in /dev/shm as well."""
    is_plain = "/" not in name and name not in (".", "..") and not name.startswith(_RESERVED)
    return is_plain and 1 <= len(name.encode()) <= _NAME_MAX


def os_name_of(segment: SegmentRow, registry: RegistryRow) -> str:
    """The name of `segment`: ``shmlease-<registry>-<number>-<random>``.

    Anybody may make files in /dev/shm. The random part, which only a reader of the lease table could work out, keeps others
    from taking the name first. It is the same whenever it is asked for, also by a successor of the registry.
    """
    subject = f"{segment.number}.{segment.generation}".encode()
    random = blake2b(subject, key=registry.name_key, digest_size=_RANDOM_BYTES).hexdigest()
    return f"shmlease-{registry.id}-{segment.number}-{random}"


def os_names_of(registry_id: str) -> re.Pattern[str]:
    """What all such names of a registry look like."""
    return re.compile(rf"shmlease-{re.escape(registry_id)}-\d+-[0-9a-f]{{{2 * _RANDOM_BYTES}}}")
