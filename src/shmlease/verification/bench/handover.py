"""Hand-over of one array to another process and back to free."""

from __future__ import annotations

import contextlib
import multiprocessing
import secrets
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np

import shmlease
from shmlease.verification.bench.peers import PEERS, Peer, available
from shmlease.verification.bench.timing import Figure, Measurement, interleaved, machine

__all__ = ["MEMCPY", "QUANTIFIES", "measure_handover"]

MEMCPY: Final = "memory copy"
QUANTIFIES: Final = (
    "Wall time of one cycle, against the size of the array. A cycle: the producer copies a private array to where the "
    "consumer can read it and sends word through a multiprocessing.Pipe; the consumer opens it, reads the first and last "
    "element "
    "and a strided sum, lets go and answers; the producer frees. Both sides are processes of their own, and segments are "
    "recycled as each library does by default. The memory copy is one numpy copy of the same array within one process, by "
    "one thread."
)
_ROOM_BYTES: Final = 64 << 20


def _consume(pipe: Connection[Any, Any], registry: str, nbytes: int, tag: str) -> None:
    """The consumer: reads what it gets word of until None comes."""
    peers: dict[str, Peer] = {}
    while (request := pipe.recv()) is not None:
        subject, word = request
        if subject not in peers:
            peers[subject] = PEERS[subject][0](registry, nbytes, tag)
            if word is None:  # to be ready before the first cycle
                pipe.send(peers[subject].read(None) if subject == "iceoryx2" else 0.0)
                continue
        pipe.send(peers[subject].read(word))
    for peer in peers.values():
        peer.close()


def _cycle(subject: str, peer: Peer, array: np.ndarray[Any, Any], pipe: Connection[Any, Any]) -> Callable[[], None]:
    def cycle() -> None:
        pipe.send((subject, peer.send(array)))
        pipe.recv()
        peer.free()

    return cycle


def measure_handover(sizes_bytes: Sequence[int], seconds: float, subjects: Sequence[str] | None = None) -> Measurement:
    """Measure every installed peer, or `subjects`, at `sizes_bytes`, for `seconds` each."""
    resource_tracker.ensure_running()  # one for both sides: else the consumer's unlinks the producer's segments
    figures: list[Figure] = []
    for nbytes in sizes_bytes:
        figures += _at(nbytes, seconds, list(subjects or available()))
    return Measurement("hand-over", QUANTIFIES, "s", "bytes", "stdlib SharedMemory", figures, machine())


def _at(nbytes: int, seconds: float, subjects: list[str]) -> list[Figure]:
    array = np.random.default_rng(1).random(max(nbytes // 8, 1))
    target = np.empty_like(array)
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    tag = secrets.token_hex(4)
    with shmlease.Registry(capacity=max(8 * nbytes, _ROOM_BYTES)) as registry:
        consumer = spawn.Process(target=_consume, args=(theirs, registry.id, array.nbytes, tag))
        consumer.start()
        theirs.close()  # a consumer that fails is noticed
        peers: dict[str, Peer] = {}
        try:
            for subject in subjects:
                peers[subject] = PEERS[subject][0](registry.id, array.nbytes, tag)
            for subject in subjects:
                ours.send((subject, None))
                ours.recv()
            cycles: dict[str, Callable[[], object]] = {
                subject: _cycle(subject, peer, array, ours) for subject, peer in peers.items()
            }
            cycles[MEMCPY] = lambda: np.copyto(target, array)
            return interleaved(cycles, float(nbytes), seconds)
        finally:
            with contextlib.suppress(BrokenPipeError):
                ours.send(None)
            consumer.join()
            for peer in peers.values():
                peer.close()
