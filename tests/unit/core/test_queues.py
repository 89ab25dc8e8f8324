"""Queues of those who wait: order of arrival, deadlines, and leaving from anywhere."""

from __future__ import annotations

from shmlease.core.messages import Attach, Lease
from shmlease.core.queues import AttachQueue, LeaseQueue, Waiter


def writer(client: int, deadline_ns: int = 100) -> Waiter[Lease]:
    return Waiter(client, Lease(1, client << 40 | 1, None, 4096, 1, b"", "", 0, 0), 0, deadline_ns)


def reader(client: int, name: str, deadline_ns: int = 100) -> Waiter[Attach]:
    return Waiter(client, Attach(1, client << 40 | 1, name, "", 0, 0), 0, deadline_ns)


def test_room_is_given_first_come_first_served() -> None:
    queue = LeaseQueue()
    first, second, third = writer(1), writer(2), writer(3)
    for waiter in (first, second):
        queue.append(waiter)
    queue.put_back(third)
    assert queue.first() is third
    queue.remove(first)
    queue.remove(third)
    assert queue.first() is second
    assert len(queue) == 1


def test_those_who_have_waited_long_enough_are_found_wherever_they_stand() -> None:
    queue = LeaseQueue()
    waiters = [writer(1, 300), writer(2, 100), writer(3, 200)]
    for waiter in waiters:
        queue.append(waiter)
    assert queue.overdue(99) == []
    assert queue.overdue(200) == [waiters[1], waiters[2]]


def test_what_a_client_asked_for_is_forgotten_with_it() -> None:
    leases, attaches = LeaseQueue(), AttachQueue()
    for client in (1, 2, 1):
        leases.append(writer(client))
        attaches.append(reader(client, f"n{client}"))
    leases.forget(1)
    attaches.forget(1)
    assert (len(leases), len(attaches)) == (1, 1)
    assert leases.first().client == 2
    assert [waiter.client for waiter in attaches.drain()] == [2]
    assert [waiter.client for waiter in leases.drain()] == [2]
    assert (len(leases), len(attaches)) == (0, 0)


def test_readers_of_a_name_are_taken_together_in_order() -> None:
    queue = AttachQueue()
    for client, name in ((1, "a"), (2, "b"), (3, "a")):
        queue.append(reader(client, name))
    assert [waiter.client for waiter in queue.take("a")] == [1, 3]
    assert queue.take("a") == []
    assert len(queue) == 1


def test_overdue_readers_leave_the_others_waiting() -> None:
    queue = AttachQueue()
    queue.append(reader(1, "a", 100))
    queue.append(reader(2, "a", 300))
    assert [waiter.client for waiter in queue.take_overdue(200)] == [1]
    assert [waiter.client for waiter in queue.take("a")] == [2]
