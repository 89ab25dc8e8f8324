"""The process that workers are forked from: it imports what they need, once, and then only forks and waits.

It has one thread and no connection to the registry, so that its forks are safe. It ends when it is asked to, so that its memory
is not kept for nothing, or when its coordinator is gone. A worker ends when its coordinator is gone, after the task in hand.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from typing import NoReturn

from shmlease.client.handle import RegistryHandle
from shmlease.client.links import link_to
from shmlease.client.registry import connect
from shmlease.errors import LeaseError, TicketError
from shmlease.ingestion.tasks import TASKS_A_WORKER, Result, Task, tickets_of
from shmlease.ingestion.template_start import LEAVE
from shmlease.ingestion.worker import Worker
from shmlease.ingestion.worker_channel import WorkerChannel
from shmlease.text.native_parser import library

__all__ = ["main"]


def main(control_fd: str) -> NoReturn:
    """Fork a worker for each registry id and socket that come through `control_fd`, until asked to leave."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps the workers
    control = socket.socket(fileno=int(control_fd))
    library()
    gc.freeze()  # a collection would write to every page that is shared with the template
    gc.enable()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 256, 1)
        if message in (b"", LEAVE):
            os._exit(0)
        if os.fork() == 0:
            control.close()
            _serve(message.decode(), socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])


def _serve(registry_id: str, connection: socket.socket) -> NoReturn:
    """A worker: tasks in, results out, until the coordinator closes the socket."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        # an error's traceback holds views of a lease's array; the lease ends when it is dropped
        registry = connect(registry_id, on_lingering="ignore")
        channel, worker = WorkerChannel(connection), Worker(registry)
        sent: deque[Result | LeaseError] = deque(maxlen=TASKS_A_WORKER)
        with contextlib.suppress(OSError):  # the coordinator is gone
            while (task := channel.receive()) is not None:
                sent.append(_outcome(worker, task))
                channel.send(sent[-1])
        _reclaim_tickets(registry, [*sent, *iter(channel.take, None)])
        link_to(registry_id).close()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _outcome(worker: Worker, task: Task) -> Result | LeaseError:
    try:
        return worker.run(task)
    except LeaseError as error:
        return error.with_traceback(None)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return LeaseError(f"a worker failed: {type(error).__name__}: {error}")


def _reclaim_tickets(registry: RegistryHandle, values: Sequence[Task | Result | LeaseError]) -> None:
    """Use up what nobody else will: tickets that the coordinator had no time to redeem, or for tasks that were not begun."""
    for value in values:
        for ticket in () if isinstance(value, LeaseError) else tickets_of(value):
            with contextlib.suppress(TicketError):
                registry.redeem(ticket).release()
