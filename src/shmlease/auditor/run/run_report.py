"""The report on a run: what the audit of its scope finds, who is responsible, what only a tracker removed, and when."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from shmlease.auditor.audit import audit
from shmlease.auditor.judge.evidence import Scope
from shmlease.auditor.judge.findings import Confidence, Event, Fact, Finding, Gap, Process, Report
from shmlease.auditor.judge.printable import cut_command
from shmlease.auditor.run.adopted import gaps_of_adoption
from shmlease.auditor.run.attribution import attributed
from shmlease.auditor.run.inotify import Change, Watch
from shmlease.auditor.run.process_tree import is_running
from shmlease.auditor.run.records import Creations, Record, Records
from shmlease.auditor.run.subreaper import CommandOutcome
from shmlease.units import format_bytes

__all__ = ["RunEvidence", "empty_scope", "report_on"]

# Events of segments that came and went without a leak: enough to draw; the rest is counted.
_MAX_EVENTS: Final = 4000
_SHM: Final = "/dev/shm"


@dataclass(frozen=True, slots=True)
class RunEvidence:
    """What was recorded of a run, apart from the state of the system at its end."""

    outcome: CommandOutcome
    scope: Scope
    watch: Watch
    records: Records = field(default_factory=Records)
    is_isolated: bool = False
    is_recorded: bool = True
    is_adopted: bool = False


def empty_scope(name: str, began_ns: int) -> Scope:
    """The scope of a run that began with nothing in shared memory."""
    return Scope(name, began_ns, {})


def report_on(evidence: RunEvidence, audit_arguments: Mapping[str, Any]) -> Report:
    """The report on `evidence`; `audit_arguments` are keyword arguments of `shmlease.audit`."""
    creations = evidence.records.creations(os.stat(_SHM).st_dev)
    reaped = tuple(_tracker_reaped(evidence))
    report = audit(scope=evidence.scope, creators=creations, foreign=False, also=reaped, **audit_arguments)
    if not evidence.is_isolated:
        report = _attributed_to_command(report, creations, evidence)
    coverage = replace(report.coverage, gaps=(*report.coverage.gaps, *_gaps(evidence)))
    return replace(report, coverage=coverage).adding(events=_events(evidence))


def _attributed_to_command(report: Report, creations: Creations, evidence: RunEvidence) -> Report:
    survivors = {process.pid for process in evidence.outcome.survivors}

    def is_creator(finding: Finding) -> bool:
        return finding.rule == _TRACKER_REAPED or (finding.identity is not None and finding.identity in creations)

    def is_member(process: Process) -> bool | None:
        if process.pid in survivors:
            return True
        return False if is_running(process.pid) else None

    return replace(report, findings=attributed(report.findings, is_creator, is_member))


# --- what only a resource tracker removed ----------------------------------------------------------------------------

_TRACKER_REAPED: Final = "LH015"


def _tracker_reaped(evidence: RunEvidence) -> Iterator[Finding]:
    """LH015: the tracker said so itself, or the file went when nobody but trackers was left of the command."""
    creations = evidence.records.creations_by_path()
    reported: set[str] = set()
    for reaping in evidence.records.reaped:
        reported.add(reaping.path)
        creation = _last_before(creations.get(reaping.path, ()), reaping.at_ns)
        fact = Fact(f"the resource tracker (pid {reaping.pid}) unlinked it", "its own record")
        yield _reaped_finding(evidence, reaping.path, creation, Confidence.PROVED, fact)
    if not evidence.outcome.only_trackers_left:
        return
    linked = {record.path for record in evidence.records.records if record.kind == "link"}  # which registries remove
    for change in evidence.watch.changes:
        is_late = not change.appeared and change.at_ns > evidence.outcome.ended_ns
        if is_late and change.path not in reported and change.path not in linked:
            creation = _last_before(creations.get(change.path, ()), change.at_ns)
            pids = ", ".join(str(process.pid) for process in evidence.outcome.left)
            fact = Fact(
                f"it was unlinked when nothing but resource trackers (pid {pids}) was left of the command", "inotify"
            )
            confidence = Confidence.PROVED if evidence.is_isolated else Confidence.LIKELY
            yield _reaped_finding(evidence, change.path, creation, confidence, fact)


def _reaped_finding(
    evidence: RunEvidence, path: str, creation: Record | None, confidence: Confidence, fact: Fact
) -> Finding:
    name = path.removeprefix(f"{_SHM}/")
    size_bytes = creation.size_bytes if creation else 0
    size = f" ({format_bytes(size_bytes)})" if size_bytes else ""
    return Finding.of(
        _TRACKER_REAPED,
        f"{name}{size} was left to the resource tracker by {cut_command(evidence.scope.name)}",
        name=name,
        subject=f"reaped:{name}",
        path=path,
        confidence=confidence,
        size_bytes=size_bytes,
        creator=evidence.records.creator(creation) if creation else None,
        evidence=(fact,),
    )


def _last_before(records: Iterable[Record], at_ns: int) -> Record | None:
    return next((record for record in reversed(tuple(records)) if record.at_ns <= at_ns), None)


# --- when things happened, and what was not seen ---------------------------------------------------------------------


def _events(evidence: RunEvidence) -> Iterator[Event]:
    outcome = evidence.outcome
    yield Event(outcome.began_ns, "begin", text=evidence.scope.name, pid=outcome.pid)
    yield Event(outcome.ended_ns, "end", text=f"{evidence.scope.name} ended with {outcome.returncode}", pid=outcome.pid)
    for process in outcome.left:
        if process not in outcome.survivors:
            yield Event(outcome.settled_ns, "exit", text=f"{process} had ended by then", pid=process.pid)
    yield from _first_of(_of_records(evidence.records), _MAX_EVENTS)
    yield from _first_of(_of_changes(evidence.watch.changes, evidence.records), _MAX_EVENTS)


def _of_records(records: Records) -> Iterator[Event]:
    created_ns: dict[tuple[str, int], int] = {}
    for record in records.records:
        if record.kind == "reap":
            yield Event(record.at_ns, "reap", record.path.removeprefix(f"{_SHM}/"), "", record.pid)
            continue
        if _is_of_a_registry(record.path):
            continue  # its lease table says more
        first_ns = created_ns.setdefault((record.path, record.inode), record.at_ns)
        kind = "create" if first_ns == record.at_ns else "attach"
        place = record.place
        yield Event(record.at_ns, kind, record.path.removeprefix(f"{_SHM}/"), str(place) if place else "", record.pid)


def _is_of_a_registry(path: str) -> bool:
    return path.startswith(f"{_SHM}/shmlease-")


def _of_changes(changes: Iterable[Change], records: Records) -> Iterator[Event]:
    """What the recorder does not know: creations it did not see, and unlinks, which have no audit event."""
    made = {record.path for record in records.records if record.kind != "reap"}
    reaped = {record.path for record in records.reaped}
    for change in changes:
        if change.path not in (made if change.appeared else reaped):
            kind = "create" if change.appeared else "unlink"
            yield Event(change.at_ns, kind, change.path.removeprefix(f"{_SHM}/"))


def _first_of(events: Iterable[Event], count: int) -> Iterator[Event]:
    for position, event in enumerate(events):
        if position == count:
            yield Event(event.at_ns, "cut", text=f"only the first {count} such events are kept")
            return
        yield event


def _gaps(evidence: RunEvidence) -> Iterator[Gap]:
    if evidence.records.lost:
        yield Gap("where in the code segments were created", evidence.records.lost, blinding=False, source="recorder")
    if evidence.watch.lost:
        yield Gap("every segment that came and went", evidence.watch.lost, blinding=False, source="inotify")
    if not evidence.is_recorded:
        why = "the recorder was switched off (--no-hook)"
        yield Gap("where in the code segments were created", why, blinding=False, source="audit hook")
        yield Gap("what a resource tracker removed before the end of the command was seen", why, source="audit hook")
    if evidence.is_adopted:
        yield from gaps_of_adoption(evidence.records, evidence.watch.changes)
    for process in evidence.outcome.survivors:
        waited_s = (evidence.outcome.settled_ns - evidence.outcome.ended_ns) / 1e9
        yield Gap(
            f"what {process} may still leave behind",
            f"it was still running {waited_s:.1f} s after the command had ended; --settle waits longer",
            source="waitpid",
        )
