"""Leaks that show against a lease table, planted with real registries, and their clean twins."""

from __future__ import annotations

import os
import signal
import warnings
from typing import Any

import msgspec
import numpy as np

from shmlease.client.lease import Lease
from shmlease.client.registry import Registry
from shmlease.core.model import EventKind, EventRow, LeaseState, SegmentRow, SegmentState
from shmlease.core.snapshot import Snapshot
from shmlease.errors import LeaseWarning
from shmlease.system.clock import SystemClock
from shmlease.system.directory import RegistryDirectory
from shmlease.system.identity import identify, own_identity
from shmlease.system.ledger import Ledger, read_ledger
from shmlease.verification.selftest.acts import SIZE_BYTES
from shmlease.verification.selftest.testbed import Testbed

__all__: list[str] = []


def _registry(testbed: Testbed) -> Registry:
    registry = Registry(capacity="4MiB", on_lingering="ignore")
    testbed.mark(registry.id)
    testbed.at_the_end(lambda: _close(registry))
    return registry


def _close(registry: Registry) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeaseWarning)  # that leases are held is the point of some plants
        registry.close()


def _lease(testbed: Testbed, registry: Registry, *, due: float | None = None) -> Lease:
    lease = registry.lease(shape=SIZE_BYTES, dtype="u1", due=due)
    lease.array[:] = 1
    testbed.at_the_end(lease.release)
    return lease


def opened_by_stranger(testbed: Testbed) -> None:
    """A process that knows nothing of the registry maps the file of a segment."""
    registry = _registry(testbed)
    _lease(testbed, registry)
    testbed.act("map_file", _leased_file(testbed, registry))


def attached_by_client(testbed: Testbed) -> None:
    """A process that holds a lease, and has a segment mapped that it has released."""
    registry = _registry(testbed)
    _lease(testbed, registry)
    registry.share(np.zeros(SIZE_BYTES, "u1")).release()
    testbed.act_with_leases("hold", registry.id)


def lease_of_the_dead(testbed: Testbed) -> None:
    """Its holder is killed while the registry is stopped."""
    registry = _registry(testbed)
    client = testbed.act_with_leases("hold", registry.id)
    pid = _served_by(registry.id)
    os.kill(pid, signal.SIGSTOP)
    testbed.at_the_end(lambda: os.kill(pid, signal.SIGCONT))
    client.kill()


def lease_ended_by_death(testbed: Testbed) -> None:
    """Its holder is killed, and the registry ends the lease."""
    registry = _registry(testbed)
    testbed.act_with_leases("hold", registry.id).kill()
    testbed.wait_for(lambda: not _snapshot(registry.id).leases, "for the registry to end the lease of a dead process")


def killed_with_its_registry(testbed: Testbed) -> None:
    """Registry and client are killed together."""
    owner = testbed.act_with_leases("own")
    testbed.mark(owner.reply)
    directory = RegistryDirectory(owner.reply)
    pid = _served_by(directory.id)
    testbed.at_the_end(directory.remove)
    os.kill(pid, signal.SIGKILL)
    owner.kill()
    testbed.wait_for(lambda: not _lives(pid), "for a killed registry to end")


def with_warm_segments(testbed: Testbed) -> None:
    """A registry that lives, with a segment that nobody holds, by design."""
    registry = _registry(testbed)
    registry.share(np.zeros(SIZE_BYTES, "u1")).release()


def pid_reused(testbed: Testbed) -> None:
    """Files of a registry whose pid another process has now."""
    _forge(testbed, later_start=True)


def pid_not_reused(testbed: Testbed) -> None:
    """The same, and it is that process; its lock is held."""
    _forge(testbed, later_start=False)


def failed_registry(testbed: Testbed) -> None:
    """A registry in whose event log a process of it has left its traceback."""
    said = "AssertionError: segment 7 is warm; see the log\nTraceback (most recent call last):\n"
    _forge(testbed, later_start=False, event=EventRow(1, SystemClock().now_ns(), EventKind.FAULT, detail=said))


