"""Copies by several threads are the copies that one would make."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from shmlease.client import copying
from shmlease.client.copying import copy_into, streaming_library


@pytest.fixture
def threads_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that are started, on a machine with three idle cores, for a kilobyte each."""
    names: list[str] = []
    start = threading.Thread.start
    monkeypatch.setattr(copying, "_BYTES_A_THREAD", 1024)
    monkeypatch.setattr(copying, "_BYTES_A_PIECE", 512)
    monkeypatch.setattr(copying, "_LEAST_STREAMED_BYTES", 20_000)
    monkeypatch.setattr(copying, "idle_processors", lambda: 3)
    monkeypatch.setattr(threading.Thread, "start", lambda self: (names.append(self.name), start(self))[1])
    return names


@pytest.mark.parametrize("shape", [(5000,), (7, 1000), (3, 50, 40), (1000, 7)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f8", ">i4", "M8[s]", [("chr", "S10"), ("pct", "f4")]])
def test_copy_is_the_array(threads_of: list[str], shape: tuple[int, ...], order: str, dtype: object) -> None:
    count = int(np.prod(shape))
    values = np.frombuffer(np.random.default_rng(1).bytes(count * np.dtype(dtype).itemsize), dtype).reshape(shape)
    target = np.empty(shape, dtype, order=order)
    copy_into(target, values)
    assert target.tobytes() == values.tobytes()
    assert threads_of == ["shmlease-copy"] * 2


def test_strided_array_is_copied(threads_of: list[str]) -> None:
    values = np.arange(40_000).reshape(200, 200)[::2, ::-2]
    target = np.empty(values.shape, values.dtype)
    copy_into(target, values)
    assert np.array_equal(target, values)
    assert threads_of


def test_threads_that_cannot_be_had_are_done_without(threads_of: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def only_one(self: threading.Thread) -> None:
        if threads_of:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", only_one)
    values = np.arange(10_000)
    target = np.zeros_like(values)
    copy_into(target, values)
    assert np.array_equal(target, values)
    assert len(threads_of) == 1


def test_one_large_element_is_copied(threads_of: list[str]) -> None:
    values = np.ones((), [("image", "f8", (2000,))])
    target = np.zeros_like(values)
    copy_into(target, values)
    assert target.tobytes() == values.tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (1, 5000), (100,)])
def test_what_is_small_or_cannot_be_divided_is_copied_here(threads_of: list[str], shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).random(shape)
    target = np.empty(shape)
    copy_into(target, values)
    assert np.array_equal(target, values)
    assert not threads_of


def test_no_thread_is_started_where_the_other_processors_are_busy(
    threads_of: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "idle_processors", lambda: 1)
    values = np.arange(10_000)
    target = np.zeros_like(values)
    copy_into(target, values)
    assert np.array_equal(target, values)
    assert not threads_of


def test_thread_that_runs_late_finds_nothing_left_to_do(threads_of: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", lambda self: (started.append(self), None)[1])
    monkeypatch.setattr(threading.Thread, "join", threading.Thread.run)
    values = np.arange(10_000)
    target = np.zeros_like(values)
    copy_into(target, values)
    assert np.array_equal(target, values)
    assert len(started) == 2


@pytest.mark.skipif(streaming_library() is None, reason="streaming.c was not compiled")
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 4095, 16_384, 16_385, 16_384 + 64, 3 * 16_384 + 4_000])
def test_copy_past_the_caches_is_every_byte_and_none_beside(size: int) -> None:
    library = streaming_library()
    assert library is not None
    room = np.random.default_rng(2).integers(0, 256, size + 200, dtype=np.uint8)
    for start, place in [(0, 0), (3, 5), (16, 1), (1, 64), (63, 65)]:
        values, target = room[start : start + size], np.full(size + 200, 7, np.uint8)
        library.shmlease_copy_streaming(values.ctypes.data, size, target[place:].ctypes.data)
        assert np.array_equal(target[place : place + size], values)
        assert (target[:place] == 7).all()
        assert (target[place + size :] == 7).all()


@pytest.mark.parametrize("library", [streaming_library(), None])
@pytest.mark.parametrize("dtype", ["f8", ">f8", "i8"])
def test_large_array_is_converted_where_its_type_is_another(
    library: object, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "streaming_library", lambda: library)
    values = np.arange(1 << 20, dtype=dtype)  # 8 MiB
    target = np.zeros(values.shape)
    copy_into(target, values)
    assert np.array_equal(target, values)
