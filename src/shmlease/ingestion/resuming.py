"""Whether an interrupted run can be gone on with: it was of these files and options, and they are what they were."""

from __future__ import annotations

import os
from typing import Any, Final

from shmlease.errors import IngestError
from shmlease.hdf5 import Completed, output_path
from shmlease.hdf5.file_parts import part_of
from shmlease.hdf5.interrupted import interrupted_run
from shmlease.hdf5.provenance import checksum_of_file, format_checksum
from shmlease.ingestion.readers import checksum_of_source
from shmlease.text.sources import PathLike
from shmlease.units import format_bytes

__all__ = ["position_of", "require_asked", "require_unchanged_sources"]

_GO_ON = "go on with it (--resume, resume=True), "
# Less is read and stored again within seconds: nobody need be asked.
WORTH_ASKING_BYTES: Final = 64 << 20


def require_asked(out: PathLike, digest: str, *, overwrite: bool, resume: bool, restart: bool) -> None:
    """Raise if what an interrupted run has stored would be lost unasked, and is worth asking.

    A run of the same files and options is to say whether it goes on or begins again; one of others, that it replaces what
    is there.

    Raises
    ------
    IngestError
        It did not say so.
    """
    if resume or restart:
        return
    found = interrupted_run(output_path(out, overwrite=True))
    if found is None or found.stored_bytes < WORTH_ASKING_BYTES:
        return
    is_same = isinstance(found.position, dict) and found.position.get("job") == digest
    if is_same or not overwrite:
        run, ways = ("this run", _GO_ON) if is_same else ("a run of other files or options", "")
        raise IngestError(
            f"{os.fspath(out)}: {run} was interrupted and has stored {format_bytes(found.stored_bytes)} in "
            f"{found.directory}; {ways}drop it (--restart, restart=True), or choose another name",
            path=os.fspath(out),
        )


def position_of(before: Completed, digest: str, out: PathLike) -> dict[str, Any]:
    """Where an interrupted run had come to in the datasets under way.

    Raises
    ------
    IngestError
        It was a run of other files, or read them in another way.
    """
    if before.position is None:
        return {}
    if before.position.get("job") != digest:
        raise IngestError(
            f"{os.fspath(out)}: the interrupted run was of other files or options, or a file was changed since; "
            "give the same again, or begin again (--restart, restart=True)",
            path=os.fspath(out),
        )
    opened: dict[str, Any] = before.position["open"]
    return opened


def require_unchanged_sources(before: Completed) -> None:
    """Raise unless the files whose rows an interrupted run has stored are byte for byte what they were.

    Raises
    ------
    IngestError
        One was rewritten.
    """
    known = [source for sources in before.sources.values() for source in sources if source.path]
    whole = {(source.path, source.digest) for source in known if source.digest}
    changed = [path for path, digest in whole if format_checksum(checksum_of_source(path or "") or 0) != digest]
    parts = {(source.path or "", part) for source in known if (part := part_of(source)) is not None}
    changed += [path for path, part in parts if checksum_of_file(path, part.stop, start=part.start) != part.crc32]
    for path in changed:
        raise IngestError(
            f"{path}: was rewritten since the interrupted run read it; begin again (--restart, restart=True)", path=path
        )
