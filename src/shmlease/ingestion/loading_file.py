"""A path whose reader is under way, and the group of datasets that it adds to."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING

from shmlease.hdf5.checksum import combine
from shmlease.ingestion.growing_dataset import GrowingDataset
from shmlease.ingestion.pool_protocol import Session
from shmlease.ingestion.reader import Failure
from shmlease.ingestion.tasks import Loaded, LoadedBlock

if TYPE_CHECKING:
    from shmlease.client.lease import Lease

__all__ = ["Group", "LoadingFile"]

_openings = itertools.count()


class LoadingFile:
    """A file whose reader is under way.

    Attributes
    ----------
    index : int
        Among the files of the run.
    taken : dict
        Rows and their CRC-32 that came of each array.
    """

    def __init__(self, index: int, path: str) -> None:
        self.index = index
        self.path = path
        self.session = Session()
        self.opening = next(_openings)
        self.is_asked = False
        self.is_read = False
        self.taken: dict[str, tuple[int, int]] = {}
        self.waiting: deque[tuple[Loaded, list[Lease | None]]] = deque()
        self.ranges: dict[str, tuple[int, int]] = {}  # rows of each dataset
        self.failure: Failure | None = None
        self.file_crc32: int | None = None

    def reopen(self) -> None:
        """Have it read from its beginning: what came already is not given again."""
        self.opening = next(_openings)

    def take(self, block: LoadedBlock) -> None:
        """Count rows that came."""
        rows, checksum = self.taken.get(block.name, (0, 0))
        count = block.shape[0] if block.shape else 0
        self.taken[block.name] = rows + count, combine(checksum, block.crc32, block.size_bytes)


class Group:
    """Files whose arrays of one name are one dataset."""

    def __init__(self, name: str, files: range, start: int) -> None:
        self.name = name
        self.files = files
        self.next = start  # the file whose rows are added
        self.datasets: dict[str, GrowingDataset] = {}
        self.is_ending = False

    def path_of(self, array: str) -> str:
        """Of the dataset of an array."""
        return "/".join(filter(None, (self.name, array)))
