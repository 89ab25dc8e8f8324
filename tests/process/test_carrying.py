"""`carrying` over real processes: what multiprocessing sends has its large parts in shared memory, in children too."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest

import shmlease
from rig.leased_arrays import add_one, in_use, is_leased
from rig.repeated import for_each
from rig.until import until

LARGE = 20_000  # float64: above 64 KiB
FORK = multiprocessing.get_context("fork")


def in_a_child(array: Any) -> Any:
    """A child of a child, with the start method of its parent."""
    queue = multiprocessing.SimpleQueue()
    child = multiprocessing.Process(target=put_in, args=(queue, len(array)))
    child.start()
    got = queue.get()
    child.join()
    return is_leased(got), got


def put_in(queue: Any, size: int) -> None:
    queue.put(np.ones(size))


def send_back(connection: Any) -> None:
    connection.send(add_one(connection.recv()))


@for_each("method", ["fork", "spawn", "forkserver"])
def test_what_is_sent_travels_as_leases_both_ways_with_every_start_method(registry: shmlease.Registry, method: str) -> None:
    context = multiprocessing.get_context(method)
    with shmlease.carrying(registry) as carried:
        assert carried is registry
        with ProcessPoolExecutor(1, context) as pool:
            answers = [*pool.map(add_one, [np.zeros(LARGE)] * 2), pool.submit(in_a_child, np.zeros(LARGE)).result()]
    assert all(there and is_leased(array) and array.sum() == LARGE for there, array in answers)
    for _, array in answers:
        array.fill(0)
    del answers, array
    until(lambda: in_use(registry) == 0)


def test_pool_queues_pipes_and_managers_carry(registry: shmlease.Registry) -> None:
    array = np.zeros(LARGE)
    with shmlease.carrying(registry):
        with FORK.Pool(1) as pool:
            answers = [*pool.map(add_one, [array, array]), pool.apply_async(add_one, (array,)).get()]
            pool.close()
            pool.join()
        ours, theirs = FORK.Pipe()
        child = FORK.Process(target=send_back, args=(theirs,))
        child.start()
        ours.send(array)
        answers.append(ours.recv())
        child.join()
        queue, simple = FORK.Queue(), FORK.SimpleQueue()
        queue.put(array)
        answers.append((True, queue.get() + 1))
        simple.put({"in": [array]})
        assert is_leased(simple.get()["in"][0])
        with FORK.Manager() as manager:
            shared = manager.list([array])
            assert is_leased(shared[0])
            shared.append(array)
            assert shared[1].sum() == 0
        queue.close()
        queue.join_thread()
        simple.close()
    assert all(there and array.sum() == LARGE for there, array in answers)
    del answers
    until(lambda: in_use(registry) == 0)


def test_small_messages_are_as_ever(registry: shmlease.Registry) -> None:
    readonly = np.arange(10)
    readonly.flags.writeable = False
    with shmlease.carrying(registry, min_nbytes="1MiB"):
        for value in (1, "text", [np.zeros(100)], np.zeros(LARGE), {"r": readonly}):
            pickle.loads(ForkingPickler.dumps(value))
        arrived = pickle.loads(ForkingPickler.dumps({"r": readonly}))["r"]
        arrived += 1
    assert registry.statistics().counters.get("leases", 0) == 0


def test_innermost_carries_and_nobody_after_the_last(registry: shmlease.Registry) -> None:
    array = np.zeros(LARGE)

    def carries() -> bool:
        return is_leased(pickle.loads(ForkingPickler.dumps(array)))

    with shmlease.carrying(registry):
        assert carries()
        with shmlease.carrying(registry, min_nbytes="1MiB"):
            assert not carries()
        assert carries()
        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.append(carries()))
        thread.start()
        thread.join()
        assert seen == [True], "it holds for all threads"
    assert not carries()
    assert not [key for key in multiprocessing.current_process()._config if "shmlease" in key]  # type: ignore[attr-defined]


def test_blocks_of_several_threads_may_end_in_any_order(registry: shmlease.Registry) -> None:
    first, second = shmlease.carrying(registry), shmlease.carrying(registry)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert is_leased(pickle.loads(ForkingPickler.dumps(np.zeros(LARGE))))
    second.__exit__(None, None, None)
    assert not is_leased(pickle.loads(ForkingPickler.dumps(np.zeros(LARGE))))


def test_what_a_feeder_thread_pickles_late_arrives(registry: shmlease.Registry) -> None:
    queue = FORK.Queue()
    queue.put(np.zeros(1 << 20))  # it fills the pipe: the feeder waits
    with shmlease.carrying(registry):
        for n in range(20):
            queue.put(np.full(LARGE, float(n)))
        assert queue.get().sum() == 0
        assert [queue.get()[0] for _ in range(10)] == list(range(10))
        leased = queue.get()
        assert is_leased(leased)
        queue.put(np.full(1 << 18, 20.0))
    assert [queue.get()[0] for _ in range(10)] == [*range(11, 20), 20]
    queue.close()
    queue.join_thread()
    del leased
    until(lambda: in_use(registry) == 0)


def test_message_can_be_unpickled_once(registry: shmlease.Registry) -> None:
    with shmlease.carrying(registry):
        message = bytes(ForkingPickler.dumps(np.zeros(LARGE)))
    assert pickle.loads(message).sum() == 0
    with pytest.raises(shmlease.TicketError) as caught:
        pickle.loads(message)
    assert "can be unpickled once" in caught.value.__notes__[0]


def test_message_that_nobody_unpickles_ends_with_who_began_to_carry(registry: shmlease.Registry) -> None:
    program = f"""
import multiprocessing, numpy as np, shmlease
registry = shmlease.connect({registry.id!r})
def put(queue): queue.put(np.zeros({LARGE}))
with shmlease.carrying(registry):
    queue = multiprocessing.get_context("fork").SimpleQueue()
    child = multiprocessing.get_context("fork").Process(target=put, args=(queue,))
    child.start()
    child.join()
    print(registry.statistics().tickets, flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n", "it outlives the process that sent it"
        assert in_use(registry) == 2
        process.kill()
    until(lambda: in_use(registry) == 0)


def test_where_there_is_no_room_or_no_registry_the_message_is_as_ever() -> None:
    with shmlease.Registry("1MiB") as registry, shmlease.carrying(registry):
        assert not is_leased(pickle.loads(ForkingPickler.dumps(np.zeros(1 << 20))))
        registry.close()
        assert not is_leased(pickle.loads(ForkingPickler.dumps(np.zeros(LARGE))))


def test_what_cannot_be_pickled_is_the_error_it_always_was(registry: shmlease.Registry) -> None:
    with shmlease.carrying(registry), pytest.raises((AttributeError, pickle.PicklingError)):
        ForkingPickler.dumps([np.zeros(LARGE), lambda: 0])
    until(lambda: in_use(registry) == 0)


def test_registry_of_its_own_is_found_by_the_children_and_ends_with_the_block() -> None:
    program = f"""
import multiprocessing, os, numpy as np, shmlease
def child(connection): connection.send(np.ones({LARGE}))
with shmlease.carrying() as registry:
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    array = ours.recv()
    process.join()
    assert registry.statistics().counters["tickets"] == 1
assert os.environ.get("SHMLEASE_REGISTRY") is None
print(array.sum())
"""
    environment = {name: value for name, value in os.environ.items() if name != "SHMLEASE_REGISTRY"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "20000.0", "")
