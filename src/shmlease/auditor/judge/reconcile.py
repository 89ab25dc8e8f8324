"""From evidence to findings: runs the detectors, and keeps the findings that stay true.

One pass over a running system proves little: between two instructions of a program that unmaps and then unlinks, nobody
holds its segment. So an audit makes several passes, and keeps a finding only if every pass has it
(`shmlease.auditor.audit`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from shmlease.auditor.judge import detect_files, detect_leases, detect_system
from shmlease.auditor.judge.evidence import Scope
from shmlease.auditor.judge.findings import Finding
from shmlease.auditor.judge.indexed_evidence import IndexedEvidence, subject_of_file
from shmlease.core.model import LeaseState

__all__ = ["DETECTORS", "PROBED", "confirmed", "reconcile", "scope_of", "still_free"]

Detector = Callable[[IndexedEvidence], Iterator[Finding]]

# rule -> its detectors; LH015 is detected only while a program runs, by `shmlease run`
DETECTORS: Final[dict[str, tuple[Detector, ...]]] = {
    "LH001": (detect_files.orphan,),
    "LH002": (detect_leases.held_without_lease,),
    "LH003": (detect_files.unlinked_but_held,),
    "LH004": (detect_files.dark_bytes,),
    "LH005": (detect_files.half_created,),
    "LH006": (detect_leases.stale_lease,),
    "LH007": (detect_leases.dead_registry,),
    "LH008": (detect_leases.premature_unlink,),
    "LH009": (detect_files.outlives_its_scope, detect_leases.leases_outlive_scope),
    "LH010": (detect_leases.overdue_lease,),
    "LH011": (detect_leases.lingering_view,),
    "LH012": (detect_leases.expired_ticket,),
    "LH013": (detect_files.foreign_namespace,),
    "LH014": (detect_system.sysv,),
    "LH016": (detect_system.blind,),
    "LH017": (detect_system.orphan_charge,),
    "LH018": (detect_leases.registry_fault,),
}

# The kernel alone decides these: probing again is as good as another pass.
PROBED: Final = frozenset({"LH001", "LH005", "LH013"})


def reconcile(indexed: IndexedEvidence, rules: Collection[str] | None = None) -> tuple[Finding, ...]:
    """The findings in `indexed`, by all rules or those given; only those that are new where there is a scope."""
    findings = (
        finding
        for rule, detectors in DETECTORS.items()
        if rules is None or rule in rules
        for detector in detectors
        for finding in detector(indexed)
    )
    scope = indexed.limits.scope
    return tuple(finding for finding in findings if scope is None or _is_new(finding, scope))


def confirmed(earlier: Iterable[Finding], later: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings of the later pass that the earlier one had as well."""
    keys = {finding.key for finding in earlier}
    return tuple(finding for finding in later if finding.key in keys)


def still_free(indexed: IndexedEvidence, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings whose files the kernel calls free in `indexed`, and those of other rules."""
    free = {subject_of_file(file.key) for file in indexed.free}
    return tuple(finding for finding in findings if finding.rule not in PROBED or finding.subject in free)


def _is_new(finding: Finding, scope: Scope) -> bool:
    return not scope.has(finding.subject, finding.identity.born_ns if finding.identity else None)


def scope_of(indexed: IndexedEvidence, name: str) -> Scope:
    """Everything that exists now, so that a later audit reports only what is new in the scope `name`."""
    evidence = indexed.evidence
    subjects: dict[str, int | None] = {subject_of_file(key): file.born_ns for key, file in evidence.files.items()}
    for key, holds in evidence.holds.items():
        subjects.setdefault(subject_of_file(key), next((hold.born_ns for hold in holds if hold.born_ns), None))
    for segment in evidence.sysv:
        subjects[f"sysv:{segment.id}:{segment.key}"] = None
    for charge in evidence.charges:
        subjects[f"cgroup:{charge.cgroup}"] = None
    for registry in evidence.registries:
        subjects[f"registry:{registry.id}"] = None
        if registry.snapshot is None:
            continue
        # a lease granted ahead becomes new when it is claimed
        held = (lease for lease in registry.snapshot.leases.values() if lease.state is not LeaseState.RESERVED)
        subjects.update((f"lease:{registry.id}:{lease.id}", None) for lease in held)
        subjects.update((f"ticket:{registry.id}:{ticket}", None) for ticket in registry.snapshot.tickets)
        subjects.update((f"event:{registry.id}:{event.number}", None) for event in registry.snapshot.events)
    dark = {dark_memory.usage.root.device: dark_memory.dark_bytes for dark_memory in indexed.dark_memory}
    return Scope(name, evidence.at_ns, subjects, dark)
