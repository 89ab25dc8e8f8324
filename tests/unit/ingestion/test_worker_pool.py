"""Worker processes of our own: replaced when they die, with the fork server gone, and ended in order."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rig.until import until
from shmlease.ingestion import worker_forkserver
from shmlease.ingestion.pool_protocol import WorkerLostError
from shmlease.ingestion.tasks import TASK_BYTES, Context, Measure, Measured
from shmlease.ingestion.worker_pool import ProcessWorkerPool
from shmlease.text.blocks import Piece
from shmlease.text.header import open_table
from shmlease.text.schema import Schema


class Work:
    """Measuring the strings of a file."""

    attempts = 0
    session = None

    def __init__(self, path: Path, weight: int = TASK_BYTES) -> None:
        self.weight = weight
        table = open_table(path, Schema().with_dtype("chr:S,pos:i4,pct:f4"))
        self.context = Context(0, table, None, 1 << 16, 1 << 18, 0, "fail")

    def task(self) -> Measure:
        return Measure(self.context, Piece(0, self.context.table.data_offset, None))

    def lost(self) -> None:
        pass


@pytest.fixture
def own_pool(registry):
    pool = ProcessWorkerPool()
    yield pool
    pool.close(orderly=False)


def outcome(pool: ProcessWorkerPool, work: Work) -> object:
    pool.submit(work)
    done: list = []
    until(lambda: done.extend(pool.wait(0.05)) or done)
    ((same, result),) = done
    assert same is work
    return result


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("when_children_end", [signal.SIG_DFL, signal.SIG_IGN])
def test_the_fork_server_leaves_and_its_workers_work_until_the_end(
    when_children_end: signal.Handlers, registry, table
) -> None:
    before = signal.signal(signal.SIGCHLD, when_children_end)
    try:
        pool = ProcessWorkerPool()
        pool.start(2, registry.id)
        assert outcome(pool, Work(table(50))) == Measured({"chr": 5})
        until(lambda: not is_running(pool._forkservers[0].pid))
        workers = [process.child for process in pool._processes]
        assert [worker.is_alive for worker in workers] == [True, True]
        pool.close()
        until(lambda: not any(is_running(worker.pid) for worker in workers))
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_killed_worker_is_replaced_though_the_fork_server_has_left(own_pool: ProcessWorkerPool, registry, table) -> None:
    own_pool.start(1, registry.id)
    work = Work(table(50))
    assert outcome(own_pool, work) == Measured({"chr": 5})
    until(lambda: not is_running(own_pool._forkservers[0].pid))
    worker = own_pool._processes[0].child
    worker.signal(signal.SIGSTOP)
    own_pool.submit(work)
    assert own_pool.wait(0) == []
    worker.signal(signal.SIGKILL)
    assert isinstance(outcome(own_pool, work), WorkerLostError)
    assert own_pool.replaced == 1
    assert own_pool.wait(60)[0][1] == Measured({"chr": 5})


def test_a_fork_server_killed_before_it_was_needed_is_replaced(own_pool: ProcessWorkerPool, registry, table) -> None:
    own_pool._forkservers[0]._own.kill()
    own_pool.start(1, registry.id)
    assert outcome(own_pool, Work(table(50))) == Measured({"chr": 5})
    assert len(own_pool._forkservers) == 2


def test_workers_end_by_themselves_once_all_is_done(own_pool: ProcessWorkerPool, registry, table) -> None:
    own_pool.start(2, registry.id)
    assert outcome(own_pool, Work(table(50))) == Measured({"chr": 5})
    pids = [process.child.pid for process in own_pool._processes]
    own_pool.finish()
    until(lambda: not any(map(is_running, pids)))
    assert own_pool.replaced == 0


def test_what_a_thread_delivers_wakes_the_wait(own_pool: ProcessWorkerPool) -> None:
    own_pool.deliver("work", "outcome")
    assert own_pool.wait(60) == [("work", "outcome")]


def test_a_fork_server_can_begin_ahead_and_is_ended_when_nobody_takes_it() -> None:
    worker_forkserver.begin()
    worker_forkserver.begin()
    first = worker_forkserver.take()
    worker_forkserver.begin()
    second = worker_forkserver._begun[0][1]
    worker_forkserver.drop()
    first.close()
    assert not worker_forkserver._begun
    assert not is_running(first.pid) | is_running(second.pid)


def test_small_work_goes_to_a_worker_together_and_a_killed_one_loses_only_what_it_did(
    own_pool: ProcessWorkerPool, registry, table
) -> None:
    own_pool.start(1, registry.id)
    works = [Work(table(50), TASK_BYTES // 8) for _ in range(24)]
    assert outcome(own_pool, works[0]) == Measured({"chr": 5})
    worker = own_pool._processes[0].child
    worker.signal(signal.SIGSTOP)
    for work in works:
        assert own_pool.wants_work is (work not in works[16:])  # two tasks, each of eight
        own_pool.submit(work)
    assert own_pool.wait(0) == []
    assert list(own_pool._processes[0].pending) == works[:16]
    worker.signal(signal.SIGKILL)
    done: list = []
    until(lambda: done.extend(own_pool.wait(0.05)) or len(done) == 24)
    assert [work for work, _ in done] == works
    assert isinstance(done[0][1], WorkerLostError)
    assert [result for _, result in done[1:]] == [Measured({"chr": 5})] * 23
    assert own_pool.replaced == 1
