"""What hurts with multiprocessing.shared_memory, row by row, on shmlease: see the module's names for the failures.

Each test is the situation in which the standard library loses, leaks or crashes, reproduced with leases.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

import shmlease
from rig.actor import Actor
from rig.site import Site
from rig.until import until

StartActor = Callable[..., Actor]

PLAIN = """
import sys
import numpy as np
from multiprocessing import shared_memory
segment = shared_memory.SharedMemory(name=sys.argv[1])
print(int(np.ndarray(1000, "i8", buffer=segment.buf).sum()))
segment.close()
"""


def attach_plainly(name: str) -> subprocess.CompletedProcess[str]:
    """An unrelated program attaches by the OS name, registers with its own tracker, and exits."""
    return subprocess.run([sys.executable, "-W", "ignore", "-c", PLAIN, name], check=False, capture_output=True, text=True)


def test_resource_tracker_of_an_unrelated_program_unlinks_no_live_segment(registry: shmlease.Registry) -> None:
    """gh-82300: it takes away the name that it opened, never the segment under a lease."""
    with registry.lease("a", shape=1000, dtype="i8") as lease:
        lease.array[:] = np.arange(1000)
        lease.publish()
        assert attach_plainly(lease.segment).stdout == "499500\n"
        until(lambda: True)
        assert lease.array.sum() == 499_500
        with registry.attach("a") as reader:
            assert reader.array.sum() == 499_500


def test_segment_that_was_opened_plainly_is_never_used_again(registry: shmlease.Registry, site: Site) -> None:
    """Somebody the table does not know may still map it."""
    lease = registry.share(np.arange(1000), "a")
    (number,) = [s.number for s in site.ledger().segments.values() if s.name == "a"]
    name = lease.segment
    assert os.path.exists(f"/dev/shm/{name}")
    lease.release()
    registry.statistics()
    assert not os.path.exists(f"/dev/shm/{name}")
    assert number not in site.ledger().segments


def test_lifetime_does_not_depend_on_the_process_tree(actor: StartActor, registry: shmlease.Registry) -> None:
    """A child with a tracker of its own destroys its parent's segment when it exits; here nothing happens."""
    with registry.share(np.arange(1000), "parent's") as lease:
        child = actor()
        child('lease = registry.attach("parent\'s"); own = registry.share(np.arange(5), "child\'s")')
        ticket = child("own.ticket()")
        assert child("lease.release(); own.release()") is None
        assert child.leave() == 0
        assert lease.array.sum() == 499_500
        with registry.redeem(ticket) as own:
            assert own.array.sum() == 10


