"""Which worker's task reads what: the inputs, cut where they are large, in groups of about the same size.

The plan of a run lies beside its shards, so that a run that resumes it has the same groups, whatever workers there are now.
"""

from __future__ import annotations

import os
import shutil
from itertools import pairwise
from typing import Any, Final

import msgspec

from shmlease.errors import IngestError
from shmlease.text.header import open_table
from shmlease.text.parts import can_be_cut
from shmlease.text.schema import Schema

__all__ = ["FileRange", "Shards", "plan_of", "record_of", "remove", "write_whole"]

# Which takes a worker some tenths of a second to read: small beside that is what a shard, and its task, cost.
_LEAST_BYTES: Final = 16 << 20


class FileRange(msgspec.Struct, frozen=True):
    """A file, or the lines that begin in some of its bytes."""

    path: str
    bytes: tuple[int, int] | None = None


class _Plan(msgspec.Struct):
    """What lies beside the shards.

    Attributes
    ----------
    job : dict
        Files and options, as they were given.
    files : dict of str to (int, int) or None
        Size and time of change of each.
    groups : list of list of FileRange
        What is in each shard.
    """

    job: dict[str, Any]
    files: dict[str, tuple[int, int] | None]
    groups: list[list[FileRange]]


class Shards:
    """The shards of a run.

    Attributes
    ----------
    groups : list of list of FileRange
        What is in each, in order.
    paths : list of str
        The files.
    """

    def __init__(self, folder: str, plan: _Plan) -> None:
        self.folder = folder
        self._plan = plan
        self.groups = plan.groups
        self.paths = [_shard(folder, number) for number in range(len(plan.groups))]

    @classmethod
    def planned(
        cls,
        folder: str,
        names: list[str],
        schema: Schema | None,
        shards: tuple[int, bool],
        job: dict[str, Any],
        *,
        resume: bool,
    ) -> Shards:
        """The shards that are to be written; those of the interrupted run if this one resumes it.

        Parameters
        ----------
        folder : str
            Where they are.
        names : list of str
            The files to read.
        schema : Schema or None
            Of the files; None if a reader of the user's reads them, which gets them as they are.
        shards : (int, bool)
            How many, and whether even of very small files.
        job : dict
            What tells this run from others.

        Raises
        ------
        IngestError
            There are shards, of another run or not to be resumed.
        """
        path = plan_of(folder)
        if (
            not resume and os.path.isdir(folder) and set(os.listdir(folder)) - {os.path.basename(path)}
        ):  # else none was begun
            raise IngestError(f"{folder}: is there already; resume, overwrite, or remove it", path=folder)
        plan = _Plan(job, {name: _state(name) for name in names}, [])
        if resume and os.path.isfile(path):
            with open(path, "rb") as file:
                before = msgspec.json.decode(file.read(), type=_Plan)
            if before.job != job:
                raise IngestError(
                    f"{folder}: the interrupted run was of other files or options; give the same again, or overwrite",
                    path=folder,
                )
            changed = {name for name in names if plan.files[name] != before.files[name]}
            plan.groups = before.groups
            if any(each.path in changed and each.bytes for group in plan.groups for each in group):
                remove(folder)  # its ranges may be others now
                plan.groups = []
            for number, group in enumerate(plan.groups):
                if any(each.path in changed for each in group):
                    shard = _shard(folder, number)
                    remove(shard, f"{shard}.partial", record_of(shard))
        plan.groups = plan.groups or _grouped(names, schema, *shards)
        os.makedirs(folder, exist_ok=True)
        write_whole(path, plan)
        return cls(folder, plan)

    def require_unchanged(self) -> None:
        """Raise if a file is not what it was when the run was planned: the shards would not be of one file.

        Raises
        ------
        IngestError
            It was changed.
        """
        for name, state in self._plan.files.items():
            if _state(name) != state:
                raise IngestError(f"{name}: was changed while it was read; resume when it no longer changes", path=name)


def plan_of(folder: str) -> str:
    """Where the plan of the shards in a directory is."""
    return f"{folder}/plan.json"


def record_of(shard: str) -> str:
    """Where the report of a shard is, from its end until all are joined."""
    return f"{shard}.json"


def write_whole(path: str, content: Any) -> None:
    """Write a plan or a report so that it is there with all of its content, or not at all."""
    beside = f"{path}.{os.getpid()}"
    with open(beside, "wb") as file:
        file.write(msgspec.json.encode(content))
        os.fsync(file.fileno())
    os.replace(beside, path)


def remove(*paths: str) -> None:
    """Remove files, and directories with all that is in them."""
    for path in paths:
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.unlink(path)


def _shard(folder: str, number: int) -> str:
    return f"{folder}/{number:05}.h5"


def _state(name: str) -> tuple[int, int] | None:
    """What changes when a file is changed; None for a member of an archive."""
    try:
        status = os.stat(name)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _grouped(names: list[str], schema: Schema | None, shards: int, is_exact: bool) -> list[list[FileRange]]:
    """The files in order, in at most `shards` groups of about the same size; large ones are cut."""
    weights = _sizes(names) if schema is not None else _weights(names)
    total = max(1, sum(weights.values()))
    share = max(total / shards, 1 if is_exact else _LEAST_BYTES)
    groups: dict[int, list[FileRange]] = {}
    done = 0
    for name, size in weights.items():
        for each, nbytes in _cut(name, size, schema, round(size / share)):
            group = groups.setdefault((2 * done + nbytes) * shards // (2 * total), [])  # in which its middle lies
            before = group[-1] if group else None
            if before is not None and before.path == name and before.bytes and each.bytes:
                group[-1] = FileRange(name, (before.bytes[0], each.bytes[1]))
            else:
                group.append(each)
            done += nbytes
    return list(groups.values())


def _sizes(names: list[str]) -> dict[str, int]:
    return {name: os.path.getsize(name) if os.path.isfile(name) else 0 for name in names}


def _weights(names: list[str]) -> dict[str, int]:
    """Of paths for a reader, which takes its time for what has no size, too: a directory, an address, a small file."""
    sizes = _sizes(names)
    mean = sum(sizes.values()) // len(names) + 1
    return {name: size + mean for name, size in sizes.items()}


def _cut(name: str, size: int, schema: Schema | None, count: int) -> list[tuple[FileRange, int]]:
    """A file in so many ranges, each with its size."""
    if count <= 1 or schema is None or not can_be_cut(open_table(name, schema)):
        return [(FileRange(name), size)]
    cuts = [size * number // count for number in range(count + 1)]
    return [(FileRange(name, (start, stop)), stop - start) for start, stop in pairwise(cuts)]
