"""Processes that tickets were made for: one pidfd each, however many tickets, and none when the last ticket has ended."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rig.shell import identity
from shmlease.core.model import Identity
from shmlease.registry.receivers import Receivers
from shmlease.system.descriptors import descriptors_of
from shmlease.system.identity import identify


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True) as child:
        yield child
        child.kill()


@pytest.fixture
def poll() -> select.epoll:
    return select.epoll()


@pytest.fixture
def receivers(poll: select.epoll) -> Iterator[Receivers]:
    made = Receivers(poll)
    yield made
    made.close()
    poll.close()


def test_end_of_a_process_ends_all_its_tickets(
    receivers: Receivers, poll: select.epoll, process: subprocess.Popen[str]
) -> None:
    receiver = identify(process.pid)
    before = descriptors_of().in_use
    assert all(receivers.watch(ticket, receiver) for ticket in (1, 2, 3))
    assert descriptors_of().in_use == before + 1
    receivers.unwatch(2)
    process.kill()
    ((fd, _),) = poll.poll(30)
    assert fd in receivers
    assert receivers.ended(fd) == [1, 3]
    assert descriptors_of().in_use == before


def test_descriptor_of_a_process_without_a_ticket_is_kept_for_the_next_one_until_it_ends(
    receivers: Receivers, poll: select.epoll, process: subprocess.Popen[str]
) -> None:
    before = descriptors_of().in_use
    for _ in range(2):
        assert receivers.watch(1, identify(process.pid))
        receivers.unwatch(1)
        receivers.unwatch(1)
        assert descriptors_of().in_use == before + 1
    process.kill()
    ((fd, _),) = poll.poll(30)
    assert receivers.ended(fd) == []
    assert descriptors_of().in_use == before


def test_few_processes_without_a_ticket_are_watched(receivers: Receivers) -> None:
    before = descriptors_of().in_use
    with contextlib.ExitStack() as stack:
        for number in range(12):
            idle = stack.enter_context(subprocess.Popen(["sleep", "60"]))
            stack.callback(idle.kill)
            assert receivers.watch(number, identify(idle.pid))
            receivers.unwatch(number)
        assert descriptors_of().in_use == before + 8
    receivers.close()
    assert descriptors_of().in_use == before


def test_process_that_has_ended_is_told_at_once(receivers: Receivers, process: subprocess.Popen[str]) -> None:
    receiver = identify(process.pid)
    process.kill()
    process.wait()
    assert not receivers.watch(1, receiver)


def test_process_of_another_namespace_counts_as_alive(receivers: Receivers) -> None:
    elsewhere: Identity = identity(1)
    assert receivers.watch(1, elsewhere)
    receivers.unwatch(1)
