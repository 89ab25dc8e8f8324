"""`audit`: observes the system, judges what it saw, and repeats that until the findings are certain.

A finding is reported only if every pass has it. If the first pass finds nothing, it is the only one. Otherwise two more
follow, with pauses in which a program that is about to close or unlink a segment can do so. About files that nobody holds,
another pass only asks the kernel again: its answer covers the name, the identity and all holders. If these are all
findings, it does nothing else; and what is found again of another kind is looked for by the rules that found it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from typing import Final

from shmlease.auditor.judge.detect_system import coverage_of
from shmlease.auditor.judge.evidence import Scope
from shmlease.auditor.judge.findings import Creator, FileIdentity, Finding, Report
from shmlease.auditor.judge.indexed_evidence import IndexedEvidence, Limits
from shmlease.auditor.judge.reconcile import PROBED, confirmed, reconcile, scope_of, still_free
from shmlease.auditor.judge.rules import RULES, Severity, rule_ids
from shmlease.auditor.judge.suppression import DEFAULT_SUPPRESSIONS, Suppression, Suppressions
from shmlease.auditor.judge.timeline import events_of
from shmlease.auditor.observe.environment import environment_of
from shmlease.auditor.observe.observer import Observer
from shmlease.exhaustion import explains_shortage
from shmlease.system.clock import Clock, SystemClock
from shmlease.units import parse_duration

__all__ = ["audit", "begin_scope"]

# Between two passes. A process that is about to unlink or to map a file does so within a scheduling delay: some
# milliseconds on an idle machine, tens of milliseconds on an overloaded one.
_PAUSES_S: Final = (0.02, 0.08)
_SEVERITY_ORDER: Final = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


@explains_shortage("shared memory cannot be audited")
def audit(
    *,
    paths: Iterable[str] | None = None,
    scope: Scope | None = None,
    rules: Collection[str] | None = None,
    ignore: Collection[str] = (),
    suppressions: Sequence[Suppression] = (),
    default_suppressions: bool = True,
    overdue_after: float | str | None = None,
    creators: Mapping[FileIdentity, Creator] | None = None,
    foreign: bool = True,
    also: Iterable[Finding] = (),
    clock: Clock | None = None,
) -> Report:
    """Report what leaked in shared memory, who created it, and what could not be seen.

    The result holds for the moment of the last pass. Nothing is changed. A file that is in use is never reported as an
    orphan: only the kernel's word counts.

    Parameters
    ----------
    paths : iterable of str, optional
        The directories to audit. By default /dev/shm and every mounted hugetlbfs, the /dev/shm of other mount namespaces as
        far as they can be entered, System V segments and the charges of control groups.
    scope : Scope, optional
        From `begin_scope`: only what is new since then is reported.
    rules, ignore : collection of str
        Ids or names of the rules to run, or not to run; by default all run.
    suppressions : sequence of Suppression
        Findings to suppress, before the default suppressions.
    default_suppressions : bool
        Whether to suppress what other programs keep in /dev/shm by design.
    overdue_after : float or str, optional
        How long a lease may be held (``"1h"``); by default, as long as its holder said.
    creators : mapping of FileIdentity to Creator, optional
        Who created which file, where that was recorded.
    foreign : bool
        Whether to audit other mount namespaces as well.
    also : iterable of Finding, optional
        Findings from other sources, to be selected, suppressed and ranked like the rest.
    clock : Clock, optional
        Waits between two passes.

    Returns
    -------
    Report
        Findings ordered by severity and size; see `Report.exit_code`.

    Raises
    ------
    LeaseError
        A rule does not exist.
    UnsupportedPlatformError
        There is no shared memory at the paths.
    CapacityError
        This process has met a limit of memory or descriptors; the error says which.

    Notes
    -----
    A named segment that nobody holds is reported even if a process intends to open it again later: that cannot be seen from
    outside. Suppress it, or audit with a scope.
    """
    started_ns = time.monotonic_ns()
    chosen = (frozenset(RULES) if rules is None else rule_ids(rules)) - rule_ids(ignore)
    overdue_after_ns = None if overdue_after is None else int(parse_duration(overdue_after) * 1e9)
    observer = Observer(None if paths is None else tuple(paths), Limits(overdue_after_ns, scope), creators or {}, foreign)
    in_force = Suppressions((*suppressions, *(DEFAULT_SUPPRESSIONS if default_suppressions else ())), date.today())

    indexed = observer.observe()
    found = reconcile(indexed, chosen)
    added = tuple(finding for finding in also if finding.rule in chosen)
    kept, suppressed, uses = in_force.apply((*found, *added))
    indexed, certain = _confirm(observer, indexed, confirmed(found, kept), clock or SystemClock())
    findings = (*certain, *confirmed(added, kept))
    return Report(
        findings=tuple(sorted(findings, key=_rank)),
        coverage=coverage_of(indexed),
        suppressed=suppressed,
        suppressions=uses,
        environment=environment_of(indexed.evidence, time.monotonic_ns() - started_ns),
        events=events_of(indexed, findings),
    )


def _confirm(
    observer: Observer, indexed: IndexedEvidence, findings: tuple[Finding, ...], clock: Clock
) -> tuple[IndexedEvidence, tuple[Finding, ...]]:
    """Keep what every pass finds; the evidence of the last pass, and the findings in it."""
    for pause_s in _PAUSES_S:
        uncertain = {finding.rule for finding in findings if finding.severity is not Severity.NOTE}
        if not uncertain:
            break
        since_probes_s = (time.monotonic_ns() - indexed.evidence.asked_monotonic_ns) / 1e9
        clock.wait_s(max(pause_s - since_probes_s, 0.0))
        if uncertain <= PROBED:
            observer.probe_again(indexed)
            findings = still_free(indexed, findings)
        else:
            indexed = observer.observe()
            again = {
                finding.rule for finding in findings
            } - PROBED  # what was only asked of the kernel it has just answered
            probed = still_free(indexed, (finding for finding in findings if finding.rule in PROBED))
            findings = (*probed, *confirmed(findings, reconcile(indexed, again)))
    return indexed, findings


def _rank(finding: Finding) -> tuple[int, str, int, str]:
    return _SEVERITY_ORDER[finding.severity], finding.rule, -finding.resident_bytes, finding.name


@explains_shortage("shared memory cannot be audited")
def begin_scope(name: str, *, paths: Iterable[str] | None = None, foreign: bool = True) -> Scope:
    """Record what exists now, so that `audit` can report only what is new.

    Parameters
    ----------
    name : str
        What to call it in findings: ``"test_reader"``, ``"python job.py"``.
    paths, foreign
        As for `audit`, which must be given the same.

    Raises
    ------
    UnsupportedPlatformError
        There is no shared memory at the paths.
    """
    return scope_of(Observer(tuple(paths) if paths is not None else None, foreign=foreign).observe(probing=False), name)
