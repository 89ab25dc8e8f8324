"""`shmlease.shared_memory` in place of the standard library's: its own tests, and the situations in which it fails.

Each test below the first is a kind of failure of `multiprocessing.shared_memory`, with nothing changed but the import.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory as Standard
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from isolated import isolated
from running import environment

import shmlease
from rig.actor import Actor
from rig.mount_namespace import mount_namespace
from rig.repeated import for_each
from rig.site import Site
from rig.until import until
from shmlease.core.pool import RECYCLED_BYTES
from shmlease.shared_memory import ShareableList, SharedMemory, SharedMemoryManager
from shmlease.system.registries import default_registry_id

StartActor = Callable[..., Actor]
DROP_IN = Path(__file__).parent / "drop_in"
ATTACH = "from shmlease.shared_memory import SharedMemory; shm = SharedMemory({!r}); print(bytes(shm.buf[:3]))"


@pytest.fixture
def memory(registry: shmlease.Registry) -> Iterator[SharedMemory]:
    del registry
    memory = SharedMemory(create=True, size=100)
    yield memory
    memory.close()


def is_named(name: str) -> bool:
    return os.path.exists(f"/dev/shm/{name}")


@pytest.mark.parametrize(
    "method",
    ["fork", pytest.param("spawn", marks=pytest.mark.stress), pytest.param("forkserver", marks=pytest.mark.stress)],
)
def test_own_tests_of_the_standard_library_pass(registry: shmlease.Registry, method: str) -> None:
    path = os.pathsep.join([str(DROP_IN), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(DROP_IN / "cpython_tests.py"), method],
        env=environment(PYTHONPATH=path, SHMLEASE_REGISTRY=registry.id),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert registry.statistics().counters["leases"] > 50, "they ran on this registry"


# --- who ends a segment ----------------------------------------------------------------------------------------------


def test_exit_of_an_unrelated_attacher_ends_nothing(memory: SharedMemory) -> None:
    """gh-82300, gh-104291, gh-116849: the attacher's resource tracker removed the owner's live segment."""
    memory.buf[:3] = b"abc"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", ATTACH.format(memory.name)], capture_output=True, text=True, check=True, env=os.environ
        )
        assert (done.stdout, done.stderr) == ("b'abc'\n", ""), "no warning of a leak without a leak"
    assert is_named(memory.name)
    memory.unlink()
    assert not is_named(memory.name)


def make_and_leave(pipe: Connection) -> None:
    shm = SharedMemory(create=True, size=100)
    shm.buf[:3] = b"abc"
    pipe.send(shm)
    shm.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_that_has_made_a_segment_may_exit_before_its_parent_attaches(
    registry: shmlease.Registry, method: str
) -> None:
    context: Any = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=make_and_leave, args=(sender,))
    worker.start()
    until(receiver.poll)
    worker.join()
    until(lambda: registry.statistics().clients == 1)
    shm = receiver.recv()
    assert bytes(shm.buf[:3]) == b"abc"
    shm.close()
    shm.unlink()
    until(lambda: not registry.statistics().leases.get("write"))


def test_killed_maker_leaves_nothing_though_a_child_of_its_own_lives(
    registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    """The tracker saw no end of file as long as any child had its pipe."""
    maker = actor()
    name = maker("from shmlease.shared_memory import SharedMemory\nshm = SharedMemory(create=True, size=9)\nshm.name")
    child = maker("pid = os.fork()\nif pid == 0:\n    import time; time.sleep(60)\npid")
    try:
        maker.kill()
        until(lambda: not is_named(name))
        until(lambda: not site.files())
    finally:
        os.kill(child, signal.SIGKILL)


def test_attacher_holds_a_segment_beyond_its_name_and_its_maker(
    registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    maker = actor()
    name = maker("from shmlease.shared_memory import SharedMemory\nshm = SharedMemory(create=True, size=9)\nshm.name")
    shm = SharedMemory(name)
    maker.kill()
    until(lambda: not is_named(name))
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)
    shm.buf[0] = 1
    assert site.files()
    shm.close()
    until(lambda: not site.files())


def test_untracked_segment_stays_without_its_maker_until_it_is_unlinked(site: Site, actor: StartActor) -> None:
    maker = actor()
    code = "from shmlease.shared_memory import SharedMemory\nshm = SharedMemory(create=True, size=9, track=False)\nshm.name"
    name = maker(code)
    maker.kill()
    shm = SharedMemory(name)
    shm.unlink()
    shm.close()
    until(lambda: not site.files())


def test_untracked_segment_ends_with_the_registry() -> None:
    with shmlease.Registry("4MiB"):
        shm = SharedMemory(create=True, size=9, track=False)
        shm.close()
        assert is_named(shm.name)
    assert not is_named(shm.name)
    with pytest.raises(FileNotFoundError):
        shm.unlink()


def test_unlinking_frees_memory_that_its_maker_has_closed(memory: SharedMemory, site: Site, actor: StartActor) -> None:
    memory.close()
    other = actor()
    other(
        f"from shmlease.shared_memory import SharedMemory\nshm = SharedMemory({memory.name!r}); shm.unlink(); shm.close()"
    )
    until(lambda: not site.files())


def test_pickled_segment_keeps_whether_it_is_tracked(registry: shmlease.Registry) -> None:
    del registry
    for track in (True, False):
        shm = SharedMemory(create=True, size=9, track=track)
        assert pickle.loads(pickle.dumps(shm))._track is track
        shm.unlink()


@pytest.mark.parametrize("size", [5, RECYCLED_BYTES])
def test_stale_handle_unlinks_no_segment_that_has_got_its_name_since(registry: shmlease.Registry, size: int) -> None:
    del registry
    memory = SharedMemory("name", create=True, size=size)
    memory.close()
    SharedMemory("name").unlink()
    successor = SharedMemory(memory.name, create=True, size=size)
    with pytest.raises(FileNotFoundError):
        memory.unlink()
    assert is_named(successor.name)
    successor.unlink()
    successor.close()


# --- views -----------------------------------------------------------------------------------------------------------


def test_view_that_is_alive_after_close_is_valid_and_the_last_one_ends_the_lease(memory: SharedMemory, site: Site) -> None:
    """gh-102349, gh-115635: a segmentation fault, or a BufferError and a handle half closed."""
    memory.buf[:3] = b"abc"
    views = [
        np.ndarray(100, "u1", buffer=memory.buf),
        np.frombuffer(memory.buf, "u1"),
        memory.buf[1:],
        memory.buf,
    ]
    memory.close()
    memory.unlink()
    assert memory.buf is None
    memory.close()
    while views:
        assert bytes(views[0])[-99:][:2] == b"bc"
        views.pop(0)
    until(lambda: not site.files())


def test_segment_in_a_cycle_and_one_that_nobody_closes_end_without_a_warning(site: Site) -> None:
    code = """
