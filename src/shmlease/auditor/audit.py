"""Looks at the system until it is sure: `audit`, and the beginning of a scope.

A finding is reported if every look has it. The first look is all there is when it finds nothing; otherwise two more follow,
with pauses that give a program that is just letting go the time to do so. Where all that was found are files that nobody
holds, looking again is asking the kernel about them again: its answer covers the name, the identity and all holders.
"""

from __future__ import annotations

import getpass
import os
import platform
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from typing import Final

from shmlease import __version__
from shmlease.auditor.judge.detect_system import coverage_of
from shmlease.auditor.judge.evidence import Scope
from shmlease.auditor.judge.findings import Creator, Environment, FileIdentity, Finding, Report
from shmlease.auditor.judge.indexed_evidence import IndexedEvidence, Limits
from shmlease.auditor.judge.reconcile import PROBED, confirmed, reconcile, scope_of, still_free
from shmlease.auditor.judge.rules import RULES, Severity, rule_of, unknown_rule
from shmlease.auditor.judge.suppression import DEFAULT_SUPPRESSIONS, Suppression, Suppressions
from shmlease.auditor.judge.timeline import events_of
from shmlease.auditor.observe.observer import Observer
from shmlease.errors import LeaseError
from shmlease.system.clock import Clock, SystemClock
from shmlease.units import parse_duration

__all__ = ["audit", "begin_scope", "rule_ids"]

# The time between two questions about the same file. A process that is about to unlink, or about to map, is done within a
# scheduling delay: some milliseconds on a machine that is not overloaded, and tens on one that is.
_PAUSES_S: Final = (0.02, 0.08)
_SEVERITY_ORDER: Final = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


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
    """Report what leaked in shared memory, who made it, and what could not be seen.

    The result holds for the moment of the last look. Nothing is changed. A file that is in use is never reported as an
    orphan: the kernel is asked, and only its yes counts.

    Parameters
    ----------
    paths : iterable of str, optional
        The directories to audit. By default /dev/shm and every mounted hugetlbfs, the /dev/shm of other mount namespaces as
        far as they can be entered, System V segments and the charges of control groups.
    scope : Scope, optional
        What `begin_scope` returned: only what is new since then is reported.
    rules, ignore : collection of str
        Ids or names of the rules to run, or not to run; by default all are run.
    suppressions : sequence of Suppression
        Findings to set aside, before the shipped ones.
    default_suppressions : bool
        Whether to set aside what other programs keep in /dev/shm by design.
    overdue_after : float or str, optional
        How long a lease may be held (``"1h"``); by default as long as its holder said.
    creators : mapping of FileIdentity to Creator, optional
        Who made which file, where that was recorded when it happened.
    foreign : bool
        Whether to look into other mount namespaces.
    also : iterable of Finding, optional
        What was found by other means, to be chosen, set aside and ranked like the rest.
    clock : Clock, optional
        What waits between two looks.

    Returns
    -------
    Report
        Findings ordered by severity and size; see `Report.exit_code`.

    Raises
    ------
    LeaseError
        No such rule.
    UnsupportedPlatformError
        There is no shared memory at the paths.

    Notes
    -----
    A named segment that nobody holds is reported even if some process means to open it again later: that cannot be seen from
    outside. Suppress it, or audit with a scope.
    """
    began_ns, started_ns = time.time_ns(), time.monotonic_ns()
    limits = Limits(int(parse_duration(overdue_after) * 1e9) if overdue_after is not None else None, scope)
    observer = Observer(tuple(paths) if paths is not None else None, limits, creators or {}, foreign)
    chosen = rule_ids(rules) if rules is not None else frozenset(RULES)
    chosen -= rule_ids(ignore)
    words = Suppressions((*suppressions, *(DEFAULT_SUPPRESSIONS if default_suppressions else ())), date.today())

    indexed = observer.observe()
    seen = reconcile(indexed, chosen)
    told = tuple(finding for finding in also if finding.rule in chosen)
    kept, aside, used = words.apply((*seen, *told))
    indexed, sure = _look_again(observer, indexed, confirmed(seen, kept), chosen, clock or SystemClock())
    findings = (*sure, *confirmed(told, kept))
    elapsed_ns = time.monotonic_ns() - started_ns
    return Report(
        findings=tuple(sorted(findings, key=_rank)),
        coverage=coverage_of(indexed),
        suppressed=aside,
        suppressions=used,
        environment=_environment(indexed, began_ns, elapsed_ns),
        events=events_of(indexed, findings),
    )


def _look_again(
    observer: Observer, indexed: IndexedEvidence, findings: tuple[Finding, ...], rules: Collection[str], clock: Clock
) -> tuple[IndexedEvidence, tuple[Finding, ...]]:
    """Keep what every pass finds; the evidence of the last pass, and the findings in it."""
    for pause_s in _PAUSES_S:
        doubtful = {finding.rule for finding in findings if finding.severity is not Severity.NOTE}
        if not doubtful:
            break
        since_asked_s = (time.monotonic_ns() - indexed.evidence.asked_monotonic_ns) / 1e9
        if since_asked_s < pause_s:
            clock.wait_s(pause_s - since_asked_s)
        if doubtful <= PROBED:
            observer.probe_again(indexed)
            findings = still_free(indexed, findings)
        else:
            indexed = observer.observe()
            findings = confirmed(findings, reconcile(indexed, rules))
    return indexed, findings


def begin_scope(name: str, *, paths: Iterable[str] | None = None, foreign: bool = True) -> Scope:
    """Remember what is there now, so that `audit` can tell what is new since.

    Parameters
    ----------
    name : str
        What to call it in findings: ``"test_reader"``, ``"python job.py"``.
    paths, foreign
        As for `audit`, and to be the same there.

    Raises
    ------
    UnsupportedPlatformError
        There is no shared memory at the paths.
    """
    return scope_of(Observer(tuple(paths) if paths is not None else None, foreign=foreign).observe(probing=False), name)


def rule_ids(texts: Collection[str]) -> frozenset[str]:
    """The ids of the rules that `texts` name, by id or name.

    Raises
    ------
    LeaseError
        There is no such rule.
    """
    rules = {text: rule_of(text) for text in texts}
    unknown = sorted(text for text, rule in rules.items() if rule is None)
    if unknown:
        raise LeaseError(unknown_rule(unknown[0]), rules=unknown)
    return frozenset(rule.id for rule in rules.values() if rule is not None)


def _rank(finding: Finding) -> tuple[int, str, int, str]:
    return _SEVERITY_ORDER[finding.severity], finding.rule, -finding.resident_bytes, finding.name


def _environment(indexed: IndexedEvidence, began_ns: int, elapsed_ns: int) -> Environment:
    evidence = indexed.evidence
    return Environment(
        version=__version__,
        host=platform.node(),
        kernel=platform.release(),
        boot_id=evidence.boot_id,
        user=_user_name(),
        user_id=evidence.user_id,
        privileged=evidence.user_id == 0,
        roots=tuple(root.path for root in evidence.roots),
        began_ns=began_ns,
        elapsed_ns=elapsed_ns,
        command=" ".join(sys.argv),
    )


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in many containers
        return f"uid {os.geteuid()}"
