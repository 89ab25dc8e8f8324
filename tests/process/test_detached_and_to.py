"""Over real processes: arrays that carry leases, tickets that end with their receiver, writers that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

import shmlease
from rig.actor import Actor
from rig.until import until
from shmlease.client import forked_leases
from shmlease.system.directory import RegistryDirectory


@pytest.fixture
def registry() -> Iterator[shmlease.Registry]:
    with shmlease.Registry("16MiB") as registry:
        yield registry


def in_use(registry: shmlease.Registry) -> int:
    return sum(count for state, count in registry.statistics().segments.items() if state in ("filling", "published"))


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)


def test_idle_process_tells_of_the_death_of_a_detached_array_at_once(registry: shmlease.Registry) -> None:
    with Actor(registry.id) as holder:
        with registry.share(np.arange(1000), "a"):
            holder("kept = [registry.attach('a').detach()]; float(kept[0].sum())")
        assert in_use(registry) == 1
        holder("import threading; threading.Timer(0.2, kept.clear).start()")
        until(lambda: in_use(registry) == 0, what="the end of the array")


def test_interpreter_that_ends_with_detached_arrays_says_nothing(registry: shmlease.Registry) -> None:
    done = run("""
import numpy as np, shmlease
with shmlease.Registry("4MiB") as registry:
    inner = registry.share(np.arange(5)).detach()
    kept = {"array": inner}
    kept["self"] = kept
outer = shmlease.connect().share(np.arange(10)).detach()
print(int(inner.sum() + outer.sum()))
""")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "55", "")
    until(lambda: in_use(registry) == 0, what="the end of what the interpreter held")


def test_fork_with_a_detached_array_keeps_its_memory_from_being_used_again(registry: shmlease.Registry) -> None:
    array = registry.share(np.arange(1000)).detach()
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    try:
        del array
        until(lambda: in_use(registry) == 0)
        assert registry.statistics().counters["retired"] == 1, "the child still maps it"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_ticket_ends_with_the_process_that_it_is_for(registry: shmlease.Registry) -> None:
    late_s = []
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as receiver:
            with registry.share(np.arange(1000)) as lease:
                lease.ticket(to=receiver.pid, ttl=600)
            assert in_use(registry) == 1
            receiver.kill()
            receiver.wait()
            begun = time.monotonic()
            until(lambda: in_use(registry) == 0, what="the end of the ticket")
            late_s.append(time.monotonic() - begun)
    assert registry.statistics().counters["receivers died"] == 10
    print(f"median {sorted(late_s)[5] * 1e3:.1f} ms, longest {max(late_s) * 1e3:.1f} ms")


def test_ticket_for_a_process_survives_a_takeover_and_ends_with_it(registry: shmlease.Registry) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as receiver:
        with registry.share(np.arange(1000)) as lease:
            lease.ticket(to=receiver.pid, ttl=600)
        row = RegistryDirectory(registry.id).read_ledger().registry
        assert row is not None
        os.kill(row.identity.pid, signal.SIGKILL)
        assert in_use(registry) == 1
        receiver.kill()
        receiver.wait()
        until(lambda: in_use(registry) == 0, what="the end of the ticket")


def test_waiter_learns_of_a_killed_writer_at_once(registry: shmlease.Registry) -> None:
    waits = """
import time
try: registry.attach('a', timeout=None)
except shmlease.AbandonedError as error: told = (error.pid, time.monotonic())
told
"""
    late_s = []
    with Actor(registry.id) as reader:
        for _ in range(5):
            with Actor(registry.id) as writer:
                writer("lease = registry.lease('a', shape=5); None")
                reader.begin(waits)
                until(lambda: registry.statistics().waiting == 1)
                killed = time.monotonic()
                writer.kill()
                pid, at = reader.result()
                assert pid == writer.pid
                late_s.append(at - killed)
    print(f"median {sorted(late_s)[2] * 1e3:.1f} ms, longest {max(late_s) * 1e3:.1f} ms")


def test_fork_says_nothing_of_an_array_that_was_dropped_a_moment_ago(
    registry: shmlease.Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept, dropped = registry.share(np.arange(3)).detach(), registry.share(np.arange(3)).detach()
    holds = forked_leases.detached_holds()
    assert len(holds) == 2
    del dropped
    until(lambda: in_use(registry) == 1)
    monkeypatch.setattr(forked_leases, "detached_holds", lambda: holds)
    forked_leases._tell_of_fork()
    registry.statistics()
    assert "refused" not in caplog.text
    assert kept.sum() == 3