def _forge(testbed: Testbed, *, later_start: bool, event: EventRow | None = None) -> None:
    """A registry's directory that says this process serves it."""
    model = _snapshot(_registry(testbed).id).registry
    assert model is not None
    directory = RegistryDirectory(f"{testbed.token}0")
    directory.create()
    testbed.at_the_end(directory.remove)
    identity = own_identity()
    if later_start:
        identity = msgspec.structs.replace(identity, start_ticks=identity.start_ticks - 1)
    row = msgspec.structs.replace(model, id=directory.id, identity=identity, owner=None)
    rows = [row, SegmentRow(1, 1, SIZE_BYTES, SegmentState.WARM), *((event,) if event else ())]
    Ledger(directory.ledger_path, rows).close()
    directory.create_segment(1, SIZE_BYTES)
    lock = directory.lock()
    assert lock is not None
    if later_start:
        os.close(lock)
    else:
        testbed.at_the_end(lambda: os.close(lock))


def unlinked_under_lease(testbed: Testbed) -> None:
    """Somebody unlinks the file of a segment that is leased."""
    registry = _registry(testbed)
    _lease(testbed, registry)
    os.unlink(_leased_file(testbed, registry))


def name_taken_by_tracker(testbed: Testbed) -> None:
    """A resource tracker unlinks the OS name of a leased segment, and the segment has its own still."""
    lease = _lease(testbed, _registry(testbed))
    os.unlink(f"/dev/shm/{lease.segment}")


def overdue(testbed: Testbed) -> None:
    """Its holder said that it would be done by now."""
    _lease(testbed, _registry(testbed), due=0.001)


def not_due_yet(testbed: Testbed) -> None:
    """Its holder has time left."""
    _lease(testbed, _registry(testbed), due=600.0)


def view_left(testbed: Testbed) -> None:
    """A lease is released, and a view of its array is kept."""
    registry = _registry(testbed)
    views = [_released_view(testbed, registry)]
    testbed.at_the_end(views.clear)
    testbed.wait_for(lambda: _has_state(registry.id, LeaseState.LINGERING), "for the registry to hear of a lingering view")


def view_dropped(testbed: Testbed) -> None:
    """The same, and the view is dropped."""
    registry = _registry(testbed)
    _released_view(testbed, registry)
    testbed.wait_for(lambda: not _has_state(registry.id, LeaseState.LINGERING), "for the registry to hear that a view died")


def _released_view(testbed: Testbed, registry: Registry) -> np.ndarray[Any, Any]:
    lease = _lease(testbed, registry)
    view: np.ndarray[Any, Any] = lease.array[:16]
    lease.release()
    return view


def ticket_run_out(testbed: Testbed) -> None:
    """Nobody redeems it in time."""
    registry = _registry(testbed)
    registry.share(np.zeros(SIZE_BYTES, "u1")).ticket(ttl=0.001)
    testbed.wait_for(
        lambda: any(event.kind is EventKind.TICKET_EXPIRED for event in _snapshot(registry.id).events),
        "for a ticket to run out",
    )


def ticket_in_time(testbed: Testbed) -> None:
    """It keeps a segment that nobody holds, and may still be redeemed."""
    registry = _registry(testbed)
    with registry.share(np.zeros(SIZE_BYTES, "u1")) as lease:
        lease.ticket(ttl=600)


def damaged_table(testbed: Testbed) -> None:
    """A lease table that cannot be read."""
    directory = RegistryDirectory(f"{testbed.token}1")
    directory.create()
    testbed.at_the_end(directory.remove)
    testbed.mark(directory.id)
    lock = directory.lock()
    assert lock is not None
    testbed.at_the_end(lambda: os.close(lock))
    with open(directory.ledger_path, "wb") as file:
        file.write(b"not a ledger")


def _snapshot(registry_id: str) -> Snapshot:
    return read_ledger(RegistryDirectory(registry_id).ledger_path)


def _served_by(registry_id: str) -> int:
    row = _snapshot(registry_id).registry
    assert row is not None
    return row.identity.pid


def _leased_file(testbed: Testbed, registry: Registry) -> str:
    """The file of the one segment that is leased."""

    def leased() -> list[int]:
        leases = _snapshot(registry.id).leases.values()
        return [lease.segment for lease in leases if lease.state is not LeaseState.RESERVED]

    testbed.wait_for(lambda: bool(leased()), "for a lease to be in the table")
    return RegistryDirectory(registry.id).segment_path(leased()[0])


def _has_state(registry_id: str, state: LeaseState) -> bool:
    return any(lease.state is state for lease in _snapshot(registry_id).leases.values())


def _lives(pid: int) -> bool:
    try:
        identify(pid)
    except ProcessLookupError:
        return False
    return True
