from __future__ import annotations

import _posixshmem
import functools
import mmap
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.managers import SharedMemoryManager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmlease
from shmlease.testing.reachable import reachable_from


@pytest.fixture
def segment() -> Iterator[SharedMemory]:
    segment = SharedMemory(create=True, size=100)
    yield segment
    segment.close()
    segment.unlink()


class Holder:
    def __init__(self, value: object) -> None:
        self.value = value

    def close(self) -> None:
        """A finalizer, say."""


class SlottedHolder:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


def generator_with(value: object) -> Iterator[object]:
    yield value


def suspended(value: object) -> Iterator[object]:
    generator = generator_with(value)
    next(generator)
    return generator


def closure_over(value: object) -> Callable[[], object]:
    return lambda: value


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: value,
        lambda value: {"key": [(value,)]},
        Holder,
        SlottedHolder,
        lambda value: Holder(value).close,
        suspended,
        closure_over,
        lambda value: functools.partial(print, value),
        lambda value: SharedMemory(name=value.name),
    ],
    ids=[
        "itself",
        "containers",
        "attribute",
        "slot",
        "bound method",
        "generator",
        "closure",
        "partial",
        "another of its name",
    ],
)
def test_segment_is_found_however_it_is_held(segment: SharedMemory, wrap: Callable[[Any], object]) -> None:
    root = wrap(segment)
    assert reachable_from([root]).paths == {f"/dev/shm/{segment.name}"}
    if isinstance(root, SharedMemory) and root is not segment:
        root.close()


HELD_BY_THE_MODULE: list[object] = []


def test_what_is_everybody_s_is_not_followed(segment: SharedMemory) -> None:
    HELD_BY_THE_MODULE.append(segment)
    try:
        roots = [sys.modules[__name__], Holder(None), Holder, closure_over(None), pytest.Session]
        assert reachable_from(roots).paths == set()
    finally:
        HELD_BY_THE_MODULE.clear()


def test_semaphores_and_processes_are_found() -> None:
    lock = multiprocessing.get_context("spawn").Lock()  # whose name its children need
    name = lock._semlock.name
    assert reachable_from([Holder(lock)]).paths == {f"/dev/shm/sem.{name.lstrip('/')}"}
    command = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    process = multiprocessing.get_context("fork").Process(target=command.wait)
    assert reachable_from([process, command]).pids == {command.pid}
    command.communicate()
    assert reachable_from([command]).pids == set()
    worker = multiprocessing.get_context("spawn").Process(target=print)
    worker.start()
    assert reachable_from([{"worker": worker}]).pids == {worker.pid}
    worker.join()
    worker.close()
    assert reachable_from([worker]).pids == set()


def test_manager_is_found_with_its_process() -> None:
    with SharedMemoryManager() as manager:
        found = reachable_from([Holder(manager)])
    assert found.has_manager
    assert len(found.pids) == 1


def test_leases_and_memory_maps_are_found(tmp_path: Path) -> None:
    path = tmp_path / "map"
    mapped = np.memmap(path, dtype="u1", mode="w+", shape=(10,))
    with shmlease.Registry(capacity="16MiB") as registry, registry.lease(shape=10, dtype="u1") as lease:
        found = reachable_from([mapped, Holder(lease)])
        assert [subject.partition(":")[0] for subject in found.leases] == ["lease"]
        assert registry.id in next(iter(found.leases))
    assert found.paths == {str(path)}


def test_walk_ends_in_a_heap_without_end() -> None:
    endless: list[object] = []
    for _ in range(300_000):
        endless = [endless, object()]
    assert reachable_from([endless]).paths == set()


def test_file_on_whose_mapping_an_array_lies_is_reached_also_when_it_is_unlinked() -> None:
    descriptor = _posixshmem.shm_open("/mapped-by-hand", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    try:
        os.ftruncate(descriptor, 8192)
        array = np.frombuffer(mmap.mmap(descriptor, 8192), np.int64)[700:]
    finally:
        os.close(descriptor)
        _posixshmem.shm_unlink("/mapped-by-hand")
    assert reachable_from([Holder([array])]).paths == {"/dev/shm/mapped-by-hand"}
    assert reachable_from([Holder([np.zeros(5)])]).paths == set()


def test_file_on_whose_mapping_a_tensor_lies_is_reached() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: tensors kept by fixtures are NOT tested here")
    tensor = torch.zeros(1000).share_memory_()
    (path,) = reachable_from([Holder({"batch": [tensor]})]).paths
    assert path.startswith("/dev/shm/torch_")
