"""The audit in a pytest session: after each test, once its fixtures are torn down.

A leak makes the teardown an error, also of a test that failed before; in mode "warn" it is only told. What a fixture of a wider
scope makes counts when that fixture has been torn down, with the test that was last to use it. The findings travel with the
report of the teardown, so that they reach the controller of xdist, JUnit files and the summary.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from typing import Any, Final

import pytest

from shmlease.auditor.configuration import load_configuration
from shmlease.auditor.judge.findings import Creator, Event, Finding, Place, Report
from shmlease.auditor.judge.rules import Severity
from shmlease.auditor.judge.suppression import Suppression
from shmlease.auditor.report.formats.github import announce
from shmlease.auditor.report.output import form_of, write_file
from shmlease.testing.leaks import LeakWatch, told

__all__ = ["Gate"]

_MARKER: Final = "allow_shm_leaks"
_PROPERTY: Final = "shmlease"
_IMPORTS: Final = "the import of the tests"
_SESSION: Final = "the session"
_FIELD: Final = "shmlease_report"
_LEAKED: Final = pytest.StashKey[str]()
_FAILED: Final = pytest.StashKey[bool]()


class Gate:
    """The hooks of a session that audits."""

    def __init__(self, config: pytest.Config, mode: str) -> None:
        self._config = config
        self._fails = mode == "fail"
        self._is_worker = hasattr(config, "workerinput")
        self._path: str | None = config.getoption("shmlease_report")
        if self._path:
            form_of(self._path)
        configuration = load_configuration(beneath=str(config.rootpath))
        self._watch = LeakWatch(
            configuration,
            children=config.getini("shmlease_audit_children"),
            alone=config.getini("shmlease_audit_alone") or None,
            beside_workers=self._is_worker,
        )
        self._watch.__enter__()
        self._at_start = self._watch.look()
        self._began_ns = time.time_ns()
        self._reports: list[tuple[str, Report]] = []
        self._unknown: list[Finding] = []  # what no test is known to have made

    def pytest_unconfigure(self) -> None:
        """End the watch."""
        self._watch.__exit__()

    # --- what outlives a test ---------------------------------------------------------------------------------------

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Refuse a marker without a reason; what importing the tests made counts at the end of the session."""
        for item in session.items:
            _allowed(item)
        self._watch.own(_IMPORTS, self._at_start)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """What a fixture of a wider scope makes is its own until it is torn down."""
        if fixturedef.scope == "function":
            return (yield)
        before = self._watch.look()
        try:
            return (yield)
        finally:
            self._watch.own(_owner(fixturedef), before)

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """From now on it counts."""
        if fixturedef.scope != "function":
            self._watch.end(_owner(fixturedef))

    # --- a test -----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Check what is left when everything has been torn down; a failure of the teardown itself comes first."""
        try:
            result = yield
        except BaseException:
            self._check(item, is_section=True)
            raise
        report = self._check(item, is_section=not self._fails)
        if report is not None and self._fails:
            pytest.fail(told(report), pytrace=False)
        return result

    def _check(self, item: pytest.Item, *, is_section: bool) -> Report | None:
        """What leaked, if anything; told in a section of the test's report where it does not become the failure itself."""
        failed = item.stash.get(_FAILED, False)
        report = self._watch.check(
            item.nodeid, suppressions=_allowed(item), before_looking=_forget_failure if failed else gc.collect
        )
        if report is None:
            return None
        self._unknown += _doubtful(report)
        if not report.leaks:
            return None
        report = replace(report, findings=tuple(_of_test(finding, item) for finding in report.leaks))
        item.user_properties.extend((_PROPERTY, f"{finding.rule} {finding.message}") for finding in report.findings)
        if is_section:
            item.add_report_section("teardown", "shmlease", told(report))
        item.stash[_LEAKED] = report.to_json(indent=0).decode()
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Send the findings along with the report of the teardown."""
        result = yield
        if call.excinfo is not None:
            item.stash[_FAILED] = True
        if call.when == "teardown" and _LEAKED in item.stash:
            setattr(result, _FIELD, item.stash[_LEAKED])
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the findings, of this process or of a worker."""
        text = getattr(report, _FIELD, None)
        if text is not None:
            self._reports.append((report.nodeid, Report.from_json(text)))

    # --- the session ------------------------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Check what no test answers for: what imports made, and what nobody is known to have made."""
        self._watch.end(_IMPORTS)
        report = self._watch.check(_SESSION, always=bool(self._path))
        if report is not None:
            known = {finding.path for _, earlier in self._reports for finding in earlier.findings}
            self._unknown += _doubtful(report)
            left = tuple(finding for finding in report.leaks if finding.path not in known)
            self._take(replace(report, findings=left))
        if self._is_worker:
            own = [one.to_json(indent=0).decode() for nodeid, one in self._reports if nodeid == _SESSION]
            self._config.workeroutput[_FIELD] = own  # type: ignore[attr-defined] # of xdist
        if self._fails and session.exitstatus == 0 and any(one.leaks for _, one in self._reports):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker of xdist found at the end of its session."""
        for text in getattr(node, "workeroutput", {}).get(_FIELD, ()):
            self._take(Report.from_json(text))

    def _take(self, report: Report) -> None:
        self._reports.append((_SESSION, report))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what leaked, annotate on GitHub, and write the report that was asked for."""
        if self._unknown:
            terminalreporter.write_line(
                f"shmlease: not known whose: {len(self._unknown)} segments that appeared meanwhile, such as "
                f"{self._unknown[0].name}; if nothing else uses /dev/shm here, set shmlease_audit_alone"
            )
        leaked = [(nodeid, report) for nodeid, report in self._reports if report.leaks]
        if leaked:
            terminalreporter.section("shared memory leaks", yellow=not self._fails, red=self._fails)
        for nodeid, report in leaked:
            # the errors above have told everything about the tests
            shown = not self._fails or nodeid == _SESSION
            terminalreporter.write_line(f"{nodeid}:" if shown else f"{nodeid}: {_in_short(report)}")
            if shown:
                terminalreporter.write_line(told(report) + "\n")
        whole = self._whole()
        if leaked:
            terminalreporter.ensure_newline()
            announce(_with_places(whole), terminalreporter.write, os.environ)
        if self._path:
            write_file(whole, self._path)
            terminalreporter.write_line(f"shmlease: {self._path}")

    def _whole(self) -> Report:
        """One report on the session."""
        events = [Event(self._began_ns, "begin", text=_SESSION), Event(time.time_ns(), "end", text=f"{_SESSION} ended")]
        whole = self._reports[-1][1] if self._reports else Report()
        whole = replace(whole, findings=(), events=())
        for _, report in self._reports:
            # each test's own beginning and end are not those of the session; where a segment should have ended is kept
            kept = [event for event in report.events if event.segment or event.kind not in {"begin", "end"}]
            whole = whole.adding(report.findings, kept)
        return whole.adding(events=events)


