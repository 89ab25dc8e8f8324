"""The socket under malformed, oversized, truncated and out-of-order messages: everybody else is served undisturbed."""

from __future__ import annotations

import multiprocessing
import random
import socket

import numpy as np
import pytest

import shmlease
from rig.site import Site
from shmlease.core import messages as m
from shmlease.core.wire import encode

# Not Close, into which damage may turn a Ping all the same: so the fuzz comes from a process that may not end the registry.
MESSAGES = [
    lambda rng, seq, some: m.Lease(
        seq, some(), rng.choice([None, "a", "b"]), rng.choice([0, 4096, 2**40]), 8, b"", "", 0, 0
    ),
    lambda rng, seq, some: m.Attach(seq, some(), "a", "", 0, rng.choice([0, 10**9])),
    lambda rng, seq, some: m.Inherit(seq, some(), some(), ""),
    lambda rng, seq, some: m.Redeem(seq, some()),
    lambda rng, seq, some: m.Decline(seq, some(), 0),
    lambda rng, seq, some: m.Expose(seq, some()),
    lambda rng, seq, some: m.Statistics(seq),
    lambda rng, seq, some: m.Trim(seq),
    lambda rng, seq, some: m.Ping(seq),
    lambda rng, seq, some: m.Ring(seq),
    lambda rng, seq, some: m.Hello(seq, rng.choice([0, 1, 7]), rng.randbytes(16), rng.choice([0, 1, 2, 99])),
]


def packet(rng: random.Random) -> bytes:
    """One packet: whole and out of order, damaged, cut short, too long, or noise."""

    def some() -> int:
        return rng.choice([rng.randrange(1, 9) << 40 | rng.randrange(1, 40), rng.randrange(2**63)])

    messages = [rng.choice(MESSAGES)(rng, rng.randrange(1, 10**6), some) for _ in range(rng.choice([1, 1, 1, 5, 64, 65]))]
    data = bytearray(encode(messages))
    kind = rng.random()
    if kind < 0.3:
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind < 0.45:
        del data[rng.randrange(1, len(data) + 1) :]
    elif kind < 0.5:
        data += rng.randbytes(rng.choice([1, 70_000]))
    elif kind < 0.55:
        data = bytearray(rng.randbytes(rng.randrange(1, 500)))
    return bytes(data)


def fuzz(registry: shmlease.Registry, site: Site, count: int, seed: int) -> None:
    """Send `count` packets on connections that come and go; others go on working all the while, and none waits long."""
    rng = random.Random(seed)
    connections: list[socket.socket] = []
    pid = site.pid
    with registry.share(np.arange(1000), "undisturbed") as lease:
        for number in range(count):
            if len(connections) < 5:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                connection.connect(site.directory.socket_path)
                connection.setblocking(False)
                connections.append(connection)
                if rng.random() < 0.9:
                    connection.send(encode([m.Hello(1, m.PROTOCOL, rng.randbytes(16), 0)]))
            connection = rng.choice(connections)
            try:
                connection.send(packet(rng))
                if rng.random() < 0.5:
                    connection.recv(65536)
            except BlockingIOError:
                pass
            except OSError:
                connections.remove(connection)
                connection.close()
            if number % 100 == 0:
                with registry.attach("undisturbed", timeout=0) as reader:
                    assert reader.array.sum() == 499_500
        for connection in connections:
            connection.close()
        assert lease.array.sum() == 499_500
        figures = registry.statistics()
        assert figures.epoch == 1
        assert site.pid == pid, "it was never succeeded"
    # the leases that the fuzz was granted are this process's: they end with it
    snapshot = site.ledger()
    assert all(held.segment in snapshot.segments for held in snapshot.leases.values())


def in_a_child(registry: shmlease.Registry, site: Site, count: int, seed: int) -> None:
    child = multiprocessing.get_context("fork").Process(target=fuzz, args=(registry, site, count, seed))
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.filterwarnings("ignore:registry .* was closed while:shmlease.errors.LeaseWarning")
def test_registry_serves_everybody_else_undisturbed(registry: shmlease.Registry, site: Site) -> None:
    in_a_child(registry, site, 3000, seed=1)


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:registry .* was closed while:shmlease.errors.LeaseWarning")
def test_registry_serves_everybody_else_undisturbed_at_length(registry: shmlease.Registry, site: Site) -> None:
    in_a_child(registry, site, 100_000, seed=2)
