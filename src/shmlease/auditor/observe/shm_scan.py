"""The contents of a directory of shared memory: its files with their identities, and what the filesystem counts.

The directory is read, never opened file by file; links are not followed and other mounts inside it are not entered.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Final

import msgspec

from shmlease.auditor.judge.evidence import File, Key, Root, Usage
from shmlease.auditor.judge.findings import Gap
from shmlease.auditor.observe.statx import FileStatus, statx
from shmlease.system.safe_open import directory_of, reason_of

__all__ = ["FilesystemCount", "Listing", "count_filesystem", "list_root", "usage_of"]

_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Deeper than any program goes; a bound, because others create directories while they are read.
_DEPTH_LIMIT: Final = 32

# Bytes and inodes in use, None where the mount has no limit and the kernel therefore does not count.
FilesystemCount = tuple[int | None, int | None]


@dataclass(slots=True)
class Listing:
    """What one root holds. `names` counts every name in it, as the filesystem counts inodes: each link is one."""

    root: Root
    files: dict[Key, File] = field(default_factory=dict)
    directories: dict[str, FileStatus] = field(default_factory=dict)
    names: int = 0
    gaps: list[Gap] = field(default_factory=list)


def list_root(root: Root) -> Listing:
    """The regular files of `root` and its sub-directories; one with several links is listed once, with its aliases.

    Raises
    ------
    OSError
        The root itself cannot be read.
    """
    listing = Listing(root)
    pending = [("", 0)]
    while pending:
        name, depth = pending.pop()
        try:
            descriptor = _open(root.path, name)
        except FileNotFoundError:
            if not name:
                raise
            continue  # it went while its parent was read
        except OSError as error:
            if not name:
                raise
            why = f"{reason_of(error)}; it belongs to uid {listing.directories[name].uid}"
            listing.gaps.append(Gap(f"the directory {root.path}/{name}", why, source="open"))
            continue
        try:
            for below in _read_directory(descriptor, f"{name}/" if name else "", listing):
                if depth == _DEPTH_LIMIT:
                    listing.gaps.append(Gap(f"{root.path}/{below} and below", f"nested deeper than {_DEPTH_LIMIT}"))
                else:
                    pending.append((below, depth + 1))
        finally:
            os.close(descriptor)
    return listing


def _open(root: str, name: str) -> int:
    """A descriptor to list the directory `name` below `root`, or `root` itself."""
    if not name:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with directory_of(root, name) as (parent, last):
        return os.open(last, _DIRECTORY_FLAGS, dir_fd=parent)


def _read_directory(descriptor: int, prefix: str, listing: Listing) -> list[str]:
    """Add the entries of the open directory to `listing`; the names of its sub-directories."""
    below: list[str] = []
    root, files = listing.root, listing.files
    with os.scandir(descriptor) as entries:
        names = [entry.name for entry in entries]
    for entry in names:
        try:
            status = statx(entry, directory=descriptor)
        except FileNotFoundError:
            continue
        if status.device != root.device:
            continue  # a mount inside this one
        name = prefix + entry
        listing.names += 1
        if stat.S_ISREG(status.mode):
            key = (status.device, status.inode)
            known = files.get(key) if status.links > 1 else None
            if known is None:
                files[key] = File(
                    key=key,
                    born_ns=status.born_ns,
                    root=root,
                    name=name,
                    size_bytes=status.size_bytes,
                    resident_bytes=status.resident_bytes,
                    uid=status.uid,
                    used_ns=status.used_ns,
                    mode=stat.S_IMODE(status.mode),
                )
            else:
                files[key] = msgspec.structs.replace(known, aliases=(*known.aliases, name))
        elif stat.S_ISDIR(status.mode):
            listing.directories[name] = status
            below.append(name)
    return below


def count_filesystem(root: Root) -> FilesystemCount:
    """What statvfs counts as in use in `root`."""
    status = os.statvfs(root.path)
    used_bytes = (status.f_blocks - status.f_bfree) * status.f_frsize if status.f_blocks else None
    used_inodes = status.f_files - status.f_ffree if status.f_files else None
    return used_bytes, used_inodes


def usage_of(listing: Listing, before: FilesystemCount, after: FilesystemCount) -> Usage:
    """The count of a root's filesystem, taken before the root and the processes were read and again after."""
    used_bytes, used_inodes = after
    return Usage(
        listing.root,
        used_bytes,
        used_inodes,
        names=listing.names + 1,  # the root directory has an inode, too
        is_whole=listing.root.is_whole and not listing.gaps,
        is_steady=before == after,
    )
