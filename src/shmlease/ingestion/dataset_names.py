"""Names of datasets, from the names of the files they are made of."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

__all__ = ["dataset_names"]

_COMPRESSED = {".gz", ".bgz", ".bz2", ".xz", ".zst", ".gzip", ".z"}
_STANDARD_INPUT = "stdin"


def dataset_names(paths: Sequence[str]) -> list[str]:
    """A name for each file, all different: its own without endings; where that is not enough, with more of its path.

    ``a/calls.cov.gz`` alone is ``calls``; beside ``b/calls.cov`` it is ``a.calls`` and the other ``b.calls``; beside
    ``a/calls.bed`` they are ``calls.cov`` and ``calls.bed``.
    """
    paths = [_STANDARD_INPUT if path == "-" else path for path in paths]
    parts = [os.path.abspath(path).split(os.sep) for path in paths]
    forms = [
        [_stem(each[-1]), _uncompressed(each[-1]), *(".".join((*each[-more:-1], _stem(each[-1]))) for more in (2, 3, 4))]
        for each in parts
    ]
    forms = [[*each, path.strip(os.sep).replace(os.sep, ".")] for each, path in zip(forms, paths, strict=True)]
    chosen = [0] * len(paths)
    while True:
        names = [each[level] for each, level in zip(forms, chosen, strict=True)]
        count = Counter(names)
        crowded = {name for name in names if count[name] > 1}
        if not crowded:
            return [_readable(name) for name in names]
        for name in crowded:
            group = [index for index in range(len(paths)) if names[index] == name]
            for index in group:
                chosen[index] = _first_level_apart(forms, group, chosen[index])


def _first_level_apart(forms: list[list[str]], group: list[int], level: int) -> int:
    """The first level beyond `level` on which all of the group differ, or the last there is."""
    last = len(forms[group[0]]) - 1
    for deeper in range(level + 1, last):
        if len({forms[index][deeper] for index in group}) == len(group):
            return deeper
    return last


def _uncompressed(name: str) -> str:
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in _COMPRESSED and stem else name


def _stem(name: str) -> str:
    stem, _ = os.path.splitext(_uncompressed(name))
    return stem


def _readable(name: str) -> str:
    """HDF5 keeps names as UTF-8; other bytes of a file name are written as escapes."""
    return name.encode(errors="backslashreplace").decode()
