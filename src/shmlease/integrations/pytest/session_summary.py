"""The sum of a pytest session: every leak once, the exit status, the summary, and the report that was asked for.

It is made in the process that the user started. Findings come to it with the reports of the tests, whichever process ran
them: this one, a worker of xdist, or a child that a plugin forks for a test. A worker that died sent nothing of its last
test; what it recorded is still there, and is read when the tests are over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from datetime import date
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import pytest

from shmlease.auditor.judge.findings import Finding, Place, Report
from shmlease.auditor.judge.suppression import Suppression, Suppressions
from shmlease.auditor.report.formats.github import announce
from shmlease.auditor.report.output import write_file
from shmlease.errors import LeaseError
from shmlease.integrations.pytest.item_audit import ALLOWED, FIELD, IMPORTS, PROPERTY, SESSION, allowed_leaks
from shmlease.integrations.pytest.totals import Totals
from shmlease.testing.leak_watch import LeakWatch
from shmlease.testing.leaks import in_short, told
from shmlease.units import format_count

__all__ = ["RECORDS", "SessionSummary"]

RECORDS: Final = "shmlease_records"  # of a worker's input: the file that it is to record in


class SessionSummary:
    """The hooks of the process that decides.

    Parameters
    ----------
    config : pytest.Config
        Of this process.
    watch : LeakWatch
        The one that audits the tests, or, with workers, one that looks when they have ended.
    fails : bool
        Whether a leak is an error.
    """

    def __init__(self, config: pytest.Config, watch: LeakWatch, *, fails: bool) -> None:
        self._config = config
        self._watch = watch
        self._fails = fails
        self._path: str | None = config.getoption("shmlease_report")
        self._outcome = ""  # where the report is, or why it is not
        self._totals = Totals(time.time_ns())
        self._allowed: dict[str, tuple[Suppression, ...]] = {}

    # --- what comes in ------------------------------------------------------------------------------------------------

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remember what the tests of this process allow; workers send it with each test."""
        for item in session.items:
            if allowed := allowed_leaks(item):
                self._allowed[item.nodeid] = allowed

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where to record: in a file that outlives it."""
        node.workerinput[RECORDS] = self._watch.record_file(node.gateway.id)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what the process that ran the test found."""
        if hasattr(report, ALLOWED):
            self._allowed[report.nodeid] = tuple(
                Suppression(reason, rule, name, source=source) for reason, rule, name, source in getattr(report, ALLOWED)
            )
        self._take(getattr(report, FIELD, ()), report.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker found at the end of its session."""
        self._take(getattr(node, "workeroutput", {}).get(FIELD, ()))

    def _take(self, sent: Iterable[list[str]], already_failed: str = "") -> None:
        for nodeid, text in sent:
            report = Report.from_json(text)
            self._watch.settle(report)
            self._add(nodeid, report, is_late=nodeid != already_failed)

    def _add(self, nodeid: str, report: Report, *, is_late: bool) -> None:
        allowed = self._allowed.get(nodeid)
        if is_late and allowed:  # where it was found, the markers of that test did not apply
            report = _suppress(report, allowed)
        self._totals.add(nodeid, report, is_late=is_late)

    # --- when the tests are over --------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Report what became known of a test only after it: as an error of that test, so that it is in all reports.

        Where the tests were interrupted, workers may still run; what is found then is in the summary alone.
        """
        result = yield
        self._watch.end_all()
        self._look()
        if self._fails:
            for nodeid, report in self._totals.late():
                session.config.hook.pytest_runtest_logreport(report=_error(nodeid, report))
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Check what no test answers for; then decide, and write the report that was asked for."""
        self._watch.end(IMPORTS)
        self._look(always=bool(self._path))
        if self._fails and session.exitstatus == pytest.ExitCode.OK and self._totals.has_leaks:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._path:
            try:
                write_file(self._totals.whole(SESSION), self._path)
                self._outcome = self._path
            except LeaseError as error:
                self._outcome = str(error)
                session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def _look(self, *, always: bool = False) -> None:
        report = self._watch.check(SESSION, always=always)
        if report is not None:
            for nodeid, found in self._watch.by_test(report, SESSION).items():
                self._add(nodeid, found, is_late=True)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what leaked, annotate on GitHub, and say where the report is."""
        totals = self._totals
        doubtful = totals.doubtful
        if doubtful:
            terminalreporter.write_line(
                f"shmlease: not known whose: {format_count(len(doubtful), 'segment')} that appeared meanwhile, such as "
                f"{doubtful[0].name}; if nothing else uses /dev/shm here, set shmlease_audit_alone"
            )
        for reason, count in totals.kept_by_libraries():
            terminalreporter.write_line(f"shmlease: suppressed {count}: {reason}")
        if totals.has_leaks:
            terminalreporter.section("shared memory leaks", yellow=not self._fails, red=self._fails)
            # a count in pytest's last line; other plugins look for attributes of what is counted
            leaks = [SimpleNamespace(nodeid=nodeid) for nodeid, report, _ in totals.leaks() for _ in report.leaks]
            terminalreporter.stats.setdefault("leaked", []).extend(leaks)
        for nodeid, report, is_reported in totals.leaks():
            # the errors above have told everything about the tests
            is_short = self._fails and is_reported
            terminalreporter.write_line(f"{nodeid}: {in_short(report)}" if is_short else f"{nodeid}:")
            if not is_short:
                terminalreporter.write_line(told(report) + "\n")
        if totals.has_leaks:
            terminalreporter.ensure_newline()
            try:
                announce(_with_places(totals.whole(SESSION)), terminalreporter.write, os.environ)
            except LeaseError as error:
                terminalreporter.write_line(f"shmlease: {error}")
        if self._outcome:
            terminalreporter.write_line(f"shmlease: {self._outcome}")


def _suppress(report: Report, allowed: Sequence[Suppression]) -> Report:
    """`report` without what the markers of its test allow."""
    kept, aside, uses = Suppressions(allowed, date.today()).apply(report.findings)
    return replace(
        report,
        findings=kept,
        suppressed=(*report.suppressed, *aside),
        suppressions=(*report.suppressions, *uses),
    )


def _error(nodeid: str, report: Report) -> pytest.TestReport:
    """The report of a teardown that failed because of the leaks in `report`."""
    file, _, rest = nodeid.partition("::")
    return pytest.TestReport(
        nodeid=nodeid,
        location=(file, None, rest.replace("::", ".")),
        keywords={},
        outcome="failed",
        longrepr=told(report),
        when="teardown",
        user_properties=[(PROPERTY, f"{finding.rule} {finding.message}") for finding in report.leaks],
    )


def _with_places(report: Report) -> Report:
    """`report` for annotations, which need a line: where none is known, the file of the test."""
    return replace(report, findings=tuple(_with_place(finding) for finding in report.findings))


def _with_place(finding: Finding) -> Finding:
    creator = finding.creator
    if creator is None or creator.place is not None or not creator.test:
        return finding
    place = Place(creator.test.partition("::")[0], 1)
    return msgspec.structs.replace(finding, creator=msgspec.structs.replace(creator, place=place))