import gc, warnings; warnings.simplefilter("error")
from shmlease.shared_memory import SharedMemory
class Node: pass
node = Node(); node.self = node; node.shm = SharedMemory(create=True, size=9)
node.view = node.shm.buf
del node; gc.collect()
left = SharedMemory(create=True, size=9); view = left.buf
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    until(lambda: not site.files())


def test_large_segment_is_made_of_one_that_nobody_has_open_any_more_and_is_zeroed(registry: shmlease.Registry) -> None:
    for number in range(3):
        shm = SharedMemory(create=True, size=RECYCLED_BYTES)
        assert not np.frombuffer(shm.buf, "u1").any()
        np.frombuffer(shm.buf, "u1")[:] = 7
        shm.close()
        shm.unlink()
        assert registry.statistics().counters.get("recycled", 0) == number


def test_large_segment_that_another_program_maps_stays_as_it_is(registry: shmlease.Registry) -> None:
    shm = SharedMemory(create=True, size=RECYCLED_BYTES)
    shm.buf[:] = b"x" * RECYCLED_BYTES
    with open(f"/dev/shm/{shm.name}", "r+b") as file:
        others = mmap.mmap(file.fileno(), 0)
    shm.close()
    shm.unlink()
    assert registry.statistics().segments.get("warm", 0) == 0
    SharedMemory(create=True, size=RECYCLED_BYTES).unlink()
    assert others[:] == b"x" * RECYCLED_BYTES
    assert registry.statistics().counters.get("recycled", 0) == 0


# --- sizes, names, errors --------------------------------------------------------------------------------------------


def test_segment_is_zeroed_and_as_large_as_was_asked_for_and_other_programs_see_it_so(registry: shmlease.Registry) -> None:
    registry.share(np.full(5000, 7, "u1")).release()
    shm = SharedMemory("exact", create=True, size=4999)
    assert (shm.size, len(shm.buf), bytes(shm.buf)) == (4999, 4999, bytes(4999))
    assert os.stat("/dev/shm/exact").st_size == 4999
    other = SharedMemory("exact", size=1)
    assert other.size == 4999
    with open("/dev/shm/exact", "r+b") as file:
        file.write(b"abc")
    assert bytes(other.buf[:3]) == b"abc"
    shm.unlink()


