"""Where arrays go: HDF5."""

from __future__ import annotations

from leasehold.sinks.chunks import ChunkEncoder, Codec, EncodedChunk, encode_chunk
from leasehold.sinks.hdf5 import HDF5Sink
from leasehold.sinks.plan import ChunkPlan, Piece, PlannedChunk
from leasehold.sinks.provenance import Source, digest_file
from leasehold.sinks.recovery import Completed
from leasehold.sinks.verification import DatasetCheck, Mismatch, VerifyReport, verify

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
    "verify",
]
