"""Bugs to be planted one at a time, to see that each is found.

A process that imports this module while SHMLEASE_PLANTED_BUG names a bug has that bug: the fork server and its workers by
preloading it, registries because `plant` makes every launch import it first. Nothing of it is in the product.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from rig import plants
from shmlease.core import messages as m
from shmlease.core.effects import RetireSegment
from shmlease.core.model import Gone, SegmentRow, SegmentState, TicketRow
from shmlease.core.snapshot import Snapshot
from shmlease.system import launch
from shmlease.system.forkserver import Process
from shmlease.system.ledger import read_ledger

ENVIRONMENT: Final = "SHMLEASE_PLANTED_BUG"
_BOOT: Final = launch._BOOT


# --- in the registry -------------------------------------------------------------------------------------------------


def dead_holders_keep_their_leases() -> None:
    from shmlease.core.table import Table

    Table.holder_died = lambda self, client, now_ns: None  # type: ignore[method-assign]


def memory_of_the_dead_is_used_again() -> None:
    plants.on_rows(lambda row: replace(row, tainted=False) if isinstance(row, SegmentRow) else row)


def memory_known_elsewhere_is_used_again() -> None:
    plants.on_rows(lambda row: replace(row, exposed=False) if isinstance(row, SegmentRow) else row)


def tickets_hold_nothing() -> None:
    plants.after_rows(lambda rows, row: rows.tickets_on.clear(row.segment) if isinstance(row, TicketRow) else None)


def arrays_can_be_attached_before_they_are_published() -> None:
    def published_too_early(table: Any, client: int, message: Any) -> Any:
        number = table.rows.by_name.get(message.name) if isinstance(message, m.Attach) else None
        if number is not None and table.rows.segments[number].state is SegmentState.FILLING:
            table.rows.put(replace(table.rows.segments[number], state=SegmentState.PUBLISHED))
        return message

    plants.on_messages(published_too_early)


def the_writer_takes_the_segment_with_it() -> None:
    def released(table: Any, client: int, message: Any) -> Any:
        lease = table.rows.leases.get(message.lease) if isinstance(message, m.Release) else None
        if lease is not None and lease.mode == "write":
            segment = table.rows.segments[lease.segment]
            if segment.state is SegmentState.PUBLISHED:
                table.rows.move_segment(segment, "last use ended, or trimmed", name=None)
                table.effects.append(RetireSegment(segment.number, segment.alias, punch=not segment.exposed))
        return message

    plants.on_messages(released)


def a_successor_forgets_tickets() -> None:
    from shmlease.registry import process

    original = process._inheritance

    def inherit(store: Any) -> Snapshot | None:
        snapshot = original(store)
        return snapshot and replace(snapshot, tickets={})

    process._inheritance = inherit


def releases_are_not_written_down() -> None:
    from shmlease.system.ledger import Ledger

    original = Ledger.commit
    Ledger.commit = lambda self, changes: original(  # type: ignore[method-assign]
        self, [change for change in changes if not (isinstance(change, Gone) and change.tag == "L")]
    )


def published_segments_do_not_count() -> None:
    def uncount(rows: Any, row: Any) -> None:
        if isinstance(row, SegmentRow) and row.state is SegmentState.PUBLISHED:
            rows.used_bytes -= row.size_bytes

    plants.after_rows(uncount)


def expired_tickets_stay_good() -> None:
    from shmlease.system.directory import RegistryDirectory

    RegistryDirectory.void_token = lambda self, ticket: None  # type: ignore[method-assign]


def names_in_shm_are_left() -> None:
    from shmlease.system.directory import RegistryDirectory

    original = RegistryDirectory.retire_segment
    RegistryDirectory.retire_segment = lambda self, number, alias, *, punch: original(  # type: ignore[method-assign]
        self, number, "", punch=punch
    )


def promised_readers_are_not_waited_for() -> None:
    plants.on_messages(
        lambda table, client, message: replace(message, readers=0) if isinstance(message, m.Publish) else message
    )


def trimming_leaves_the_memory() -> None:
    plants.answered_and_not_done(m.Trim, lambda table, message: m.Done(message.seq, table.rows.warm.total_bytes))


def withdrawn_names_stay_taken() -> None:
    plants.answered_and_not_done(m.Withdraw, lambda table, message: m.Done(message.seq))


def tickets_outlive_their_receivers() -> None:
    from shmlease.core.tickets import Tickets

    Tickets.receiver_ended = lambda self, ticket_id, now_ns: None  # type: ignore[method-assign]


def tickets_taken_back_hold_on() -> None:
    plants.on_messages(lambda table, client, message: None if isinstance(message, m.Revoked) else message)


def the_end_of_its_owner_makes_it_spin() -> None:
    from shmlease.core.table import Table

    def spin(self: Table, now_ns: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
        while True:
            pass

    Table.owner_ended = spin  # type: ignore[method-assign]


# --- in the clients --------------------------------------------------------------------------------------------------


def readers_may_write() -> None:
    from shmlease.client.directory_endpoint import DirectoryEndpoint

    original = DirectoryEndpoint.map
    DirectoryEndpoint.map = lambda self, segment, size_bytes, *, writable, private, reserve: original(  # type: ignore[method-assign]
        self, segment, size_bytes, writable=True, private=private, reserve=reserve
    )


def copies_are_written_for_all() -> None:
    from shmlease.client.directory_endpoint import DirectoryEndpoint

    original = DirectoryEndpoint.map
    DirectoryEndpoint.map = lambda self, segment, size_bytes, *, writable, private, reserve: original(  # type: ignore[method-assign]
        self, segment, size_bytes, writable=writable, private=False, reserve=reserve
    )


def mutable_memory_is_another_s() -> None:
    from shmlease.client.lease import Lease

    Lease._zero = lambda self: None  # type: ignore[method-assign]


def detached_arrays_hold_nothing() -> None:
    m.Detach = m.Release  # type: ignore[misc, assignment]


def views_are_not_noticed() -> None:
    m.Linger = m.Release  # type: ignore[misc, assignment]


def publications_are_lost() -> None:
    _lose(m.Publish)


def releases_are_lost() -> None:
    _lose(m.Release)


def tickets_can_be_redeemed_twice() -> None:
    from shmlease.system.directory import RegistryDirectory

    original = RegistryDirectory.claim_token
    RegistryDirectory.claim_token = (  # type: ignore[method-assign]
        lambda self, ticket, client, claimed: original(self, ticket, client, claimed) or not claimed.append(None)
    )


def a_forked_child_goes_on_as_its_parent() -> None:
    from shmlease.client.link import Link

    Link.after_fork_in_child = lambda self: None  # type: ignore[method-assign]


def pages_are_not_reserved() -> None:
    from shmlease.client import directory_endpoint

    directory_endpoint.reserve_pages = lambda fd, mapping: None


def _lose(kind: type) -> None:
    from shmlease.system.notice_log import NoticeLog

    original = NoticeLog.append

    def append(self: NoticeLog, notice: m.Notice) -> bool:
        if isinstance(notice, kind):
            self.last = notice.seq
            return True
        return original(self, notice)

    NoticeLog.append = append  # type: ignore[method-assign]


IN_REGISTRY: Final[tuple[Callable[[], None], ...]] = (
    dead_holders_keep_their_leases,
    memory_of_the_dead_is_used_again,
    memory_known_elsewhere_is_used_again,
    tickets_hold_nothing,
    arrays_can_be_attached_before_they_are_published,
    the_writer_takes_the_segment_with_it,
    a_successor_forgets_tickets,
    releases_are_not_written_down,
    published_segments_do_not_count,
    expired_tickets_stay_good,
    names_in_shm_are_left,
    promised_readers_are_not_waited_for,
    trimming_leaves_the_memory,
    withdrawn_names_stay_taken,
    tickets_outlive_their_receivers,
    tickets_taken_back_hold_on,
)
IN_CLIENTS: Final[tuple[Callable[[], None], ...]] = (
    readers_may_write,
    views_are_not_noticed,
    publications_are_lost,
    releases_are_lost,
    tickets_can_be_redeemed_twice,
    a_forked_child_goes_on_as_its_parent,
    pages_are_not_reserved,
    copies_are_written_for_all,
    mutable_memory_is_another_s,
    detached_arrays_hold_nothing,
)
# What no checker could report, for it never ends: it shows that the guardian of a test run ends it.
ENDLESS: Final = the_end_of_its_owner_makes_it_spin
NAMES: Final = [bug.__name__ for bug in (*IN_REGISTRY, *IN_CLIENTS)]


def _infect_launches() -> None:
    """Registries started by this process have the bug, too: they get it although they get no environment and no import
    path.
    """
    name, tests = os.environ[ENVIRONMENT], str(Path(__file__).parents[1])
    plant = f"os.environ[{ENVIRONMENT!r}] = {name!r}; sys.path.append({tests!r}); import {__name__}; from shmlease.registry"
    launch._BOOT = _BOOT.replace("from shmlease.registry", plant)  # type: ignore[misc]


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Registries that this process starts, and processes that preload this module, have the bug `name`."""
    os.environ[ENVIRONMENT] = name
    _infect_launches()
    try:
        yield
    finally:
        launch._BOOT = _BOOT  # type: ignore[misc]
        del os.environ[ENVIRONMENT]


def remove_what_is_left(registry: str) -> None:
    """What a registry with a bug has left."""
    directory = f"/dev/shm/shmlease-{registry}"
    with contextlib.suppress(OSError):
        row = read_ledger(f"{directory}/ledger").registry
        assert row is not None
        process = Process(row.identity.pid)
        process.kill()
        process.close()
    shutil.rmtree(directory, ignore_errors=True)
    for name in os.listdir("/dev/shm"):
        if name.startswith(f"shmlease-{registry}-"):
            os.unlink(f"/dev/shm/{name}")


def _plant_in_this_process() -> None:
    is_registry = "numpy" not in sys.modules  # it runs without
    for bug in (*IN_REGISTRY, ENDLESS) if is_registry else IN_CLIENTS:
        if bug.__name__ == os.environ.get(ENVIRONMENT):
            bug()
    if not is_registry and ENVIRONMENT in os.environ:
        _infect_launches()


if "pytest" not in sys.modules:
    _plant_in_this_process()