@pytest.mark.parametrize("name", ["a:b", "é", "with blank", "/one-segment", "x" * 251])
def test_name_is_what_it_is_in_the_standard_library(registry: shmlease.Registry, name: str) -> None:
    """gh-98896, gh-103043, gh-105380: a leak, or an error of the tracker."""
    del registry
    ours = SharedMemory(name, create=True, size=9)
    try:
        assert (ours.name, is_named(name.lstrip("/"))) == (name, True)
        for error, arguments in ((FileExistsError, (name, True, 9)), (FileNotFoundError, (f"{name}-not",))):
            with pytest.raises(error) as one:
                SharedMemory(*arguments)
            with pytest.raises(error) as other:
                Standard(*arguments)
            assert (one.value.args, one.value.filename) == (other.value.args, other.value.filename)
    finally:
        ours.unlink()
        ours.close()
    assert not is_named(name.lstrip("/"))


@pytest.mark.parametrize("name", ["a/b", "", "/", ".", "..", "x" * 256, "x" * 300, 5, b"x", "\udcff"])
@pytest.mark.parametrize("create", [True, False])
def test_name_that_cannot_be_is_the_standard_librarys_error(registry: shmlease.Registry, name: Any, create: bool) -> None:
    del registry
    with pytest.raises((OSError, ValueError, TypeError)) as ours:
        SharedMemory(name, create=create, size=9)
    with pytest.raises((OSError, ValueError, TypeError)) as theirs:
        Standard(name, create=create, size=9)
    assert (type(ours.value), ours.value.args) == (type(theirs.value), theirs.value.args)


@for_each("size", [0, -1, 1.5, "5", None, 2**62, 2**63])
def test_size_that_cannot_be_is_the_standard_librarys_error(registry: shmlease.Registry, size: Any) -> None:
    del registry
    with pytest.raises((OSError, ValueError, TypeError, OverflowError)) as ours:
        SharedMemory("ours", create=True, size=size)
    with pytest.raises((OSError, ValueError, TypeError, OverflowError)) as theirs:
        Standard(f"theirs{os.getpid()}", create=True, size=size)
    with contextlib.suppress(OSError):
        os.unlink(f"/dev/shm/theirs{os.getpid()}")  # it leaves what it cannot size, or map
    assert (type(ours.value), ours.value.args) == (type(theirs.value), theirs.value.args)
    assert not is_named("ours")


def test_name_that_a_null_ends_is_refused_as_by_python_3_13(memory: SharedMemory) -> None:
    for arguments in ((f"{memory.name}\0a",), (f"{memory.name}\0a", True, 9)):
        with pytest.raises(ValueError, match="embedded null character"):
            SharedMemory(*arguments)


def test_name_of_a_file_that_others_have_made_is_taken_and_the_file_can_be_attached(registry: shmlease.Registry) -> None:
    name = f"others{os.getpid()}"
    Path(f"/dev/shm/{name}").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        SharedMemory(name, create=True, size=9)
    assert registry.statistics().leases.get("write", 0) == 0
    shm = SharedMemory(name)
    view = np.ndarray(6, "u1", buffer=shm.buf)
    assert bytes(shm.buf) == b"theirs"
    shm.close()
    assert bytes(view) == b"theirs"
    shm.unlink()
    assert not is_named(name)


def test_handle_needs_no_descriptor(memory: SharedMemory) -> None:
    gc.collect()  # which closes what earlier tests have left
    before = set(os.listdir("/proc/self/fd"))
    many = [SharedMemory(memory.name) for _ in range(5)]
    assert set(os.listdir("/proc/self/fd")) <= before
    for one in many:
        one.close()


def test_what_does_not_fit_is_a_memory_error_and_leaves_nothing(site: Site) -> None:
    with pytest.raises(MemoryError, match="65 MiB"):
        SharedMemory("large", create=True, size=65 << 20)
    assert not is_named("large")
    assert not site.files()


