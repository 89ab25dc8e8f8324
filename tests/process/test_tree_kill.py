"""Everything is SIGKILLed, the registry too: the next start leaves /dev/shm clean of it, and touches nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmlease
from rig.actor import Actor
from rig.site import Site, has_died
from rig.until import until
from shmlease.system.reclaim import sweep

TREE = """
import multiprocessing, os, sys, time
import numpy as np
import shmlease

def say(word):
    # in one write: print may make two, of the word and of the end of the line, between which another process writes
    os.write(1, f"{word}\\n".encode())

def child(ticket):
    registry = shmlease.connect()
    with registry.redeem(ticket) as lease:
        own = registry.share(lease.array + 1, f"of {os.getpid()}")
        say("child")
        time.sleep(600)

if __name__ == "__main__":
    registry = shmlease.Registry("16MiB")
    lease = registry.share(np.arange(1000), "parent's")
    lease.segment
    context = multiprocessing.get_context(sys.argv[1])
    children = [context.Process(target=child, args=(lease.ticket(),)) for _ in range(2)]
    for process in children:
        process.start()
    unpublished = registry.lease("unpublished", shape=1000)
    say(registry.id)
    time.sleep(600)
"""


@pytest.fixture(params=["spawn", "fork", "forkserver"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Site]]:
    """A program with a registry and two children, each with leases; all in a process group of their own."""
    program = tmp_path / "program.py"
    program.write_text(TREE)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(program), request.param], stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stdout is not None
    words = [process.stdout.readline().strip() for _ in range(3)]
    yield process, Site(next(word for word in words if word != "child"))
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.stdout.close()
    process.wait()


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_group_killed_without_its_registry_is_cleaned_up_by_the_registry(tree: tuple[subprocess.Popen[str], Site]) -> None:
    """The registry is in a session of its own: it sees them all die, frees everything, and ends."""
    process, site = tree
    assert len(site.files()) >= 4
    kill_group(process)
    until(site.is_gone, what="the end of the registry")


def test_whole_tree_killed_is_cleaned_up_by_the_next_registry(tree: tuple[subprocess.Popen[str], Site]) -> None:
    process, site = tree
    os.kill(site.pid, signal.SIGSTOP)  # so that it cannot clean up first
    kill_group(process)
    os.kill(site.pid, signal.SIGKILL)
    until(lambda: not site.directory.is_served())
    until(lambda: all(has_died(client.identity.pid) for client in site.ledger().clients.values()))
    assert len(site.files()) >= 4
    assert not site.is_gone()
    Path("/dev/shm/shmlease-not-ours").touch()
    try:
        with shmlease.Registry("16MiB"):
            assert site.is_gone()
            assert Path("/dev/shm/shmlease-not-ours").exists()
    finally:
        Path("/dev/shm/shmlease-not-ours").unlink()


def test_whole_tree_killed_but_one_is_kept_for_that_one(tree: tuple[subprocess.Popen[str], Site]) -> None:
    process, site = tree
    with Actor(site.directory.id) as survivor:
        survivor('lease = registry.attach("parent\'s")')
        pid = site.pid
        os.kill(pid, signal.SIGSTOP)
        kill_group(process)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not site.directory.is_served())
        assert site.directory.id not in sweep()
        assert survivor("int(lease.array.sum())") == 499_500
        assert survivor("registry.statistics().epoch") == 2, "it elects a successor, which reclaims from the dead"
        assert len(site.files()) == 1
        survivor("lease.release()")
    until(site.is_gone, what="the end of the registry whose last client has gone")


def test_owner_killed_leaves_its_children_working_and_then_nothing() -> None:
    with Actor() as owner:
        id = owner("registry = shmlease.Registry('16MiB'); lease = registry.share(np.arange(10), 'a'); registry.id")
        site = Site(id)
        with Actor(id) as child:
            child("lease = registry.attach('a')")
            owner.kill()
            assert child("int(lease.array.sum())") == 45
            assert child("registry.share(np.arange(3), 'b').release(); lease.release()") is None
            assert not site.is_gone()
        until(site.is_gone, what="the end of the registry")


def test_owner_killed_with_a_ticket_in_flight_leaves_nothing_after_its_time() -> None:
    with Actor() as owner:
        id = owner("registry = shmlease.Registry('16MiB'); registry.share(np.arange(10)).ticket(ttl=0.3); registry.id")
        owner.kill()
        until(Site(id).is_gone, what="the end of the registry")


def test_owner_killed_while_its_registry_starts_leaves_nothing() -> None:
    """At random moments of the start; a directory without a ledger is removed by the next start."""
    for milliseconds in range(0, 120, 12):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", "import shmlease\nshmlease.Registry('4MiB')\ninput()"]
        )
        before = set(os.listdir("/dev/shm"))
        try:
            process.wait(0.05 + milliseconds / 1000)
        except subprocess.TimeoutExpired:
            pass
        process.kill()
        process.wait()
        made = set(os.listdir("/dev/shm")) - before
        until(lambda made=made: sweep() is not None and not made & set(os.listdir("/dev/shm")), what=f"the end of {made}")


def test_starts_side_by_side_do_not_disturb_each_other() -> None:
    """Each start sweeps: it must not take what another has just begun for abandoned."""
    code = "import shmlease\nfor _ in range(8):\n    with shmlease.Registry('4MiB'): pass"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        _, words = process.communicate()
        assert (process.returncode, words) == (0, "")


def test_directory_just_made_is_not_lost_to_one_who_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    from shmlease.system.directory import RegistryDirectory

    create, times = RegistryDirectory.create, 0

    def create_and_be_swept(self: RegistryDirectory) -> None:
        nonlocal times
        create(self)
        times += 1
        if times <= 3:
            assert self.id in sweep()

    monkeypatch.setattr(RegistryDirectory, "create", create_and_be_swept)
    with shmlease.Registry("4MiB") as registry:
        assert registry.statistics().epoch == 1
    assert times == 4
