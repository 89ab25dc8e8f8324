"""The findings of a session, from all its processes, each once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from shmlease.auditor.judge.findings import Event, Finding, Report, SuppressionUse
from shmlease.auditor.judge.rules import Severity
from shmlease.testing.keepers import LIBRARIES

__all__ = ["Totals"]


@dataclass(slots=True)
class _Entry:
    nodeid: str
    report: Report
    is_reported: bool  # as an error of the test


@dataclass(slots=True)
class Totals:
    """Adds up reports; a finding that came before is not counted again.

    Workers see each other's files, and what one found at the end of a test, the controller may find at the end of all.
    """

    began_ns: int
    _entries: list[_Entry] = field(default_factory=list)
    _known: set[tuple[str, int | None]] = field(default_factory=set)
    _uses: Counter[SuppressionUse] = field(default_factory=Counter)
    _latest: Report = field(default_factory=Report)

    def add(self, nodeid: str, report: Report, *, is_late: bool) -> None:
        """Take the findings on `nodeid`; `is_late` if the test has ended without an error for them."""
        fresh = tuple(finding for finding in report.findings if not self._is_known(finding))
        aside = tuple(one for one in report.suppressed if not self._is_known(one.finding))
        for use in report.suppressions:
            self._uses[replace(use, uses=0)] += use.uses
        self._latest = report
        if fresh or aside:
            self._entries.append(_Entry(nodeid, replace(report, findings=fresh, suppressed=aside), not is_late))

    def _is_known(self, finding: Finding) -> bool:
        if finding.severity is Severity.NOTE:
            return False
        key = (finding.subject, finding.identity.born_ns if finding.identity else None)
        is_known = key in self._known
        self._known.add(key)
        return is_known

    @property
    def has_leaks(self) -> bool:
        """Whether anything leaked."""
        return any(entry.report.leaks for entry in self._entries)

    @property
    def doubtful(self) -> list[Finding]:
        """What no process of the session is known to have made."""
        findings = (finding for entry in self._entries for finding in entry.report.findings)
        return [one for one in findings if not one.is_leak and one.severity is not Severity.NOTE]

    def leaks(self) -> Iterator[tuple[str, Report, bool]]:
        """What leaked: test, report, and whether it is an error of the test already."""
        return ((one.nodeid, one.report, one.is_reported) for one in self._entries if one.report.leaks)

    def kept_by_libraries(self) -> list[tuple[str, int]]:
        """Why something that a library keeps for reuse was suppressed, and how many segments it concerns."""
        reasons = {library.reason for library in LIBRARIES}
        counts = Counter(one.reason for entry in self._entries for one in entry.report.suppressed if one.reason in reasons)
        return sorted(counts.items())

    def late(self) -> Iterator[tuple[str, Report]]:
        """The leaks of tests that have ended without an error for them; they have one from now on."""
        for entry in self._entries:
            if entry.report.leaks and not entry.is_reported and "::" in entry.nodeid:
                entry.is_reported = True
                yield entry.nodeid, entry.report

    def whole(self, name: str) -> Report:
        """One report on the session, which is to be called `name`."""
        events = [Event(self.began_ns, "begin", text=name), Event(time.time_ns(), "end", text=f"{name} ended")]
        uses = tuple(replace(use, uses=count) for use, count in self._uses.items())
        whole = replace(self._latest, findings=(), suppressed=(), suppressions=uses, events=())
        for entry in self._entries:
            # each test's own beginning and end are not those of the session; where a segment should have ended is kept
            kept = [one for one in entry.report.events if one.segment or one.kind not in {"begin", "end"}]
            whole = whole.adding(entry.report.findings, kept)
            whole = replace(whole, suppressed=(*whole.suppressed, *entry.report.suppressed))
        return whole.adding(events=events)
