"""Worker processes of our own: replaced when they die, with the template gone, and ended in order."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rig.until import until
from shmlease.ingestion import template_start
from shmlease.ingestion.tasks import Context, Measure, Measured
from shmlease.ingestion.worker_pool import ProcessWorkerPool, WorkerLostError
from shmlease.text.blocks import Piece
from shmlease.text.header import open_table
from shmlease.text.schema import Schema


class Work:
    """Measuring the strings of a file."""

    attempts = 0

    def __init__(self, path: Path) -> None:
        table = open_table(path, Schema().with_dtype("chr:S,pos:i4,pct:f4"))
        self.context = Context(0, table, None, 1 << 16, 0, "fail")

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


def members(session: int) -> list[int]:
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(pid)
    return found


def test_the_template_leaves_and_its_workers_work(own_pool: ProcessWorkerPool, registry, table) -> None:
    own_pool.start(2, registry.id)
    assert outcome(own_pool, Work(table(50))) == Measured({"chr": 5})
    session = own_pool._templates[0].process.pid
    until(lambda: len(members(session)) == 2 and session not in members(session))
    own_pool.close()
    until(lambda: not members(session))


def test_a_killed_worker_is_replaced_though_the_template_has_left(own_pool: ProcessWorkerPool, registry, table) -> None:
    own_pool.start(1, registry.id)
    work = Work(table(50))
    assert outcome(own_pool, work) == Measured({"chr": 5})
    session = own_pool._templates[0].process.pid
    until(lambda: session not in members(session))
    (worker,) = members(session)
    os.kill(worker, signal.SIGSTOP)
    own_pool.submit(work)
    assert own_pool.wait(0) == []
    os.kill(worker, signal.SIGKILL)
    assert isinstance(outcome(own_pool, work), WorkerLostError)
    assert own_pool.replaced == 1
    assert own_pool.wait(10)[0][1] == Measured({"chr": 5})


def test_a_template_killed_before_it_was_needed_is_replaced(own_pool: ProcessWorkerPool, registry, table) -> None:
    first = own_pool._templates[0].process.pid
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    own_pool.start(1, registry.id)
    assert outcome(own_pool, Work(table(50))) == Measured({"chr": 5})
    assert len(own_pool._templates) == 2


def test_what_a_thread_delivers_wakes_the_wait(own_pool: ProcessWorkerPool) -> None:
    own_pool.deliver("work", "outcome")
    assert own_pool.wait(5) == [("work", "outcome")]


def test_a_template_can_begin_ahead_and_is_ended_when_nobody_takes_it() -> None:
    template_start.begin()
    template_start.begin()
    first = template_start.take()
    template_start.begin()
    second = template_start._begun[0][1]
    template_start.drop()
    first.end()
    assert first.process.returncode == second.process.returncode == -signal.SIGKILL


def test_where_children_are_reaped_at_once_the_template_stays_and_keeps_the_number_of_its_session(registry, table) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        pool = ProcessWorkerPool()
        pool.start(2, registry.id)
        assert outcome(pool, Work(table(50))) == Measured({"chr": 5})
        session = pool._templates[0].process.pid
        assert session in until(lambda: len(members(session)) == 3 and members(session))
        pool.close(orderly=False)
        until(lambda: not members(session))
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_number_of_a_session_that_may_be_another_s_by_now_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    template = template_start.take()
    os.kill(template.process.pid, signal.SIGKILL)
    os.waitpid(template.process.pid, 0)  # as a program does that waits for every child
    monkeypatch.setattr(os, "killpg", lambda *arguments: pytest.fail("somebody else was killed"))
    template.end()