def _owner(fixturedef: pytest.FixtureDef[Any]) -> str:
    return f"the {fixturedef.scope}-scoped fixture {fixturedef.argname!r} of {fixturedef.baseid or 'the plugins'}"


def _allowed(item: pytest.Item) -> tuple[Suppression, ...]:
    """What the markers of a test allow.

    Raises
    ------
    pytest.UsageError
        A marker has no reason, or says something that is not understood.
    """
    return tuple(_suppression(item, marker) for marker in item.iter_markers(_MARKER))


def _suppression(item: pytest.Item, marker: pytest.Mark) -> Suppression:
    known = {"reason": "", "rule": "*", "name": "*"}
    given = {**dict(zip(["reason"], marker.args, strict=False)), **marker.kwargs}
    texts_only = all(isinstance(value, str) for value in given.values())
    if len(marker.args) > 1 or not given.keys() <= known.keys() or not texts_only or not given.get("reason", "").strip():
        raise pytest.UsageError(
            f"{item.nodeid}: {_MARKER} takes a reason, and perhaps rule and name: "
            f"@pytest.mark.{_MARKER}('why that is no leak', name='psm_*')"
        )
    return Suppression(**{**known, **given}, source=f"marker of {item.nodeid}")


def _of_test(finding: Finding, item: pytest.Item) -> Finding:
    """`finding`, with the test in which it was noticed where it is not known in which it was made."""
    creator = finding.creator or Creator()
    return finding if creator.test else replace(finding, creator=replace(creator, test=item.nodeid))


def _forget_failure() -> None:
    """Let go of what only the traceback of a failure keeps alive: the locals of the test are no leak of it."""
    trace = getattr(sys, "last_traceback", None)
    while trace is not None:
        try:
            trace.tb_frame.clear()
            # until Python 3.13 the frame keeps a copy of its locals for whoever asked for them, and renews it when asked
            _ = trace.tb_frame.f_locals
        except RuntimeError:
            pass  # it is still running: one of pytest's own
        trace = trace.tb_next
    gc.collect()


def _doubtful(report: Report) -> list[Finding]:
    return [one for one in report.findings if not one.is_leak and one.severity is not Severity.NOTE]


def _in_short(report: Report) -> str:
    places = [str(one.creator.place) for one in report.leaks if one.creator and one.creator.place]
    made = f", made at {places[0]}" if places else ""
    rest = f", and {len(report.leaks) - 1} more" if len(report.leaks) > 1 else ""
    first = report.leaks[0]
    return f"{first.definition.name} {first.label or first.name}{made}{rest}"


def _with_places(report: Report) -> Report:
    """`report` for annotations, which need a line: where none is known, the file of the test."""
    return replace(report, findings=tuple(_with_place(finding) for finding in report.findings))


def _with_place(finding: Finding) -> Finding:
    creator = finding.creator
    if creator is None or creator.place is not None or not creator.test:
        return finding
    return replace(finding, creator=replace(creator, place=Place(creator.test.partition("::")[0], 1)))
