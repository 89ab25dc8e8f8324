"""What one lease and release costs, against the number of live leases; and what a fresh large segment costs.

Quantified: (1) the median wall time of `lease` + `release` of one page, unnamed (granted ahead) and named (one round trip),
while 10, 1,000 and 100,000 other leases are live, as a ratio to the time at 10; the live leases are held by other
processes, since one process may map at most vm.max_map_count regions. A bare AF_UNIX ping-pong between two processes in the
same run is the unit of the last column. (2) The wall time of a fresh 64 MiB segment, reserved and written once, in memory
copies of 64 MiB, with huge pages (MADV_COLLAPSE) and without; and of a recycled one.

    python benchmarks/leases.py [--most 100000] [--seconds 2]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np

import shmlease
from shmlease.system import mapping
from shmlease.units import format_duration

PER_HOLDER = 25_000


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


def median_s(action: Callable[[], object], seconds: float) -> float:
    samples = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        action()
        samples.append(time.perf_counter() - begin)
    return statistics.median(samples)


def ping_pong_s(seconds: float) -> float:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = multiprocessing.get_context("fork").Process(target=echo, args=(theirs,))
    process.start()
    theirs.close()

    def once() -> None:
        ours.send(b"ping")
        ours.recv(4096)

    result = median_s(once, seconds)
    ours.close()
    process.kill()
    process.join()
    return result


def live_leases(most: int, seconds: float) -> None:
    unit = ping_pong_s(seconds)
    print(f"bare ping-pong {format_duration(unit)}")
    print(f"{'live leases':>12} {'unnamed':>10} {'of 10':>7} {'named':>10} {'of 10':>7} {'unnamed in ping-pongs':>22}")
    first: tuple[float, float] | None = None
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
            unnamed = median_s(lambda: registry.lease(shape=1).release(), seconds)
            named = median_s(lambda: registry.lease("one", shape=1).release(), seconds)
            for process, pipe in holders:
                pipe.send(None)
                process.join()
        first = first or (unnamed, named)
        print(
            f"{count:>12,} {format_duration(unnamed):>10} {unnamed / first[0]:>6.2f}x {format_duration(named):>10} "
            f"{named / first[1]:>6.2f}x {unnamed / unit:>21.2f}x"
        )


def fresh_segments(rounds: int = 9) -> None:
    size_bytes = 64 << 20
    source = np.random.default_rng(1).random(size_bytes // 8)
    target = np.empty_like(source)
    np.copyto(target, source)
    memcpy = statistics.median(timed(lambda: np.copyto(target, source)) for _ in range(rounds))

    def fill(registry: shmlease.Registry) -> float:
        begin = time.perf_counter()
        lease = registry.lease(shape=source.shape)
        np.copyto(lease.array, source)
        elapsed = time.perf_counter() - begin
        lease.release()
        return elapsed

    results = {}
    for title, warm in (("fresh", 0), ("recycled", None)):
        with shmlease.Registry(capacity="512MiB", warm=warm) as registry:
            fill(registry)
            results[title] = statistics.median(fill(registry) for _ in range(rounds))
    collapse = mapping._MADV_COLLAPSE
    mapping._MADV_COLLAPSE = -1  # a system that has no such advice: the fallback
    with shmlease.Registry(capacity="512MiB", warm=0) as registry:
        fill(registry)
        results["fresh, small pages"] = statistics.median(fill(registry) for _ in range(rounds))
    mapping._MADV_COLLAPSE = collapse
    print(f"64 MiB, one memory copy {format_duration(memcpy)}; leased and written once, in memory copies:")
    for title, seconds in results.items():
        print(f"{title:>20} {seconds / memcpy:>6.2f}x")


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=100_000, help="live leases at most")
    parser.add_argument("--seconds", type=float, default=2.0, help="per figure")
    options = parser.parse_args()
    fresh_segments()
    live_leases(options.most, options.seconds)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
