"""Fork, spawn and forkserver: a child takes leases of its own, holds nothing of its parent's, and releases
nothing of it.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmlease
from rig.actor import Actor
from rig.site import Site
from rig.until import until
from shmlease.integrations import calls, own_registry

StartActor = Callable[..., Actor]


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns in a forked child; its exception is raised here."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = (False, work())
        except BaseException as error:
            answer = (True, error)
        os.write(writing, pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    failed, value = pickle.loads(data)
    if failed:
        raise value
    return value


def test_forked_child_reads_what_its_parent_leases(registry: shmlease.Registry) -> None:
    with registry.share(np.arange(100)) as lease:
        assert in_child(lambda: int(lease.array.sum())) == 4950
        assert lease.array.sum() == 4950


def test_forked_child_writes_what_its_parent_has_not_published(registry: shmlease.Registry) -> None:
    with registry.lease(shape=10, dtype="i8") as lease:
        lease.array[:] = 0

        def write() -> None:
            lease.array[3] = 7

        in_child(write)
        assert lease.array[3] == 7


def test_forked_child_is_a_client_of_its_own(registry: shmlease.Registry) -> None:
    with registry.share(np.arange(10)) as lease:
        mine = registry._link.session.client

        def work() -> tuple[int, int, int]:
            lease.array.sum()
            figures = registry.statistics()
            return (
                registry._link.session.client,
                figures.clients,
                figures.leases.get("read", 0) + figures.leases.get("write", 0),
            )

        client, clients, leases = in_child(work)
        assert client != mine
        assert clients == 2
        assert leases == 2, "the child holds a lease of its own"
        until(lambda: registry.statistics().clients == 1)
        assert lease.array.sum() == 45


def test_child_that_ends_or_collects_releases_nothing_of_its_parents(registry: shmlease.Registry) -> None:
    lease = registry.share(np.arange(10), "a")
    inherited = [lease]

    def drop() -> None:
        nonlocal lease
        del lease
        inherited.clear()
        gc.collect()

    in_child(drop)
    with registry.attach("a", timeout=0) as reader:
        assert reader.array.sum() == 45
    assert registry.statistics().leases["write"] == 1
    inherited[0].release()


def test_child_that_releases_ends_only_its_own(registry: shmlease.Registry) -> None:
    with registry.share(np.arange(10), "a") as lease:
        in_child(lambda: (int(lease.array.sum()), lease.release()))
        assert registry.statistics().leases["write"] == 1
        assert lease.array.sum() == 45


def test_lease_that_the_parent_has_released_cannot_be_used_in_the_child(registry: shmlease.Registry) -> None:
    lease = registry.share(np.arange(10), "a")
    go_r, go_w = os.pipe()

    def use_later() -> int:
        os.read(go_r, 1)
        return int(lease.array.sum())

    thread_result: list[Any] = []
    others = set(_children())
    thread = threading.Thread(target=lambda: thread_result.append(_outcome(lambda: in_child(use_later))))
    thread.start()
    until(lambda: set(_children()) - others)
    lease.release()
    registry.statistics()
    os.write(go_w, b"x")
    thread.join()
    os.close(go_r)
    os.close(go_w)
    assert isinstance(thread_result[0], shmlease.LeaseClosedError)
    assert "inherited through a fork" in str(thread_result[0])


def _outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return error


def _children() -> list[str]:
    found: list[str] = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children") as file:
            found += file.read().split()
    return found


def test_child_does_not_hold_its_parents_connection_open(registry: shmlease.Registry) -> None:
    with registry.share(np.arange(10)) as lease, registry.redeem(lease.ticket()):
        connected = registry._link.channel.connection

    def held() -> list[str]:
        return [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdigit() and _is_open(fd)]

    def _is_open(fd: str) -> bool:
        return os.path.lexists(f"/proc/self/fd/{fd}")

    mine = os.readlink(f"/proc/self/fd/{connected._made[0].fileno()}")  # type: ignore[union-attr]
    assert mine.startswith("socket:")
    theirs = in_child(held)
    assert mine not in theirs
    assert not [path for path in theirs if f"shmlease-{registry.id}" in path], "no notice log, no lock, no directory"


FORKS = """
import time
lease = registry.lease("a", shape=100_000, dtype="i8")
array = lease.array
array[:] = 7
alive_r, alive_w = os.pipe()
if os.fork() == 0:
    os.close(alive_w)
    os.read(alive_r, 1)  # until the parent is dead
    while any(name[0] == "s" and name != "socket" for name in os.listdir(directory)):
        time.sleep(0.01)
    with open(f"{result}.new", "w") as file:
        file.write(str(array.sum()))
    os.rename(f"{result}.new", result)
    os._exit(0)
