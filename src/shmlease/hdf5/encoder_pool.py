"""Chunks encoded side by side, and handed on in the order in which they were given.

Shuffling, deflating and checksumming let go of the interpreter's lock, so that two threads encode 1.9 times what one does.
Filters that run inside HDF5 (lzf, zstd, blosc2) hold HDF5's lock instead: for them threads gain nothing, processes do.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from shmlease.hdf5.chunk_encoding import Bytes, ChunkEncoder, EncodedChunk

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["EncoderPool"]

_MOST_THREADS = 8  # 8 encode some 6 GB/s, more than one file takes
Store = Callable[[EncodedChunk, memoryview], None]


class EncoderPool:
    """Encodes in `threads` threads, of which the caller's is one.

    The caller encodes, too, whenever the others have enough to do. It would have to wait otherwise, and to be woken up for
    each chunk, which on a virtual machine costs a tenth of encoding one.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._others = (threads or min(len(os.sched_getaffinity(0)), _MOST_THREADS)) - 1
        self._executor: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[Future[EncodedChunk], Bytes, Store]] = deque()
        self._free: list[Bytes] = []

    def encode(self, encoder: ChunkEncoder, pieces: Sequence[np.ndarray[Any, Any]], store: Store) -> None:
        """Encode `pieces`, then call `store` with the chunk and its payload, at the latest in `drain`.

        The memory of `pieces` is in use until `store` is called.
        """
        from concurrent.futures import Future, ThreadPoolExecutor  # noqa: PLC0415 - chunks that come encoded need none

        out = self._buffer(encoder.codec.bound_bytes)
        waiting = sum(not future.done() for future, _, _ in self._pending)
        if waiting < 2 * self._others:  # one that each other thread encodes, and one that it encodes next
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._others, thread_name_prefix="shmlease-encoder")
            future = self._executor.submit(encoder.encode, pieces, out)
        else:
            future = Future()
            future.set_result(encoder.encode(pieces, out))
        self._pending.append((future, out, store))
        # an order that one slow chunk holds up must not gather chunks without end
        while self._pending and (self._pending[0][0].done() or len(self._pending) > 4 * (self._others + 1)):
            self._store_oldest()

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
