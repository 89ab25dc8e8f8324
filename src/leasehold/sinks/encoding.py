"""Chunks encoded in threads, and handed on in the order in which they were given.

Shuffling, deflating and checksumming let go of the interpreter's lock, so that two threads encode 1.9 times what one does.
Filters that run inside HDF5 (lzf, zstd, blosc2) hold HDF5's lock instead: for them threads gain nothing, processes do.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from leasehold.sinks.chunks import Bytes, ChunkEncoder, EncodedChunk

__all__ = ["EncodePool"]

_MOST_THREADS = 8  # 8 encode some 6 GB/s, more than one file takes; each holds buffers of four chunks
Store = Callable[[EncodedChunk, memoryview], None]


class EncodePool:
    """Encodes in `threads` threads; with 1, in the thread that calls."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        self._limit = 2 * self._threads  # enough that no encoder waits while a chunk is stored
        self._pending: deque[tuple[Future[EncodedChunk], Bytes, Store]] = deque()
        self._free: list[Bytes] = []
        self._executor: ThreadPoolExecutor | None = None

    def encode(self, encoder: ChunkEncoder, pieces: Sequence[np.ndarray[Any, Any]], store: Store) -> None:
        """Encode `pieces`, then call `store` with the chunk and its payload, at the latest in `drain`.

        The memory of `pieces` is in use until `store` is called.
        """
        if self._threads == 1:
            out = self._buffer(encoder.codec.bound_bytes)
            chunk = encoder.encode(pieces, out)
            store(chunk, out[: chunk.size_bytes].data)
            self._free.append(out)
            return
        if len(self._pending) == self._limit:
            self._store_oldest()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="leasehold-encoder")
        out = self._buffer(encoder.codec.bound_bytes)
        self._pending.append((self._executor.submit(encoder.encode, pieces, out), out, store))

    def drain(self) -> None:
        """Store all that was given."""
        while self._pending:
            self._store_oldest()

    def close(self) -> None:
        """Drop what is not stored, and end the threads."""
        for future, _, _ in self._pending:
            future.cancel()
        self._pending.clear()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None

    def _store_oldest(self) -> None:
        future, out, store = self._pending.popleft()
        chunk = future.result()
        store(chunk, out[: chunk.size_bytes].data)
        self._free.append(out)

    def _buffer(self, size_bytes: int) -> Bytes:
        while self._free:
            out = self._free.pop()
            if out.size >= size_bytes:
                return out
        return np.empty(size_bytes, np.uint8)
