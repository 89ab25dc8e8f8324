"""Where arrays go: HDF5.

What is named here is imported when first used: a worker that encodes chunks needs neither the sink nor h5py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmlease.lazy import lazily

if TYPE_CHECKING:
    from shmlease.sinks.chunks import ChunkEncoder, Codec, EncodedChunk, encode_chunk
    from shmlease.sinks.hdf5 import HDF5Sink
    from shmlease.sinks.partial import output_place
    from shmlease.sinks.plan import ChunkPlan, Piece, PlannedChunk
    from shmlease.sinks.provenance import Source, digest_file
    from shmlease.sinks.recovery import Completed
    from shmlease.sinks.verification import DatasetCheck, Mismatch, VerifyReport, verify

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
    "encode_chunk",
    "output_place",
    "verify",
]

_HOMES: Final = {
    "chunks": ("ChunkEncoder", "Codec", "EncodedChunk", "encode_chunk"),
    "hdf5": ("HDF5Sink",),
    "partial": ("output_place",),
    "plan": ("ChunkPlan", "Piece", "PlannedChunk"),
    "provenance": ("Source", "digest_file"),
    "recovery": ("Completed",),
    "verification": ("DatasetCheck", "Mismatch", "VerifyReport", "verify"),
}

__getattr__, __dir__ = lazily(
    __name__, {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}
)
