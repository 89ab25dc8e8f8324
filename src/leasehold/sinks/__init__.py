"""Where arrays go: HDF5."""

from __future__ import annotations

from leasehold.sinks.chunks import ChunkEncoder, Codec, EncodedChunk, encode_chunk
from leasehold.sinks.hdf5 import HDF5Sink
from leasehold.sinks.plan import ChunkPlan, Piece, PlannedChunk
from leasehold.sinks.provenance import Source, digest_file
from leasehold.sinks.recovery import Completed

__all__ = [
    "ChunkEncoder",
    "ChunkPlan",
    "Codec",
    "Completed",
    "EncodedChunk",
    "HDF5Sink",
    "Piece",
    "PlannedChunk",
    "Source",
    "digest_file",
    "encode_chunk",
]
