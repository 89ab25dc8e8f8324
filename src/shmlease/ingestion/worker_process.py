"""A worker process: tasks in, results out, until the coordinator closes the socket.

It is forked by a fork server that has imported this module and has one thread and no connection to the registry, so that
its forks are safe. When its coordinator is gone, it ends after the task in hand.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import NoReturn

from shmlease.client.handle import RegistryHandle
from shmlease.client.link_cache import link_to
from shmlease.client.registry import connect
from shmlease.errors import LeaseError, TicketError
from shmlease.ingestion.task_tickets import tickets_of
from shmlease.ingestion.tasks import TASKS_A_WORKER, Result, Task
from shmlease.ingestion.worker import Worker
from shmlease.ingestion.worker_channel import WorkerChannel
from shmlease.text.native_parser import library

__all__ = ["serve"]

library()  # loaded once, for all workers


def serve(registry_id: str, descriptor: int) -> NoReturn:
    """Do the tasks that come through the socket `descriptor`, then end this process."""
    code = 1
    try:
        # an error's traceback holds views of a lease's array; the lease ends when it is dropped
        registry = connect(registry_id, on_lingering="ignore")
        channel, worker = WorkerChannel(socket.socket(fileno=descriptor)), Worker(registry)
        sent: deque[list[Result | LeaseError]] = deque(maxlen=TASKS_A_WORKER)
        tasks: deque[Task] = deque()
        with contextlib.suppress(OSError):  # the coordinator is gone
            while (message := channel.receive()) is not None:
                tasks.extend(message)
                sent.append([])
                while tasks:
                    sent[-1].append(_outcome(worker, tasks.popleft()))
                    channel.send(sent[-1][-1])
        _reclaim_tickets(registry, [*chain(*sent), *tasks, *chain(*iter(channel.take, None))])
        link_to(registry_id).close()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)  # at once: the coordinator waits for it


def _outcome(worker: Worker, task: Task) -> Result | LeaseError:
    try:
        return worker.run(task)
    except LeaseError as error:
        return error.with_traceback(None)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return LeaseError(f"a worker failed: {type(error).__name__}: {error}")


def _reclaim_tickets(registry: RegistryHandle, values: Sequence[Task | Result | LeaseError]) -> None:
    """Redeem what nobody else will: tickets that the coordinator had no time to redeem, or of tasks that were not begun."""
    for value in values:
        for ticket in () if isinstance(value, LeaseError) else tickets_of(value):
            with contextlib.suppress(TicketError):
                registry.redeem(ticket).release()
