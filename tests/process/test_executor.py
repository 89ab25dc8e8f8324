"""The executor over real processes: what travels how, what killed workers leave, and that it cannot starve itself."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, util
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import shmlease
from rig.leased_arrays import add_one, in_use, is_leased
from rig.repeated import for_each
from rig.until import until
from shmlease.integrations import calls, messages

LARGE = 20_000  # float64: above 64 KiB
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _old_threads() -> None:
    gc.collect()


def total(value: Any) -> float:
    return float(value["deep"][0].sum())


def ones(nbytes: int) -> Any:
    return np.ones(nbytes, np.uint8)


@for_each("method", ["fork", "spawn", "forkserver"])
def test_large_arrays_travel_as_leases_both_ways_and_arrive_writable(registry: shmlease.Registry, method: str) -> None:
    arrays = [np.full(LARGE, float(n)) for n in range(4)]
    arrays[1].flags.writeable = False
    with shmlease.Executor(2, multiprocessing.get_context(method), registry=registry) as pool:
        results = list(pool.map(add_one, arrays))
    for number, (leased_there, result) in enumerate(results):
        assert leased_there
        assert is_leased(result)
        assert (result == number + 1).all()
        result.fill(0)
        assert (arrays[number] == number).all(), "the caller's own is as it was"
    kept = results[0][1][5:]
    del results, result
    until(lambda: in_use(registry) == 1)
    assert kept[0] == 0
    del kept
    until(lambda: in_use(registry) == 0)


def test_small_ones_stay_in_the_message(registry: shmlease.Registry) -> None:
    with shmlease.Executor(1, FORK, registry=registry) as pool:
        assert pool.submit(add_one, np.zeros(100)).result()[0] is False
        assert pool.submit(add_one, array=np.zeros(100)).result()[1].sum() == 100
        assert pool.submit(sum, [np.zeros(3)] * 30).result().tolist() == [0, 0, 0]
        readonly = np.zeros(100)
        readonly.flags.writeable = False
        assert pool.submit(add_one, array=readonly).result()[1].sum() == 100
    assert registry.statistics().counters.get("leases", 0) == 0


def test_large_pickles_without_arrays_travel_as_leases(registry: shmlease.Registry) -> None:
    words = [f"word {n}" for n in range(50_000)]
    with shmlease.Executor(1, FORK, registry=registry) as pool:
        assert pool.submit(sorted, words).result() == sorted(words)
        assert len(pool.submit(bytes, 1 << 20).result()) == 1 << 20
    assert registry.statistics().counters["tickets"] == 2
    until(lambda: in_use(registry) == 0)


def test_handle_arrives_as_the_object_wherever_it_is_and_each_time_anew(registry: shmlease.Registry) -> None:
    big = np.zeros(LARGE)
    with shmlease.Executor(2, FORK, registry=registry) as pool:
        with pool.put(big) as handle:
            assert handle.nbytes > big.nbytes
            sums = pool.map(total, [{"deep": [handle]}] * 20)
            written = pool.map(add_one, [handle] * 4)
        assert list(sums) == [0] * 20, "a handle that was released waits for the calls submitted before"
        assert [float(array.sum()) for _, array in written] == [LARGE] * 4
        until(lambda: in_use(registry) == 0)
        with pytest.raises(shmlease.LeaseClosedError, match="put the object again"):
            pool.submit(total, {"deep": [handle]}).result()
        assert pool.submit(total, {"deep": [big]}).result() == 0, "that was an error of that call alone"


def test_arguments_take_at_most_half_of_the_capacity(registry: shmlease.Registry) -> None:
    release = FORK.Semaphore(0)

    with shmlease.Executor(4, FORK, initializer=_released.append, initargs=(release,), registry=registry) as pool:
        calls = [pool.submit(after_release, ones(12 << 20)) for _ in range(6)]
        until(lambda: registry.statistics().peaks["bytes"] >= 24 << 20)
        for _ in calls:
            release.release()
        assert [call.result() for call in calls] == [12 << 20] * 6
    peak = registry.statistics().peaks["bytes"]
    # two at a time, and one that is done with, of which the registry has not read yet; without a limit it is five
    assert peak <= 37 << 20, f"of 64 MiB, arguments took {peak}"
    until(lambda: in_use(registry) == 0)


def test_room_is_given_to_others_only_when_the_arguments_have_left_it(registry: shmlease.Registry) -> None:
    pool = calls.Calls(registry, 1)
    room, call = pool._room_bytes, calls.Call(pool, abs, (1,), {})
    rooms: list[int] = []
    call.lease = Mock(nbytes=5, release=lambda: rooms.append(pool._room_bytes))
    call.done(Future())
    assert (rooms, pool._room_bytes) == ([room], room + 5)


def test_result_without_room_travels_in_the_message(registry: shmlease.Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_PATIENCE_S", 0.01)
    with registry.lease(shape=60 << 20, dtype=np.uint8), shmlease.Executor(1, FORK, registry=registry) as pool:
        result = pool.submit(ones, 8 << 20).result()
        assert not is_leased(result)
        assert result.sum() == 8 << 20


def test_program_that_looks_at_no_result_before_all_have_come_is_not_held_up_for_long(
    registry: shmlease.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited, put = FORK.Value("i"), calls.put

    def counted(registry: Any, message: Any, timeout_s: float) -> Any:
        lease = put(registry, message, timeout_s)
        with waited.get_lock():
            waited.value += lease is None and timeout_s > 0
        return lease

    monkeypatch.setattr(calls, "put", counted)
    monkeypatch.setattr(calls, "_PATIENCE_S", 0.05)
    with shmlease.Executor(2, FORK, registry=registry) as pool:
        futures = [pool.submit(ones, 8 << 20) for _ in range(20)]
        wait(futures)
        assert all(future.result().all() for future in futures)
        assert 1 <= sum(is_leased(future.result()) for future in futures) <= 8
    assert waited.value <= 2, "each worker waits in vain once"


def test_results_that_outrun_their_consumer_wait_for_room(
    registry: shmlease.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_PATIENCE_S", 60.0)
    with shmlease.Executor(2, FORK, registry=registry) as pool:
        results = pool.map(ones, [8 << 20] * 24)
        until(lambda: registry.statistics().waiting == 2, what="both workers waiting for room")
        for result in results:
            assert is_leased(result), "nobody gave up"
            del result
    until(lambda: in_use(registry) == 0)


def test_worker_killed_between_making_a_result_and_sending_it_leaves_nothing(registry: shmlease.Registry) -> None:
    with shmlease.Executor(1, FORK, initializer=die_when_a_ticket_is_sent, registry=registry) as pool:
        with pytest.raises(BrokenProcessPool):
            pool.submit(ones, 1 << 20).result()
        begun = time.monotonic()
        until(lambda: in_use(registry) == 0)
        print(f"nothing is left after {(time.monotonic() - begun) * 1e3:.1f} ms")
    assert registry.statistics().counters["receivers died"] == 1, "there was a ticket"


def test_results_of_before_stay_valid_when_a_worker_is_killed(registry: shmlease.Registry) -> None:
    with shmlease.Executor(2, FORK, registry=registry) as pool:
        earlier = list(pool.map(ones, [1 << 20] * 6))
        with pytest.raises(BrokenProcessPool):
            pool.submit(kill_myself, ones(1 << 20)).result()
    assert all(array.all() for array in earlier)
    del earlier
    until(lambda: in_use(registry) == 0)


def test_worker_that_ends_in_order_waits_until_its_last_result_is_read(
    registry: shmlease.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on, read = threading.Event(), threading.Event(), messages.received

    def read_late(source: Any) -> Any:
        reached.set()
        assert go_on.wait(60)
        return read(source)

    monkeypatch.setattr(messages, "received", read_late)
    spawn = multiprocessing.get_context("spawn")
    ended = spawn.Event()
    initial = {"initializer": tell_when_ended, "initargs": (ended,)}
    with shmlease.Executor(1, spawn, max_tasks_per_child=1, registry=registry, **initial) as pool:
        future = pool.submit(ones, 1 << 20)
        assert reached.wait(60)
        assert not ended.wait(0.3)
        go_on.set()
        assert future.result().all()
        assert ended.wait(60)


def test_arguments_are_let_go_when_the_call_is_done(registry: shmlease.Registry) -> None:
    array = np.zeros(LARGE)
    there = weakref.ref(array)
    with shmlease.Executor(1, FORK, registry=registry) as pool:
        future = pool.submit(np.negative, array)
        del array
        assert future.result().sum() == 0
        until(lambda: there() is None)


def test_registry_of_its_own_ends_with_the_last_executor_that_uses_it() -> None:
    program = """
