"""A lease and its release, and how many of them several processes do at once."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing import managers, shared_memory
from multiprocessing.connection import Connection
from typing import Any, Final

import shmlease
from shmlease.verification.bench.timing import Figure, Measurement, figure_of, interleaved, machine

__all__ = ["measure_roundtrip", "measure_throughput"]

PAGE_BYTES: Final = 4096
PING_PONG: Final = "AF_UNIX ping-pong"
_ROUNDTRIP: Final = (
    "Wall time of taking one page of shared memory and giving it back, by one process that does nothing else: lease() and "
    "release(), unnamed (granted ahead) and named (one round trip); SharedMemory(create=True), close() and unlink(); the "
    "same of a SharedMemoryManager. A bare ping-pong of 4 bytes over an AF_UNIX SOCK_SEQPACKET socket between two "
    "processes is "
    "what one round trip to any server costs on this machine."
)
_THROUGHPUT: Final = (
    "Pages of shared memory taken, written and given back per second by all processes together, against the number of "
    "processes, each of which does nothing else: lease(), one store, release(); and SharedMemory(create=True), one store, "
    "close(), "
    "unlink()."
)


def measure_roundtrip(seconds: float) -> Measurement:
    """Measure, for `seconds` each."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    spawn = multiprocessing.get_context("spawn")
    echo = spawn.Process(target=_echo, args=(theirs,))
    echo.start()
    theirs.close()
    with shmlease.Registry(capacity="64MiB") as registry, managers.SharedMemoryManager() as manager, ours:

        def ping_pong() -> None:
            ours.send(b"ping")
            ours.recv(16)

        def stdlib() -> None:
            segment = shared_memory.SharedMemory(create=True, size=PAGE_BYTES)
            segment.close()
            segment.unlink()

        def managed() -> None:
            segment = manager.SharedMemory(PAGE_BYTES)
            segment.close()
            segment.unlink()

        figures = interleaved(
            {
                "lease, unnamed": lambda: registry.lease(shape=PAGE_BYTES, dtype="u1").release(),
                "lease, named": lambda: registry.lease("name", shape=PAGE_BYTES, dtype="u1").release(),
                "stdlib SharedMemory": stdlib,
                "SharedMemoryManager": managed,
                PING_PONG: ping_pong,
            },
            float(PAGE_BYTES),
            seconds,
        )
    echo.join()
    return Measurement("round trip", _ROUNDTRIP, "s", "bytes", PING_PONG, figures, machine())


def measure_throughput(clients: Sequence[int], seconds: float) -> Measurement:
    """Measure with each number of `clients`, for `seconds` each."""
    figures: list[Figure] = []
    with shmlease.Registry(capacity="256MiB") as registry:
        for count in clients:
            for subject, work in (("shmlease", _lease_pages), ("stdlib SharedMemory", _make_pages)):
                figures.append(_together(subject, work, registry.id, count, seconds))
    return Measurement("throughput", _THROUGHPUT, "1/s", "processes", "stdlib SharedMemory", figures, machine())


def _together(
    subject: str, work: Callable[..., None], registry: str, count: int, seconds: float, rounds: int = 3
) -> Figure:
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(count):
        ours, theirs = spawn.Pipe()
        processes.append(spawn.Process(target=work, args=(theirs, registry)))
        processes[-1].start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()  # it is ready
    rates = []
    for _ in range(rounds):
        for pipe in pipes:
            pipe.send(seconds / rounds)
        rates.append([sum(pipe.recv() for pipe in pipes)])
    for pipe in pipes:
        pipe.send(None)
    for process in processes:
        process.join()
    return figure_of(subject, float(count), rates)


def _lease_pages(pipe: Connection[Any, Any], registry: str) -> None:
    handle = shmlease.connect(registry)

    def once() -> None:
        with handle.lease(shape=PAGE_BYTES, dtype="u1", timeout=30) as lease:
            lease.array[0] = 1

    _work(pipe, once)


def _make_pages(pipe: Connection[Any, Any], registry: str) -> None:
    del registry

    def once() -> None:
        segment = shared_memory.SharedMemory(create=True, size=PAGE_BYTES)
        assert segment.buf is not None
        segment.buf[0] = 1
        segment.close()
        segment.unlink()

    _work(pipe, once)


def _work(pipe: Connection[Any, Any], once: Callable[[], None]) -> None:
    """Work for as long as told, and tell how often a second; until None comes."""
    once()
    pipe.send(None)
    while (seconds := pipe.recv()) is not None:
        count, begin = 0, time.perf_counter()
        while time.perf_counter() < begin + seconds:
            once()
            count += 1
        pipe.send(count / (time.perf_counter() - begin))


def _echo(end: socket.socket) -> None:
    while packet := end.recv(16):
        end.send(packet)
