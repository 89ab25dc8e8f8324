"""Chunks encoded one after another in memory of a worker, then handed over in a segment just as large as they are."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shmlease.hdf5.chunk_encoding import EncodedChunk
from shmlease.hdf5.columns import AnyEncoder
from shmlease.ingestion.private_memory import Memory
from shmlease.ingestion.tasks import LEASE_TIMEOUT_S, TICKET_TTL_S, Encoded
from shmlease.text.text_buffer import Bytes

if TYPE_CHECKING:
    from shmlease.client.lease import Lease

__all__ = ["SENT_BYTES", "EncodedChunks", "lease_bytes"]

_STEP_BYTES: Final = 128 << 10
# Payloads up to here are sent: 64 KiB through the socket take 30 us, a lease, its ticket and its redemption ten times that.
SENT_BYTES: Final = 64 << 10


class EncodedChunks:
    """Takes chunks, encodes them, and gives them together.

    Parameters
    ----------
    encoder : encoder of chunks
    scratch : uint8 array
        Room for one encoded chunk.
    """

    def __init__(self, registry: Memory, encoder: AnyEncoder, scratch: Bytes) -> None:
        self.codec = encoder.codec
        self._registry = registry
        self._encoder = encoder
        self._scratch = scratch
        self._chunks: list[tuple[int, EncodedChunk]] = []
        self._payloads: list[bytes] = []

    def add(self, index: int, pieces: list[np.ndarray[Any, Any]]) -> None:
        """Encode the chunk of this index in the dataset, of rows in one or more arrays."""
        chunk = self._encoder.encode(pieces, self._scratch)
        self._chunks.append((index, chunk))
        self._payloads.append(self._scratch[: chunk.size_bytes].tobytes())

    def finish(self) -> Encoded | None:
        """All of them; None if there are none. Small ones are in no segment."""
        if not self._chunks:
            return None
        places = list(itertools.accumulate(map(len, self._payloads), initial=0))
        chunks = tuple((index, place, chunk) for (index, chunk), place in zip(self._chunks, places, strict=False))
        if places[-1] <= SENT_BYTES:
            return Encoded(None, chunks, b"".join(self._payloads))
        with lease_bytes(self._registry, places[-1]) as lease:
            for place, payload in zip(places, self._payloads, strict=False):
                lease.array[place : place + len(payload)] = np.frombuffer(payload, np.uint8)
            return Encoded(lease.ticket(ttl=TICKET_TTL_S), chunks)


def lease_bytes(registry: Memory, size: int) -> Lease:
    """A lease for a payload."""
    steps = -(-size // _STEP_BYTES)  # of few sizes, so that one is used again for another
    return registry.lease(shape=(steps * _STEP_BYTES,), dtype=np.uint8, timeout=LEASE_TIMEOUT_S)
