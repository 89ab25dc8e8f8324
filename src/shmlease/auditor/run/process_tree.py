"""The processes of a job: who descends from whom, and whether one still runs.

psutil is exact enough for messages and for waiting. What an audit must know exactly, such as who holds what in which
thread, namespace and start tick, `shmlease.auditor.observe` reads from /proc.
"""

from __future__ import annotations

from collections.abc import Iterator

import psutil

from shmlease.auditor.judge.findings import Process

__all__ = ["descendants_of", "is_running"]

_DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def descendants_of(ancestor: int) -> tuple[Process, ...]:
    """The live processes that descend from `ancestor` now."""
    return tuple(sorted(_living(psutil.Process(ancestor).children(recursive=True)), key=lambda process: process.pid))


def _living(processes: list[psutil.Process]) -> Iterator[Process]:
    for process in processes:
        try:
            # a process whose first thread has ended lives as long as another does
            if process.status() not in _DEAD or process.num_threads() > 1:
                yield Process(process.pid, command=_command(process))
        except psutil.NoSuchProcess:
            continue  # it ended meanwhile


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.ZombieProcess:
        return str(process.name())


def is_running(pid: int) -> bool:
    """Whether there is a process of that pid."""
    return bool(psutil.pid_exists(pid))
