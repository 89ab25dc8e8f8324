"""The public calls, ready to be interrupted: what each needs, what it does, and what its caller has to do after that."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import shmlease
from rig.until import until
from shmlease.client.directory_endpoint import DirectoryEndpoint
from shmlease.client.handle import RegistryHandle
from shmlease.client.link import Link
from shmlease.system.directory import RegistryDirectory

ARRAY = np.arange(500.0)

# A generator function for each call: it prepares, yields what is to be interrupted, and ends what a caller has left in
# hand.
Call = Callable[[shmlease.Registry], Iterator[Callable[[], Any]]]


def statistics(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    yield registry.statistics


def trim(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    yield registry.trim


def connect(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    yield lambda: shmlease.connect(registry.id)


def first_use(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    """A client of its own, which is not connected yet."""
    link = Link(DirectoryEndpoint(RegistryDirectory(registry.id)))
    yield lambda: RegistryHandle(link).share(ARRAY).release()
    link.close()


def closing_a_link(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    link = Link(DirectoryEndpoint(RegistryDirectory(registry.id)))
    RegistryHandle(link).share(ARRAY).release()
    yield link.close
    link.close()


def lease(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    """On a segment granted ahead."""
    session = registry._link.session
    session.give_up_kept()
    session.spares_taken = 0
    registry.share(ARRAY).release()
    yield lambda: registry.lease(shape=500).release()


def _keep_a_spare(registry: shmlease.Registry) -> None:
    while registry._link.session.kept is None:
        registry.lease(shape=500).release()


def lease_of_what_was_kept(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    """On a spare that is used without notices."""
    _keep_a_spare(registry)
    yield lambda: registry.lease(shape=500).release()


def lease_of_another_size_than_what_was_kept(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    """The spare goes back, and another one is taken."""
    _keep_a_spare(registry)
    yield lambda: registry.lease(shape=5000).release()
    registry.lease(shape=500).release()


def publish_what_was_kept(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    """From here on notices tell of it."""
    _keep_a_spare(registry)
    lease = registry.lease(shape=500)
    yield lease.publish
    lease.release()


def lease_by_request(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    yield lambda: registry.lease("name", shape=500).release()


def lease_that_is_refused(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    def refused() -> None:
        with contextlib.suppress(shmlease.CapacityError):
            registry.lease(shape=2**30, timeout=0)

    yield refused


def share(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    registry.share(ARRAY).release()
    yield lambda: registry.share(ARRAY).release()


def share_by_name(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    yield lambda: registry.share(ARRAY, "name").release()


def share_by_threads(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    values = np.zeros(1 << 20)
    yield lambda: registry.share(values).release()


def attach(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    with registry.share(ARRAY, "name"):
        yield lambda: registry.attach("name").release()


def attach_in_vain(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    def waits() -> None:
        with contextlib.suppress(shmlease.SegmentNotFoundError):
            registry.attach("nothing", timeout=0.01)

    yield waits


def redeem(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    with registry.share(ARRAY) as lease:
        ticket = lease.ticket()
        yield lambda: registry.redeem(ticket).release()
        with contextlib.suppress(shmlease.TicketError):
            registry.redeem(ticket).release()


def ticket(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    made: list[shmlease.Ticket] = []
    with registry.share(ARRAY) as lease:
        yield lambda: made.append(lease.ticket())
        for ticket in made:
            registry.redeem(ticket).release()


def publish(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    with registry.lease("name", shape=500) as lease:
        yield lease.publish
        lease.publish()
        registry.attach("name", timeout=60).release()


def array(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    with registry.share(ARRAY, "name"), registry.attach("name") as lease:
        yield lambda: lease.array[0]
        assert lease.array[499] == 499.0
        assert not lease.array.flags.writeable


def segment(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    with registry.share(ARRAY) as lease:
        yield lambda: lease.segment
        assert os.path.exists(f"/dev/shm/{lease.segment}")


def release(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    lease = registry.share(ARRAY)
    yield lease.release
    lease.release()


def end_of_a_with_block(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    lease = registry.share(ARRAY)
    yield lambda: lease.__exit__(None, None, None)
    lease.release()


def release_with_a_view_alive(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    lease = registry.share(ARRAY)
    view = lease.array[3:]
    yield lease.release
    lease.release()
    assert view.sum() == ARRAY[3:].sum()
    del view


def death_of_the_last_view(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    lease = registry.share(ARRAY)
    views = [lease.array[3:]]
    lease.release()
    yield views.clear
    views.clear()


def detach(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    lease, kept = registry.share(ARRAY), []
    yield lambda: kept.append(lease.detach())
    lease.release()
    kept.clear()


def put(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    yield lambda: registry.put({"x": ARRAY}).release()


def get(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    with registry.put({"x": ARRAY}, "name"):

        def use() -> None:
            assert registry.get("name")["x"].sum() == ARRAY.sum()

        yield use


def lease_mutable(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    yield lambda: registry.lease("name", shape=500, mutable=True).release()


def attach_copy_on_write(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    with registry.share(ARRAY, "name"):
        yield lambda: registry.attach("name", mode="c").release()


def attach_by_address(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    with registry.share(ARRAY) as lease:
        yield lambda: registry.attach(lease.address()).release()


def revoke(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    with registry.share(ARRAY) as lease:
        ticket = lease.ticket()
        yield lambda: registry.revoke(ticket)
        registry.revoke(ticket)


def withdraw(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    with registry.share(ARRAY, "name"):
        yield lambda: registry.withdraw("name")
        with contextlib.suppress(shmlease.SegmentNotFoundError):
            registry.withdraw("name")


def lease_that_is_lost(registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    leases = [registry.share(ARRAY)]
    yield leases.clear
    leases.clear()


CALLS: list[Call] = [
    statistics,
    trim,
    connect,
    first_use,
    closing_a_link,
    lease,
    lease_by_request,
    lease_of_what_was_kept,
    lease_of_another_size_than_what_was_kept,
    publish_what_was_kept,
    lease_that_is_refused,
    share,
    share_by_name,
    share_by_threads,
    attach,
    attach_in_vain,
    redeem,
    ticket,
    publish,
    array,
    segment,
    release,
    end_of_a_with_block,
    release_with_a_view_alive,
    death_of_the_last_view,
    detach,
    put,
    get,
    lease_mutable,
    attach_copy_on_write,
    attach_by_address,
    revoke,
    withdraw,
]


def in_use(registry: shmlease.Registry) -> tuple[dict[str, int], int, int, list[str]]:
    """What the registry has in use: leases, tickets, waiting calls; and tokens that lie about."""
    figures = registry.statistics()
    leases = {mode: count for mode, count in figures.leases.items() if count and mode != "spare"}
    tokens = [name for name in os.listdir(RegistryDirectory(registry.id).path) if name.startswith("t")]
    return leases, figures.tickets, figures.waiting, tokens


def descriptors(registry: shmlease.Registry | None = None) -> int:
    """How many this process has open, apart from that of the spare that the link to `registry` keeps."""
    kept = None if registry is None else registry._link.session.kept
    return len(os.listdir("/proc/self/fd")) - (kept is not None)


def nothing_is_left(registry: shmlease.Registry, before: Any, descriptors_before: int) -> None:
    """Fail unless the link answers at once, and all is as it was `before`."""
    begun = time.monotonic()
    registry.statistics()
    assert time.monotonic() - begun < 60, "the link hardly answers"
    until(lambda: in_use(registry) == before, what=f"the end of what was taken: {in_use(registry)}")
    until(
        lambda: descriptors(registry) <= descriptors_before,
        what=f"{descriptors(registry)} descriptors to become {descriptors_before}",
    )


@contextlib.contextmanager
def prepared(call: Call, registry: shmlease.Registry) -> Iterator[Callable[[], Any]]:
    """What `call` yields, and its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", shmlease.LeaseWarning)
        course = call(registry)
        yield next(course)
        next(course, None)
        del course
