"""The process that workers are forked from: it imports what they need, once, and then only forks and waits.

It has one thread and no connection to the registry, so that its forks are safe. When its coordinator is gone it ends, and
its workers with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NoReturn

from leasehold.client.handle import RegistryHandle
from leasehold.client.links import link_to
from leasehold.client.registry import connect
from leasehold.errors import LeaseholdError, TicketError
from leasehold.pipeline.channel import Channel
from leasehold.pipeline.tasks import TASKS_A_WORKER, Result, Task
from leasehold.pipeline.worker import Worker
from leasehold.tabular.native import library

__all__ = ["main"]

# What a worker needs to finish its block, and to leave by itself.
_GRACE_S: Final = 1.0


def main(control_fd: str) -> NoReturn:
    """Fork a worker for each registry id and socket that come through `control_fd`, until that is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps the workers
    control = socket.socket(fileno=int(control_fd))
    library()
    gc.freeze()  # a collection would write to every page that is shared with the template
    gc.enable()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 256, 1)
        if not message:
            break
        if os.fork() == 0:
            control.close()
            _serve(message.decode(), socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])
    _end_workers()


def _serve(registry_id: str, connection: socket.socket) -> NoReturn:
    """A worker: tasks in, results out, until the coordinator closes the socket."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        # an error's traceback holds views of a lease's array; the lease ends when it is dropped
        registry = connect(registry_id, on_lingering="ignore")
        channel, worker = Channel(connection), Worker(registry)
        sent: deque[Result | LeaseholdError] = deque(maxlen=TASKS_A_WORKER)
        with contextlib.suppress(OSError):  # the coordinator is gone
            while (task := channel.receive()) is not None:
                sent.append(_outcome(worker, task))
                channel.send(sent[-1])
        _take_back(registry, [*sent, *iter(channel.take, None)])
        link_to(registry_id).close()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _outcome(worker: Worker, task: Task) -> Result | LeaseholdError:
    try:
        return worker.run(task)
    except LeaseholdError as error:
        return error.with_traceback(None)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return LeaseholdError(f"a worker failed: {type(error).__name__}: {error}")


def _take_back(registry: RegistryHandle, values: Sequence[Task | Result | LeaseholdError]) -> None:
    """Use up what nobody else will: tickets that the coordinator had no time to redeem, or for tasks that were not begun."""
    for value in values:
        for ticket in () if isinstance(value, LeaseholdError) else value.tickets:
            with contextlib.suppress(TicketError):
                registry.redeem(ticket).release()


def _end_workers() -> NoReturn:
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # none is left
            os._exit(0)
        time.sleep(0.002)
    os.killpg(0, signal.SIGKILL)
    os._exit(1)