import multiprocessing, os, numpy as np, shmlease
def negative(array): return -array
if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    first = shmlease.Executor(1, fork)
    with shmlease.Executor(1, fork) as second:
        assert first._use.registry is second._use.registry
        future = second.submit(negative, np.ones(20_000))
        first.shutdown()
        result = future.result()
    assert os.environ.get("SHMLEASE_REGISTRY") is None
    with shmlease.Executor(1, fork) as third:
        late = third.submit(negative, np.ones(20_000))
        third.shutdown(wait=False)
        assert late.result().sum() == -20_000
    dropped = shmlease.Executor(1, fork)
    pending = dropped.submit(negative, np.ones(20_000))
    del dropped
    assert pending.result().sum() == -20_000
    print(result.sum())
"""
    environment = {name: value for name, value in os.environ.items() if name != "SHMLEASE_REGISTRY"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "-20000.0", "")


# --- what workers do -----------------------------------------------------------------------------------------------------


_released: list[Any] = []


def after_release(array: Any) -> int:
    _released[0].acquire()
    return int(array.sum())


def kill_myself(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_when_a_ticket_is_sent() -> None:
    send = connection.Connection.send_bytes

    def die(self: Any, sent: Any, *args: Any) -> None:
        if b"Ticket" in bytes(sent):
            os.kill(os.getpid(), signal.SIGKILL)
        send(self, sent, *args)

    connection.Connection.send_bytes = die  # type: ignore[method-assign]


def tell_when_ended(ended: Any) -> None:
    util.Finalize(None, ended.set, exitpriority=-1)


@for_each("method", ["spawn", "forkserver"])
def test_worker_does_not_wait_for_numpy_before_its_first_small_task(registry: shmlease.Registry, method: str) -> None:
    loaded = "' '.join({'numpy', 'shmlease.client.lease'} & {*__import__('sys').modules})"
    with shmlease.Executor(1, multiprocessing.get_context(method), registry=registry) as pool:
        assert pool.submit(eval, loaded).result() == ""
        assert is_leased(pool.submit(np.ones, 100_000).result())