os.close(alive_r)
"""


def test_array_of_a_killed_parent_stays_valid_in_its_child(site: Site, actor: StartActor, tmp_path: Path) -> None:
    """The child never took a lease: it has only the array."""
    parent, result = actor(), tmp_path / "result"
    parent(FORKS, directory=site.directory.path, result=str(result))
    parent.kill()
    until(result.exists)
    assert result.read_text() == "700000"


def test_view_that_lingers_in_the_parent_and_dies_in_the_child_is_nothing(
    registry: shmlease.Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    lease = registry.share(np.arange(10), "a")
    view = lease.array
    with pytest.warns(shmlease.LingeringViewWarning):
        lease.release()

    def drop() -> int:
        nonlocal view
        del view
        gc.collect()
        return registry._link.session.client

    assert in_child(drop) == 0, "it has not connected for it"
    assert registry.statistics().leases["lingering"] == 1
    assert capfd.readouterr().err == ""
    del view


def test_fork_while_another_thread_is_in_a_call_does_not_hang_the_child(registry: shmlease.Registry) -> None:
    waiting = threading.Thread(target=lambda: _outcome(lambda: registry.attach("never", timeout=3)))
    busy = threading.Event()

    def churn() -> None:
        while not busy.is_set():
            registry.share(np.arange(10)).release()

    churning = threading.Thread(target=churn)
    waiting.start()
    churning.start()
    try:
        for _ in range(10):
            assert in_child(lambda: registry.share(np.arange(10)).release()) is None
    finally:
        busy.set()
        churning.join()
        waiting.join()


@pytest.mark.parametrize(
    "lock_of",
    [
        lambda pool: pool._calls.registry._link._reception.receiving,
        lambda _: calls._lock,
        lambda _: own_registry._own._lock,
    ],
    ids=["receiving", "the calls of an executor", "a registry of its own"],
)
def test_child_uses_everything_though_another_thread_of_its_parent_had_a_lock(
    registry: shmlease.Registry, lock_of: Callable[[shmlease.Executor], Any]
) -> None:
    has_it, is_forked = threading.Event(), threading.Event()

    def hold_it(lock: Any) -> None:
        with lock:
            has_it.set()
            is_forked.wait()

    with shmlease.Executor(1, registry=registry) as pool, pool.put(np.arange(10)) as handle:
        holder = threading.Thread(target=hold_it, args=(lock_of(pool),))
        holder.start()
        has_it.wait()

        def use() -> int:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)  # one that hangs sends no answer
            handle.release()
            with shmlease.carrying() as found, found.share(np.arange(10)) as lease:
                return int(lease.array[7])

        try:
            assert in_child(use) == 7
        finally:
            is_forked.set()
            holder.join()
        assert pool.submit(len, handle).result() == 10, "the parent's handle is the parent's"


def test_registry_left_by_a_forked_child_is_still_its_parents(registry: shmlease.Registry) -> None:
    in_child(registry.close)
    assert registry.statistics().epoch == 1


def test_registry_started_during_a_fork_can_be_succeeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child forked by another thread in that moment must not keep the registry's lock."""
    import shmlease.client.starting as module

    launch, children = module.launch, []

    def fork_and_launch(*arguments: Any) -> None:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
        launch(*arguments)

    monkeypatch.setattr(module, "launch", fork_and_launch)
    try:
        with shmlease.Registry("4MiB") as registry:
            Site(registry.id).kill()
            assert registry.statistics().epoch == 2
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def work_on(registry: shmlease.RegistryHandle, ticket: str, results: Any) -> None:
    with registry.redeem(ticket) as lease:
        own = registry.share(lease.array * 2, f"from {os.getpid()}")
        results.send((own.name, own.ticket()))
        results.recv()
        own.release()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_start_method_hands_over_in_both_directions(registry: shmlease.Registry, method: str) -> None:
    """The handle is pickled, or inherited; so are tickets."""
    context = multiprocessing.get_context(method)
    with registry.share(np.arange(1000)) as lease:
        ours, theirs = context.Pipe()
        process = context.Process(target=work_on, args=(registry, str(lease.ticket()), theirs))
        process.start()
        name, ticket = ours.recv()
        with registry.redeem(ticket) as doubled, registry.attach(name) as named:
            assert doubled.array.sum() == named.array.sum() == 999_000
        ours.send(None)
        process.join(60)
        assert process.exitcode == 0
        ours.close()
        theirs.close()


def test_children_find_the_registry_through_the_environment(actor: StartActor, registry: shmlease.Registry) -> None:
    with Actor() as child:
        assert child("shmlease.connect().id") == registry.id


def test_pickled_handle_keeps_its_mode(registry: shmlease.Registry) -> None:
    strict = shmlease.connect(registry.id, on_lingering="error")
    again = pickle.loads(pickle.dumps(strict))
    lease = again.share(np.arange(3), "a")
    view = lease.array
    with pytest.raises(shmlease.LingeringViewError):
        lease.release()
    del view


def test_sockets_of_the_parent_are_not_in_the_way() -> None:
    """A registry is started by a program that holds many descriptors of all kinds."""
    pairs = [socket.socketpair() for _ in range(20)]
    with shmlease.Registry("4MiB") as registry:
        pid = Site(registry.id).pid
        held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        mine = {os.readlink(f"/proc/self/fd/{end.fileno()}") for pair in pairs for end in pair}
        assert not held & mine
    for pair in pairs:
        for end in pair:
            end.close()
