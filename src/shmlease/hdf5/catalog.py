"""The datasets of a file under way, by name: which exist, what a new one may be called, what an old one takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from shmlease.errors import SinkError
from shmlease.hdf5 import write_ahead_log
from shmlease.hdf5.dataset import DatasetState
from shmlease.hdf5.layout import Grid, describe_dtype, require_storable

__all__ = ["Catalog"]

_AXES = {True: "transposed", False: "rows first"}
_COMING = {True: "encoded", False: "as rows"}


class Catalog:
    """Datasets by their path in the file; `log` records a new one.

    Attributes
    ----------
    datasets : dict of str to DatasetState
    """

    def __init__(self, datasets: dict[str, DatasetState], log: Callable[[write_ahead_log.Record], None]) -> None:
        self.datasets = datasets
        self._groups: set[str] = set()  # that hold the first so many of them
        self._seen = 0
        self._log = log

    def existing(self, name: str) -> DatasetState:
        """The dataset of that name.

        Raises
        ------
        SinkError
            There is none.
        """
        try:
            return self.datasets[name]
        except KeyError:
            there = ", ".join(map(repr, sorted(self.datasets))) or "none yet"
            raise SinkError(f"there is no dataset {name!r}; the datasets are: {there}", dataset=name) from None

    def begin(
        self,
        name: str,
        dtype: np.dtype[Any],
        trailing: tuple[int, ...],
        *,
        rows: int | None,
        encoded: bool,
        compression: str,
        chunk_bytes: int,
        labels: Mapping[str, Sequence[str]],
        transposed: bool = False,
        variable: Sequence[str] = (),
    ) -> DatasetState:
        """The dataset of that name, begun unless it is under way.

        Raises
        ------
        SinkError
            It is under way and of another kind, or the name cannot be used.
        DTypeError
            HDF5 has no such dtype.
        """
        known = self.datasets.get(name)
        if known is None:
            self.require_free(name)
            require_storable(dtype, name)
            grid = Grid.fit(trailing, dtype.itemsize, chunk_bytes, rows, whole_rows=encoded)
            described = describe_dtype(dtype)
            texts = {field: tuple(each) for field, each in labels.items()}
            declared = write_ahead_log.Dataset(
                name, described, trailing, grid.chunk_shape, compression, rows, encoded, texts, transposed, tuple(variable)
            )
            self._log(declared)
            known = self.datasets[name] = DatasetState(declared)
            return known
        for what, was, now in (
            ("dtype is", known.codec.dtype, dtype),
            ("row shape is", known.declared.trailing, trailing),
            ("number of rows is", known.declared.rows, rows),
            ("compression is", known.declared.compression, compression),
            ("order of axes is", _AXES[known.declared.transposed], _AXES[transposed]),
            ("strings of variable length are", known.declared.variable, tuple(variable)),
            ("chunks come", _COMING[known.declared.encoded], _COMING[encoded]),
        ):
            if was != now:
                raise SinkError(
                    f"dataset {name!r}: its {what} {was}, and {now} was given; convert it, or choose another name",
                    dataset=name,
                )
        return known

    def require_free(self, name: str) -> None:
        """Raise unless a dataset can be called `name`.

        Raises
        ------
        SinkError
            It is not a path, or taken, or lies within another dataset.
        """
        parts = name.split("/") if isinstance(name, str) else []
        if not parts or not all(parts) or {".", ".."} & set(parts) or "\0" in name:
            raise SinkError(
                f"{name!r} is not a path of a dataset; give names joined by '/', such as 'calls' or 'calls/chr1'"
            )
        if name in self.datasets:
            raise SinkError(f"dataset {name!r} exists; choose another name", dataset=name)
        inside = next((group for group in _groups_of(name) if group in self.datasets), None)
        if inside is None and name in self._known_groups():
            inside = next(other for other in self.datasets if other.startswith(f"{name}/"))
        if inside is not None:
            raise SinkError(f"dataset {name!r}: {inside!r} exists, and a dataset cannot hold another", dataset=name)

    def _known_groups(self) -> set[str]:
        """All groups that hold a dataset. Others put datasets in as well, and none is ever taken out."""
        if self._seen < len(self.datasets):
            for name in itertools.islice(self.datasets, self._seen, None):
                self._groups.update(_groups_of(name))
            self._seen = len(self.datasets)
        return self._groups


def _groups_of(name: str) -> Iterator[str]:
    """The groups on the way to a dataset."""
    parts = name.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))
