"""Every kind of leak that the auditor knows: how to plant it, by which rule it is to be found, and its clean twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shmlease.auditor.judge.findings import Report
from shmlease.verification.selftest import file_plants as files
from shmlease.verification.selftest import lease_plants as leases
from shmlease.verification.selftest import system_plants as system
from shmlease.verification.selftest.testbed import Testbed

__all__ = ["PLANTS", "Plant"]

# Plants; returns the report if the way to find it is not `shmlease.audit`.
Planting = Callable[[Testbed], Report | None]


@dataclass(frozen=True, slots=True)
class Plant:
    """One leak and its clean twin. One that leaves no name behind is what is new since it was planted."""

    name: str
    rule: str
    leak: Planting
    twin: Planting | None
    is_nameless: bool = False


PLANTS: Final = (
    Plant("named, no holder", "LH001", files.orphan, files.mapped_file),
    Plant("named, in a sub-directory, no holder", "LH001", files.orphan_in_directory, files.mapped_in_directory),
    Plant("mapped by a process without a lease", "LH002", leases.opened_by_stranger, leases.attached_by_client),
    Plant("unlinked, still mapped", "LH003", files.unlinked_mapped, files.anonymous),
    Plant("unlinked, held by a descriptor", "LH003", files.unlinked_open, files.open_file),
    Plant("never named (O_TMPFILE), mapped", "LH003", files.unnamed, files.anonymous),
    Plant("held by a thread's own descriptor table", "LH003", files.unlinked_in_thread, files.open_in_thread),
    Plant("held by a process whose leader has ended", "LH003", files.unlinked_behind_leader, None),
    Plant("unlinked, in flight in a message", "LH004", files.in_flight, files.named_in_flight, is_nameless=True),
    Plant("unlinked, registered in an io_uring", "LH004", files.registered, files.named_registered, is_nameless=True),
    Plant("unlinked, in a process that is closed to us", "LH004", system.hidden, None, is_nameless=True),
    Plant("half-created: no size", "LH005", files.empty, files.being_made),
    Plant("half-created: no page", "LH005", files.without_pages, files.being_made),
    Plant("lease of a dead process", "LH006", leases.lease_of_the_dead, leases.lease_ended_by_death),
    Plant("files of a dead registry", "LH007", leases.killed_with_its_registry, leases.with_warm_segments),
    Plant("files of a dead registry, its pid reused", "LH007", leases.pid_reused, leases.pid_not_reused),
    Plant("unlinked under a live lease", "LH008", leases.unlinked_under_lease, leases.name_taken_by_tracker),
    Plant(
        "held beyond the scope it was made in", "LH009", files.mapped_file, files.mapped_before_the_scope, is_nameless=True
    ),
    Plant("lease overdue", "LH010", leases.overdue, leases.not_due_yet),
    Plant("view outlives its lease", "LH011", leases.view_left, leases.view_dropped),
    Plant("ticket run out", "LH012", leases.ticket_run_out, leases.ticket_in_time),
    Plant("no holder, in another mount namespace", "LH013", files.orphan_elsewhere, files.held_elsewhere),
    Plant("no holder, in a hugetlbfs", "LH013", files.orphan_of_huge_pages, files.held_huge_pages),
    Plant("System V, not attached, creator dead", "LH014", system.sysv_left, system.sysv_attached),
    Plant("left to the resource tracker", "LH015", system.left_to_tracker, system.not_left_to_tracker, is_nameless=True),
    Plant("a process that cannot be looked into", "LH016", system.hidden, None, is_nameless=True),
    Plant("a lease table that cannot be read", "LH016", leases.damaged_table, leases.with_warm_segments),
    Plant("charged to a control group without processes", "LH017", system.charge_left, system.charge_in_use),
    Plant("registry that has failed", "LH018", leases.failed_registry, leases.pid_not_reused),
)
