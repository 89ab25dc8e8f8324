"""Where arrays go: HDF5.

What is named here is imported when first used: a worker that encodes chunks needs neither the sink nor h5py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmlease.lazy import lazily

if TYPE_CHECKING:
    from shmlease.hdf5.chunk_encoding import ChunkEncoder, Codec, EncodedChunk
    from shmlease.hdf5.chunking import ChunkPlan, Piece, PlannedChunk
    from shmlease.hdf5.provenance import Source, digest_file
    from shmlease.hdf5.recovery import Completed
    from shmlease.hdf5.sink import HDF5Sink
    from shmlease.hdf5.staging import output_path
    from shmlease.hdf5.verification import DatasetCheck, Mismatch, VerifyReport, verify

__all__ = [
    "ChunkEncoder",
    "ChunkPlan",
    "Codec",
    "Completed",
    "DatasetCheck",
    "EncodedChunk",
    "HDF5Sink",
    "Mismatch",
    "Piece",
    "PlannedChunk",
    "Source",
    "VerifyReport",
    "digest_file",
    "output_path",
    "verify",
]

_HOMES: Final = {
    "chunk_encoding": ("ChunkEncoder", "Codec", "EncodedChunk"),
    "chunking": ("ChunkPlan", "Piece", "PlannedChunk"),
    "provenance": ("Source", "digest_file"),
    "recovery": ("Completed",),
    "sink": ("HDF5Sink",),
    "staging": ("output_path",),
    "verification": ("DatasetCheck", "Mismatch", "VerifyReport", "verify"),
}

__getattr__, __dir__ = lazily(
    __name__, {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}
)
