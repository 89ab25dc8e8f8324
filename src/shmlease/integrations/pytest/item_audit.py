"""The audit of each test, in the process that runs it: once the test's fixtures are torn down.

A leak makes the teardown an error, also of a test that failed before; in mode "warn" it is only reported. What a fixture of
a wider scope makes counts when that fixture has been torn down, with the test that was last to use it. What an earlier test
turns out to have made is not this test's failure: it is sent on under the name of the earlier one. Findings travel with the
report of the teardown, or in the output of an xdist worker, to where they are summed up (`session_summary`).
"""

from __future__ import annotations

import functools
import gc
import sys
import time
import types
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Final

import pytest

from shmlease.auditor.judge.findings import Report
from shmlease.auditor.judge.suppression import Suppression
from shmlease.testing.leak_watch import LeakWatch
from shmlease.testing.leaks import LeakError, told

__all__ = ["ALLOWED", "FIELD", "IMPORTS", "PROPERTY", "SESSION", "ItemAudit", "allowed_leaks"]

# what the report of a test carries, and the output of a worker
FIELD: Final = "shmlease_reports"
ALLOWED: Final = "shmlease_allowed"
PROPERTY: Final = "shmlease"
IMPORTS: Final = "the import of the tests"
SESSION: Final = "the session"
_MARKER: Final = "allow_shm_leaks"
_REPORTS: Final = pytest.StashKey[list[list[str]]]()
_FAILED: Final = pytest.StashKey[bool]()
_TOLD: Final = pytest.StashKey[frozenset[str]]()  # subjects of leaks that the test has failed for already


class ItemAudit:
    """The hooks of a process that runs tests.

    Parameters
    ----------
    config : pytest.Config
        Of this process.
    watch : LeakWatch
        What looks at shared memory.
    fails : bool
        Whether a leak is an error.
    """

    def __init__(self, config: pytest.Config, watch: LeakWatch, *, fails: bool) -> None:
        self._config = config
        self._watch = watch
        self._fails = fails
        self._at_start = watch.look()

    # --- what outlives a test ---------------------------------------------------------------------------------------

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Refuse a marker without a reason; what importing the tests made counts at the end of the session."""
        for item in session.items:
            allowed_leaks(item)
        self._watch.own(IMPORTS, self._at_start)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """What a fixture of a wider scope makes is its own until it is torn down."""
        if fixturedef.scope == "function":
            return (yield)
        before, began_ns = self._watch.look(), time.time_ns()
        try:
            return (yield)
        finally:
            self._watch.own(_owner(fixturedef), before, began_ns=began_ns, roots=lambda: _held_by(fixturedef))

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """From now on it counts."""
        if fixturedef.scope != "function":
            self._watch.end(_owner(fixturedef))

    # --- a test -----------------------------------------------------------------------------------------------------

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """What processes make from now on, they make in this test."""
        self._watch.begin(nodeid)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Check what is left when everything has been torn down; a failure of the teardown itself comes first."""
        try:
            result = yield
        except BaseException as error:
            _remember_told(item, error)
            self._check(item, is_section=True)
            raise
        report = self._check(item, is_section=not self._fails)
        if report is not None and self._fails:
            pytest.fail(told(report), pytrace=False)
        return result

    def _check(self, item: pytest.Item, *, is_section: bool) -> Report | None:
        """What this test leaked, if anything; in a section of its report where it does not become the failure itself."""
        report = self._watch.check(
            item.nodeid,
            suppressions=allowed_leaks(item),
            before_looking=lambda: _forget(item),
            carries=True,
        )
        if report is None:
            return None
        by_test = self._watch.by_test(report, item.nodeid)
        item.stash[_REPORTS] = dumped(by_test)
        own = by_test[item.nodeid]
        item.user_properties.extend((PROPERTY, f"{finding.rule} {finding.message}") for finding in own.leaks)
        known = item.stash.get(_TOLD, frozenset())
        if all(leak.subject in known for leak in own.leaks):
            return None
        if is_section:
            item.add_report_section("teardown", "shmlease", told(own))
        return own

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Send the findings along with the report of the teardown, and what the test allows with that of the setup.

        Should the process die in between, its parent knows what was allowed.
        """
        result = yield
        if call.excinfo is not None:
            item.stash[_FAILED] = True
            _remember_told(item, call.excinfo.value)
        if call.when == "setup" and (allowed := allowed_leaks(item)):
            setattr(result, ALLOWED, [[one.reason, one.rule, one.name, one.source] for one in allowed])
        if call.when == "teardown" and _REPORTS in item.stash:
            setattr(result, FIELD, item.stash[_REPORTS])
            del item.stash[_REPORTS]
        return result

    # --- a worker's session -------------------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """In a worker of xdist: check what no test answers for, and give it to the controller."""
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            self._watch.end(IMPORTS)
            self._watch.end_all()
            report = self._watch.check(SESSION)
            if report is not None:
                output[FIELD] = dumped(self._watch.by_test(report, SESSION))


def _remember_told(item: pytest.Item, error: BaseException | None) -> None:
    """What a LeakError of the test itself, or of its fixture, has told is not a second failure."""
    while error is not None and not isinstance(error, LeakError):
        error = error.__cause__ or error.__context__
    if error is not None:
        told_now = {leak.subject for leak in error.report.leaks}
        item.stash[_TOLD] = item.stash.get(_TOLD, frozenset()) | told_now


def dumped(by_test: Mapping[str, Report]) -> list[list[str]]:
    """Reports by test in a form that pytest and execnet can send."""
    return [[nodeid, report.to_json(indent=0).decode()] for nodeid, report in by_test.items()]


def allowed_leaks(item: pytest.Item) -> tuple[Suppression, ...]:
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
            f"@pytest.mark.{_MARKER}('why it is not a leak', name='psm_*')"
        )
    return Suppression(**{**known, **given}, source=f"marker of {item.nodeid}")


def _owner(fixturedef: pytest.FixtureDef[Any]) -> str:
    return f"the {fixturedef.scope}-scoped fixture {fixturedef.argname!r} of {fixturedef.baseid or 'the plugins'}"


def _held_by(fixturedef: pytest.FixtureDef[Any]) -> Iterator[object]:
    """What a fixture that is set up holds: its value, the locals of its generator, and the objects that are to be
    finalized.
    """
    if fixturedef.cached_result is not None:
        yield fixturedef.cached_result[0]
    for finalizer in getattr(fixturedef, "_finalizers", ()):  # of pytest's own, and not promised
        if isinstance(finalizer, functools.partial):
            yield from (one for one in finalizer.args if isinstance(one, types.GeneratorType))
        elif not isinstance(getattr(finalizer, "__self__", None), pytest.FixtureDef):
            yield finalizer


def _forget(item: pytest.Item) -> None:
    """Let go of what keeps objects of the test alive for a moment longer, and is no leak of it.

    These are the values of its fixtures, which pytest drops once the teardown has been reported, and the locals in the
    traceback of a failure.
    """
    getattr(item, "funcargs", {}).clear()
    trace = getattr(sys, "last_traceback", None) if item.stash.get(_FAILED, False) else None
    while trace is not None:
        try:
            trace.tb_frame.clear()
            # until Python 3.13 the frame keeps a copy of its locals for whoever asked for them, and renews it when asked
            _ = trace.tb_frame.f_locals
        except RuntimeError:
            pass  # it is still running: one of pytest's own
        trace = trace.tb_next
    gc.collect()