def test_creator_killed_while_a_child_lives_is_cleaned_up(
    registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    """The standard tracker sees no end of file as long as any child has its pipe open."""
    parent = actor()
    parent("lease = registry.lease('a', shape=1000)\npid = os.fork()\nif pid == 0:\n    import time; time.sleep(600)")
    child = parent("pid")
    try:
        parent.kill()
        until(lambda: not site.files())
    finally:
        os.kill(child, signal.SIGKILL)


def test_failed_attach_unlinks_nothing(registry: shmlease.Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """gh-153279: a mapping that fails with ENOMEM took somebody else's segment with it."""
    with registry.share(np.arange(1000), "a") as lease:
        endpoint = registry._link.endpoint

        def no_memory(*_: object, **__: object) -> None:
            raise OSError(12, "Cannot allocate memory")

        with monkeypatch.context() as patched:
            patched.setattr(endpoint, "map", no_memory)
            with pytest.raises(shmlease.CapacityError, match="this process gets no more memory"):
                registry.attach("a")
        assert lease.array.sum() == 499_500
        with registry.attach("a") as reader:
            assert reader.array.sum() == 499_500
    assert registry.statistics().leases.get("read", 0) == 0


def test_array_read_after_its_release_is_no_segmentation_fault() -> None:
    """gh-102349, numpy #23305: exit code 139."""
    code = """
import warnings; warnings.simplefilter("ignore")
import numpy as np, shmlease
with shmlease.Registry("4MiB") as registry:
    lease = registry.share(np.arange(1000))
    views = [lease.array, lease.array[5:], memoryview(lease.array), np.frombuffer(lease.array, "i8")]
    lease.release()
    registry.trim()
    print(int(views[0].sum()), int(views[1][0]), views[2][7], int(views[3][-1]))
print(int(views[0].sum()))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "499500 5 7 999\n499500\n"), done.stderr


def test_attach_in_the_middle_of_the_making_is_not_possible(registry: shmlease.Registry) -> None:
    """ "cannot mmap an empty file": between shm_open and ftruncate."""
    seen: list[int] = []

    def read() -> None:
        with registry.attach("a", timeout=60) as lease:
            seen.append(int(lease.array.sum()))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    with registry.lease("a", shape=100_000, dtype="i8") as lease:
        lease.array[:] = 1
        lease.publish()
        for thread in threads:
            thread.join(60)
    assert seen == [100_000] * 4


def test_reader_can_neither_write_nor_cut_the_file(actor: StartActor, registry: shmlease.Registry) -> None:
    """PR 11816: every attacher could write, and could truncate the file under its owner."""
    with registry.share(np.arange(1000), "a") as lease:
        reader = actor()
        reader("held = registry.attach('a')")
        with pytest.raises(ValueError, match="read-only"):
            reader("held.array[0] = 1")
        with pytest.raises(shmlease.LeaseClosedError, match="only its writer"):
            reader("held.publish()")
        with open(f"/proc/{reader.pid}/maps") as file:
            (mapped,) = [line for line in file if f"shmlease-{registry.id}/s" in line]
        assert mapped.split()[1] == "r--s"
        assert lease.array[0] == 0


def test_name_used_again_is_another_segment(registry: shmlease.Registry) -> None:
    """An old reader stays on the old segment, and knows it: it holds a lease on it."""
    first = registry.share(np.full(10, 1), "a")
    old = registry.attach("a")
    first.release()
    with pytest.raises(shmlease.SegmentExistsError):
        registry.lease("a", shape=3)
    old.release()
    with registry.share(np.full(10, 2), "a"), registry.attach("a") as new:
        assert new.array.sum() == 20


@pytest.mark.parametrize("name", ["a:b", "/abc", "ä/ö", "a b", "日本", "-", "..", "x" * 255, "C:\\temp", "%s"])
def test_any_name_is_a_name(registry: shmlease.Registry, name: str) -> None:
    """gh-98896, gh-103043, gh-105380: colons, slashes and non-ASCII leaked or broke the tracker."""
    with registry.share(np.arange(3), name) as lease, registry.attach(name) as reader:
        assert reader.name == lease.name == name


def test_slash_makes_another_name(registry: shmlease.Registry) -> None:
    with registry.share(np.arange(3), "abc"), registry.share(np.arange(4), "/abc"), registry.attach("/abc") as reader:
        assert reader.array.size == 4


@pytest.mark.parametrize("name", ["", "a\n", "\0", "x" * 256, "a\x7f", "caf\udce9"])
def test_what_cannot_be_a_name_is_a_value_error_before_anything_is_made(registry: shmlease.Registry, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a segment"):
        registry.lease(name, shape=3)
    with pytest.raises(ValueError, match="cannot be the name of a segment"):
        registry.attach(name, timeout=0)
    assert registry.statistics().segments == {}


def test_leases_keep_no_descriptor(registry: shmlease.Registry) -> None:
    """Two descriptors a handle, PR 155070: a thousand segments, and the process can open no file."""
    registry.statistics()
    with registry.share(np.arange(3), "warm up"):
        before = len(os.listdir("/proc/self/fd"))
        leases = [registry.share(np.arange(3), f"n{i}") for i in range(50)]
        readers = [registry.attach(f"n{i}") for i in range(50)]
        assert len(os.listdir("/proc/self/fd")) == before
        for lease in leases + readers:
            lease.release()


def test_closed_lease_says_that_it_is_closed(registry: shmlease.Registry) -> None:
    """After close: 'NoneType' object is not subscriptable."""
    with registry.share(np.arange(3), "a") as lease:
        pass
    for use in (lambda: lease.array, lease.publish, lease.ticket, lambda: lease.segment, lease.__enter__):
        with pytest.raises(shmlease.LeaseClosedError, match="was released"):
            use()
    lease.release()


def test_attached_array_has_the_shape_and_dtype_that_it_was_made_with(registry: shmlease.Registry) -> None:
    """`size` is ignored on attach, and shape and dtype are the callers' business."""
    dtype = np.dtype([("chr", "S10"), ("pos", ">i4")], align=True)
    with registry.lease("a", shape=(3, 5), dtype=dtype, order="F") as lease:
        lease.publish()
        with registry.attach("a") as reader:
            assert (reader.array.shape, reader.array.dtype, reader.array.strides) == ((3, 5), dtype, lease.array.strides)
            assert reader.nbytes == lease.array.nbytes
