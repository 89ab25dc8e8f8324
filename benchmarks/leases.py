"""What one lease and release costs, against the number of live leases; and what a fresh large segment costs.

Quantified: (1) the median wall time of `lease` + `release` of one page, unnamed (granted ahead) and named (one round trip),
while 10, 1,000 and 100,000 other leases are live, as a ratio to the time at 10; the live leases are held by other
processes, since one process may map at most vm.max_map_count regions. A bare AF_UNIX ping-pong between two processes in the
same run is the reference. (2) The wall time of a fresh 64 MiB segment, reserved and written once, in memory
copies of 64 MiB, with huge pages (MADV_COLLAPSE) and without; and of a recycled one.

    python benchmarks/leases.py [--most 100000] [--seconds 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from unittest import mock

import msgspec
import numpy as np

import shmlease
from shmlease.system import page_reservation
from shmlease.units import parse_bytes
from shmlease.verification.bench.report import print_or_store
from shmlease.verification.bench.timing import Figure, Measurement, figure_of, interleaved, machine

PER_HOLDER = 25_000
LIVE = (
    "Wall time of lease() and release() of one page, unnamed (granted ahead) and named (one round trip), against the "
    "number of leases that other processes hold meanwhile. A bare ping-pong of 4 bytes over an AF_UNIX SOCK_SEQPACKET "
    "socket between two processes is what one round trip to any server costs."
)
FRESH = (
    "Wall time of leasing a segment, writing all of it once, and releasing it: a fresh one in huge pages "
    "(MADV_COLLAPSE) and in small ones, and one that is used again; beside one numpy copy of as much within one process."
)
COPY = "memory copy"
PING_PONG = "AF_UNIX ping-pong"


def hold(registry: str, count: int, pipe: Connection) -> None:
    """Hold `count` leases until told to stop."""
    handle = shmlease.connect(registry)
    leases = [handle.lease(shape=1, timeout=60) for _ in range(count)]
    pipe.send(len(leases))
    pipe.recv()
    for lease in leases:
        lease.release()


def echo(end: socket.socket) -> None:
    while packet := end.recv(4096):
        end.send(packet)


def ping_pong(seconds: float) -> list[Figure]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = multiprocessing.get_context("fork").Process(target=echo, args=(theirs,))
    process.start()
    theirs.close()

    def once() -> None:
        ours.send(b"ping")
        ours.recv(4096)

    figures = interleaved({PING_PONG: once}, 0, seconds)
    ours.close()
    process.kill()
    process.join()
    return figures


def live_leases(most: int, seconds: float) -> Measurement:
    (unit,) = ping_pong(seconds)
    figures: list[Figure] = []
    spawn = multiprocessing.get_context("spawn")
    for count in [n for n in (10, 1_000, 100_000) if n <= most]:
        with shmlease.Registry(capacity="2GiB") as registry:
            holders = []
            for start in range(0, count, PER_HOLDER):
                ours, theirs = spawn.Pipe()
                process = spawn.Process(target=hold, args=(registry.id, min(PER_HOLDER, count - start), theirs))
                process.start()
                holders.append((process, ours))
            for _, pipe in holders:
                pipe.recv()
            cycles: dict[str, Callable[[], object]] = {
                "lease, unnamed": lambda registry=registry: registry.lease(shape=1).release(),
                "lease, named": lambda registry=registry: registry.lease("one", shape=1).release(),
            }
            figures += interleaved(cycles, count, seconds)
            for process, pipe in holders:
                pipe.send(None)
                process.join()
        figures.append(msgspec.structs.replace(unit, at=float(count)))
    return Measurement("live leases", LIVE, "s", "live leases", PING_PONG, figures, machine())


def fresh_segments(size_bytes: int, rounds: int = 9) -> Measurement:
    source = np.random.default_rng(1).random(size_bytes // 8)
    target = np.empty_like(source)

    def fill(registry: shmlease.Registry) -> None:
        with registry.lease(shape=source.shape) as lease:
            np.copyto(lease.array, source)

    def figure(subject: str, action: Callable[[], object]) -> Figure:
        action()
        return figure_of(subject, size_bytes, [[timed(action)] for _ in range(rounds)])

    figures = [figure(COPY, lambda: np.copyto(target, source))]
    for title, warm in (("fresh", 0), ("recycled", None)):
        with shmlease.Registry(capacity=8 * size_bytes, warm=warm) as registry:
            figures.append(figure(title, lambda registry=registry: fill(registry)))
    # a system that has no such advice: the fallback
    with (
        mock.patch.object(page_reservation, "_MADV_COLLAPSE", -1),
        shmlease.Registry(capacity=8 * size_bytes, warm=0) as registry,
    ):
        figures.append(figure("fresh, small pages", lambda: fill(registry)))
    return Measurement("fresh segments", FRESH, "s", "bytes", COPY, figures, machine())


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=100_000, help="live leases at most")
    parser.add_argument("--seconds", type=float, default=2.0, help="per figure")
    parser.add_argument("--size", default="64MiB", help="of the fresh segment")
    parser.add_argument("--json", default="", help="write the measurements here, for benchmarks/report.py")
    options = parser.parse_args()
    measurements = [
        live_leases(options.most, options.seconds),
        fresh_segments(parse_bytes(options.size)),
    ]
    print_or_store(measurements, options.json)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
