"""Zip archives: a member is named by a path, ``tables.zip/2020/may.csv``; an archive of one member is that member."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import IO

from shmlease.errors import IngestError

__all__ = ["expand_archives", "member_of", "open_member"]

_MAGIC = b"PK\x03\x04"
_ENCRYPTED = 0x1


def member_of(name: str) -> tuple[str, str] | None:
    """The archive and the member that a path names, if it goes through a file: ``a.zip/b.csv`` is member ``b.csv``."""
    archive, member = name, ""
    while not os.path.lexists(archive):
        archive, part = os.path.split(archive)
        member = os.path.join(part, member) if member else part
        if not archive or not part:
            return None
    return (archive, member) if member and os.path.isfile(archive) and _is_zip(archive) else None


def expand_archives(names: list[str]) -> list[str]:
    """The names, with archives of several members replaced by the paths of these."""
    expanded: list[str] = []
    for name in names:
        members = _members(name) if os.path.isfile(name) and _is_zip(name) else []
        expanded += [name] if len(members) <= 1 else [os.path.join(name, member) for member in members]
    return expanded


def open_member(archive: str, member: str | None) -> IO[bytes]:
    """The content of a member; None means the only one.

    Raises
    ------
    IngestError
        There is no such member, or it is encrypted.
    """
    members = _members(archive)
    if member is None and len(members) == 1:
        member = members[0]
    if member not in members:
        held = ", ".join(members[:20]) or "nothing"
        asked = f"has no member {member}; it holds" if member else "is an archive of several files; name one of"
        raise IngestError(f"{archive}: {asked} {held} (as {archive}/MEMBER)", path=archive)
    import zipfile  # noqa: PLC0415 - with what it imports it takes 5 ms, and few files are archives

    opened = zipfile.ZipFile(archive)
    try:
        if opened.getinfo(member).flag_bits & _ENCRYPTED:
            raise IngestError(f"{archive}: member {member} is encrypted; unpack it first", path=archive)
        return opened.open(member)
    except NotImplementedError as error:
        raise IngestError(f"{archive}: member {member}: {error}; unpack it first", path=archive) from error
    finally:
        opened.close()  # the open member keeps the file


def _is_zip(name: str) -> bool:
    with open(name, "rb") as file:
        return file.read(4) == _MAGIC


def _members(archive: str) -> list[str]:
    status = os.stat(archive)
    return _listed(archive, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _listed(archive: str, size_bytes: int, changed_ns: int) -> list[str]:  # noqa: ARG001 - what the answer depends on
    import zipfile  # noqa: PLC0415 - see above

    try:
        with zipfile.ZipFile(archive) as opened:
            return [
                info.filename
                for info in opened.infolist()
                if not info.is_dir() and not info.filename.startswith("__MACOSX/")
            ]
    except zipfile.BadZipFile as error:
        raise IngestError(f"{archive}: the zip archive is damaged: {error}", path=archive) from error
