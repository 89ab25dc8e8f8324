"""What a reader of the user's is to read, as one value: which paths, into which groups."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from shmlease.errors import IngestError
from shmlease.ingestion.dataset_names import dataset_names
from shmlease.ingestion.plan_digest import digest_of
from shmlease.ingestion.reader import Reader, pack_reader
from shmlease.ingestion.tasks import OnError
from shmlease.text.schema import Schema
from shmlease.text.sources import FileState, PathLike, require_utf8_name, state_of

__all__ = ["LoadPlan", "plan_load", "require_none_of_text"]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Paths, and the group each goes to.

    Attributes
    ----------
    reader : Reader
    paths : tuple of str
        Whatever the reader takes, in order.
    states : tuple of FileState or None
        Of those that are files: their sizes and the times when they were last changed.
    groups : tuple of str
        Of the datasets of each path.
    is_joined : bool
        All paths have one group, and add to the same datasets.
    compression : str
    on_error : {"fail", "skip", "quarantine"}
        What becomes of paths that cannot be read.
    """

    reader: Reader
    paths: tuple[str, ...]
    states: tuple[FileState | None, ...]
    groups: tuple[str, ...]
    is_joined: bool
    compression: str
    on_error: OnError

    is_little: ClassVar[bool] = False  # how long a reader takes does not show in the size of its files

    @property
    def schemas(self) -> list[Schema]:
        """None: no text is parsed."""
        return []

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(state.size_bytes for state in self.states if state is not None)

    def require_unchanged(self, index: int) -> None:
        """Raise if a file is not what it was.

        Raises
        ------
        IngestError
            It was changed or taken away since.
        """
        path, state = self.paths[index], self.states[index]
        if state != _state(path):
            raise IngestError(f"{path}: was changed while it was read; run again when it no longer changes", path=path)

    def digest(self) -> str:
        """A name for the plan, the same for the same files in the same state and the same reader."""
        return digest_of(self.reader.name, self.paths, self.states, self.groups, self.compression)


def _state(path: str) -> FileState | None:
    return state_of(path) if os.path.isfile(path) else None


def plan_load(
    paths: PathLike | Sequence[PathLike],
    reader: Callable[..., Any] | Reader,
    into: str | None,
    compression: str,
    on_error: OnError,
) -> LoadPlan:
    """Look at the files.

    Raises
    ------
    IngestError
        There is no path, one is named twice, or the reader cannot be sent to a worker.
    """
    names = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    if not names:
        raise IngestError("no files are named; name at least one that the reader reads")
    seen: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        require_utf8_name(name)
        first = seen.setdefault(os.path.realpath(name), name)
        if len(seen) < number:
            raise IngestError(f"{name}: named twice" + (f", also as {first}" if first != name else ""), path=name)
    groups = dataset_names(names) if into is None else [into.strip("/")] * len(names)
    for name, group in zip(names, groups, strict=True):
        if on_error == "quarantine" and group.split("/")[0] in ("rejected", ""):
            raise IngestError(
                f"{name}: its group is {group or '/'!r}, and what could not be read is noted under rejected/; "
                "name another (into)",
                path=name,
            )
    return LoadPlan(
        pack_reader(reader),
        tuple(names),
        tuple(map(_state, names)),
        tuple(groups),
        into is not None,
        compression,
        on_error,
    )


def require_none_of_text(**given: Any) -> None:
    """Raise if an option was given that a reader of the user's knows nothing of.

    Raises
    ------
    TypeError
        One was.
    """
    for name, value in given.items():
        if value not in (None, False):
            raise TypeError(f"{name} says how text is read; a reader of your own reads its files itself")