def test_full_shared_memory_is_a_memory_error_and_no_bus_error() -> None:
    """gh-114390: Docker gives 64 MB; creating succeeded, and writing was a SIGBUS. Here no registry runs before."""
    code = """
from shmlease.shared_memory import SharedMemory
made = []
try:
    while True:
        made.append(SharedMemory(create=True, size=20_000_000))
        made[-1].buf[:] = bytes(20_000_000)
except MemoryError as error:
    print(len(made), type(error).__name__)
for one in made:
    one.close(); one.unlink()
"""
    mount = 'mount -t tmpfs -o size=64m,mode=1777 tmpfs /dev/shm || exit 97; exec "$@"'
    done = subprocess.run(
        mount_namespace(mount, sys.executable, "-c", code), capture_output=True, text=True, check=False, env=environment()
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 CapacityError\n", "")


# --- lists and managers ----------------------------------------------------------------------------------------------


def test_list_is_on_a_lease_and_arrives_as_such(registry: shmlease.Registry) -> None:
    made = ShareableList([1, "two", None])
    arrived = pickle.loads(pickle.dumps(made))
    assert type(arrived) is ShareableList
    assert (list(arrived), registry.statistics().leases["write"]) == ([1, "two", None], 2)
    arrived.shm.close()
    made.shm.close()
    made.shm.unlink()


def test_manager_and_its_segments_end_with_a_killed_owner(
    registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    """An orphaned manager, and its segments with it, stayed for ever."""
    owner = actor()
    owner("from shmlease.shared_memory import SharedMemoryManager\nmanager = SharedMemoryManager(); manager.start()")
    server = owner("shm = manager.SharedMemory(9); items = manager.ShareableList('ab'); manager._process.pid")
    owner.kill()
    until(lambda: not os.path.exists(f"/proc/{server}"))
    until(lambda: not site.files())


def test_manager_that_ends_unlinks_what_is_left(registry: shmlease.Registry) -> None:
    with SharedMemoryManager() as manager:
        kept, unlinked = manager.SharedMemory(9), manager.SharedMemory(9)
        unlinked.unlink()
    assert not is_named(kept.name)
    kept.close()
    unlinked.close()
    assert registry.statistics().leases.get("write", 0) == 0


# --- without a registry ----------------------------------------------------------------------------------------------


@isolated
def test_registry_is_started_at_first_use_and_ends_with_its_last_user() -> None:
    os.environ.pop("SHMLEASE_REGISTRY", None)
    code = "from shmlease.shared_memory import SharedMemory; shm = SharedMemory('late', create=True, size=9); input()"
    words = [sys.executable, "-c", code]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as first:
        until(lambda: is_named("late"))
        users = [subprocess.Popen([sys.executable, "-c", ATTACH.format("late") + "; input()"], **pipes) for _ in range(2)]
        said = [user.stdout.readline() for user in users]
        # the registry, which this process's child has started, keeps none of its streams: the pipe ends
        assert (first.communicate("\n", timeout=60), said) == (("", ""), ["b'\\0\\0\\0'\n".replace("\\0", "\\x00")] * 2)
        until(lambda: not is_named("late"))
        assert os.listdir("/dev/shm"), "the others still use it"
        for user in users:
            assert user.communicate("\n", timeout=60) == ("", "")
    until(lambda: os.listdir("/dev/shm") == [])


@isolated
def test_nothing_is_left_of_a_killed_tree_once_somebody_begins_anew() -> None:
    """The tracker was killed with the rest, and the files stayed for ever: 27,000 of them were found."""
    os.environ.pop("SHMLEASE_REGISTRY", None)
    code = "from shmlease.shared_memory import SharedMemory\nshm = SharedMemory('old', True, 9, track=False); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as user:
        until(lambda: is_named("old"))
        registry = Site(default_registry_id()).ledger().registry
        assert registry is not None
        server = registry.identity.pid
        os.kill(server, signal.SIGSTOP)
        user.kill()
        os.kill(server, signal.SIGKILL)
    code = "from shmlease.shared_memory import SharedMemory; shm = SharedMemory(create=True, size=9); shm.unlink()"
    subprocess.run([sys.executable, "-c", code], check=True)
    until(lambda: os.listdir("/dev/shm") == [])


@isolated
def test_processes_that_begin_at_once_find_one_registry() -> None:
    os.environ.pop("SHMLEASE_REGISTRY", None)
    code = """
from shmlease.shared_memory import SharedMemory
import shmlease
shm = SharedMemory(create=True, size=9)
print(shmlease.connect().statistics().clients > 0); input()
shm.unlink()
"""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    users = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(4)]
    assert [user.stdout.readline() for user in users] == ["True\n"] * 4
    assert len([name for name in os.listdir("/dev/shm") if name.startswith("shmlease-")]) == 1
    for user in users:
        assert user.communicate("\n", timeout=60) == ("", "")
    until(lambda: os.listdir("/dev/shm") == [])
