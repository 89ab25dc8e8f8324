"""Chunks encoded side by side and stored in order."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from shmlease.hdf5.chunk_encoding import ChunkEncoder, Codec, EncodedChunk
from shmlease.hdf5.encoder_pool import EncoderPool
from shmlease.hdf5.layout import Grid

ROWS = np.arange(640)


class Held(ChunkEncoder):
    """An encoder whose first chunk waits until the test lets it go, in whatever thread it is encoded."""

    def __init__(self) -> None:
        super().__init__(Codec(ROWS.dtype, Grid((), (8,)), "gzip"))
        self.gate = threading.Event()
        self.threads: set[str] = set()

    def encode(self, pieces: Sequence[np.ndarray] | np.ndarray, out: np.ndarray) -> EncodedChunk:
        self.threads.add(threading.current_thread().name)
        if pieces[0][0] == 0:
            assert self.gate.wait(60)
        return super().encode(pieces, out)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_chunks_are_stored_in_the_order_in_which_they_were_given(threads: int) -> None:
    encoder, stored = Held(), []
    encoder.gate.set()
    pool = EncoderPool(threads)
    for start in range(0, len(ROWS), 8):
        pool.encode(encoder, [ROWS[start : start + 8]], lambda chunk, _, start=start: stored.append((start, chunk)))
    pool.drain()
    pool.close()
    assert [start for start, _ in stored] == list(range(0, len(ROWS), 8))
    assert all(chunk.data_bytes == 64 for _, chunk in stored)


def test_one_thread_is_that_of_the_caller() -> None:
    encoder = Held()
    encoder.gate.set()
    pool = EncoderPool(1)
    pool.encode(encoder, [ROWS[:8]], lambda *_: None)
    assert encoder.threads == {threading.current_thread().name}


def test_a_slow_chunk_holds_up_the_others_but_not_their_number() -> None:
    encoder, stored = Held(), []
    pool = EncoderPool(2)
    given = 0
    for start in range(0, 8 * 8, 8):  # as many as may wait
        pool.encode(encoder, [ROWS[start : start + 8]], lambda *_: stored.append(1))
        given += 1
    assert not stored
    releasing = threading.Timer(0, encoder.gate.set)
    releasing.start()
    pool.encode(encoder, [ROWS[64:72]], lambda *_: stored.append(1))  # waits for the slow one
    releasing.join()
    assert stored
    pool.drain()
    assert len(stored) == given + 1
    pool.close()


def test_an_error_of_an_encoder_reaches_the_caller_and_drops_the_rest() -> None:
    class Failing(Held):
        def encode(self, pieces: Sequence[np.ndarray] | np.ndarray, out: np.ndarray) -> EncodedChunk:
            raise MemoryError

    pool, encoder = EncoderPool(2), Failing()

    def encode_one() -> None:
        pool.encode(encoder, [ROWS[:8]], lambda *_: None)
        pool.drain()

    with pytest.raises(MemoryError):
        encode_one()
    pool.close()
