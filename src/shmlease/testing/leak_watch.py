"""`LeakWatch`: what this process and its descendants leave in shared memory, one test after another.

A watch answers for this process and whoever descends from it. Other programs may use shared memory at the same time: what
they made or hold is not reported.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Self

from shmlease.auditor.audit import audit
from shmlease.auditor.configuration import Configuration
from shmlease.auditor.judge.findings import (
    Confidence,
    Event,
    Finding,
    Process,
    Report,
    SuppressionUse,
)
from shmlease.auditor.judge.suppression import Suppression
from shmlease.auditor.run.attribution import attributed
from shmlease.auditor.run.command import ISOLATED, recording_environment
from shmlease.auditor.run.inject.shmlease_recorder import ENVIRONMENT, begin_recording
from shmlease.auditor.run.process_tree import descendants_of
from shmlease.auditor.run.record_log import RecordLog
from shmlease.auditor.run.records import merged
from shmlease.system.shm_root import list_root
from shmlease.testing.fast_check import Contents
from shmlease.testing.inventory import Inventory
from shmlease.testing.ownership import SESSION, Ownership

__all__ = ["LeakWatch"]

_SHM: Final = "/dev/shm"
# Rules about the system as a whole, for which no test can answer.
_NOT_OF_A_TEST: Final = ("LH013", "LH016", "LH017")


class LeakWatch:
    """Watches what this process and its descendants leave in shared memory, one scope after another.

    Parameters
    ----------
    configuration : Configuration
        The project's settings of an audit.
    rules, ignore : collection of str
        Instead of, and beside, those of the configuration.
    children : bool
        Whether Python programs started meanwhile are to record as well: it changes ``PYTHONPATH`` for the time of the
        watch.
    alone : bool, optional
        Whether nothing else uses shared memory meanwhile, so that what nobody is known to have made counts as well. By
        default only where `shmlease run` has given this process a /dev/shm of its own; else such findings are of unknown
        confidence.
    beside_workers : bool
        Whether this is one of several processes that run tests side by side: then only what it is known to have made, or
        holds, is looked into.
    record_file : str, optional
        The file to record in, which outlives this process; by default one that is removed at the end of the watch.
    """

    def __init__(
        self,
        configuration: Configuration | None = None,
        *,
        rules: Collection[str] | None = None,
        ignore: Collection[str] = (),
        children: bool = False,
        alone: bool | None = None,
        beside_workers: bool = False,
        record_file: str | None = None,
    ) -> None:
        configuration = configuration or Configuration()
        self._settings: dict[str, Any] = {
            "rules": rules or configuration.rules,
            "ignore": (*configuration.ignore, *ignore, *_NOT_OF_A_TEST),
            "default_suppressions": configuration.default_suppressions,
            "overdue_after": configuration.overdue_after,
        }
        self._suppressions = configuration.suppressions
        self._children = children
        self._beside_workers = beside_workers
        is_alone = ISOLATED in os.environ if alone is None else alone
        self._unknown = None if beside_workers else Confidence.LIKELY if is_alone else Confidence.UNKNOWN
        self._record_file = record_file
        list_root(_SHM)  # that there is none, and why

    def __enter__(self) -> Self:
        self._directory = tempfile.mkdtemp(prefix="shmlease-")
        path = self._record_file or os.path.join(self._directory, "records")
        environment = recording_environment(os.environ, path)
        self._log = RecordLog(path)
        self._logs = [self._log]  # and those of other processes
        self._recorder = begin_recording(path)
        self._restore = {key: os.environ.get(key) for key in (ENVIRONMENT, "PYTHONPATH")}
        if self._children:
            os.environ.update({key: environment[key] for key in self._restore})
        self._inventory = Inventory(_SHM)
        self._ownership = Ownership(self._inventory)
        return self

    def __exit__(self, *_: object) -> None:
        self._recorder.end()
        if self._children:
            for key, value in self._restore.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value
        shutil.rmtree(self._directory, ignore_errors=True)

    def check(
        self,
        name: str,
        *,
        suppressions: Sequence[Suppression] = (),
        before_looking: Callable[[], object] = gc.collect,
        always: bool = False,
        carries: bool = False,
    ) -> Report | None:
        """What is new since the last check; None if the fast check sees nothing. Then the next scope begins.

        Parameters
        ----------
        name : str
            What to call the scope that ends.
        suppressions : sequence of Suppression
            Findings to suppress, in addition to those of the configuration.
        before_looking : callable
            Lets go of what is no leak, and only waits: by default, what the garbage collector frees.
        always : bool
            Whether to audit, and report, even if there is nothing new.
        carries : bool
            Whether what a wider fixture, a library or a process keeps is to be judged later: when that ends, or at
            `end_all`.
        """
        contents = self._inventory.look()
        if not always and not self._is_suspicious(contents):
            self._inventory.keep(contents)
            return None
        before_looking()
        began_ns, ended_ns = self._inventory.since_ns, time.time_ns()
        creations = merged(log.read() for log in self._logs).creations(os.stat(_SHM).st_dev)
        report = audit(
            scope=self._inventory.scope(name),
            creators=creations,
            suppressions=(*suppressions, *self._suppressions),
            foreign=False,
            **self._settings,
        )
        family = {process.pid for process in descendants_of(os.getpid())} | {os.getpid()}

        def made(finding: Finding) -> bool:
            return finding.identity is not None and finding.identity in creations

        def is_member(process: Process) -> bool | None:
            if process.pid in family:
                return True
            return False if os.path.exists(f"/proc/{process.pid}") else None

        def of_family(findings: Iterable[Finding]) -> tuple[Finding, ...]:
            return attributed(findings, made, is_member, unknown=self._unknown)

        report = _without_strangers(report, of_family)
        judgement = self._ownership.judge(of_family(report.findings), creations, family, name, carries=carries)
        kept = judgement.findings
        events = [Event(began_ns, "begin", text=name), Event(ended_ns, "end", text=f"{name} ended")]
        events += [Event(ended_ns, "end", finding.name, f"{name} ended") for finding in kept]
        self._inventory.renew()
        self._ownership.expect_owned()
        report = replace(report, findings=kept, suppressed=(*report.suppressed, *judgement.suppressed))
        return replace(report, events=_about(report.events, kept)).adding(events=events)

    def begin(self, name: str) -> None:
        """A test begins: what child processes make from now on, they make in it."""
        self._ownership.begin_test(name)

    def record_file(self, name: str) -> str:
        """A file for the process `name` to record in; what it records is read here as well."""
        path = os.path.join(self._directory, f"records-{name}")
        self._logs.append(RecordLog(path))
        return path

    def settle(self, report: Report) -> None:
        """Another process has reported this: a worker, or a child that ran a test. It is not to be reported again here."""
        self._inventory.add_findings((*report.findings, *(one.finding for one in report.suppressed)))

    def by_test(self, report: Report, default: str) -> dict[str, Report]:
        """`report`, divided by the tests that its findings are to be blamed on; `default` has what no other answers for.

        What an owner made that has ended counts where its end was noticed; what it only kept, with the test that made it.
        """
        return self._ownership.by_test(report, default)

    def look(self) -> Contents:
        """What is there now, for `own`."""
        return self._inventory.look()

    def own(
        self, owner: str, before: Contents, *, began_ns: int = 0, roots: Callable[[], Iterable[object]] | None = None
    ) -> None:
        """What is new since `before` was seen is `owner`'s, which outlives the scope: it counts once that has ended.

        With `roots`, so does what can be reached from them later, and what is held by processes started since `began_ns`.
        """
        self._ownership.own(owner, before, began_ns, roots)

    def end(self, owner: str) -> None:
        """`owner` has ended: what it made or kept, and is still there, is a leak from now on."""
        self._ownership.end(owner)

    def end_all(self) -> None:
        """The tests are over: what was to be judged at the end of the session is to be judged by the next check."""
        self._ownership.end(SESSION)

    def _is_suspicious(self, contents: Contents) -> bool:
        if self._ownership.must_look:
            return True
        if not self._inventory.has_new(contents):
            return False
        if not self._beside_workers or self._inventory.has_new(replace(contents, files=frozenset())):
            return True
        # side by side with others, new files are mostly theirs: only what was recorded here is looked into
        made = {record.path for record in self._log.read().records}
        return not made.isdisjoint(self._inventory.new_paths(contents))


def _without_strangers(report: Report, of_family: Callable[[Iterable[Finding]], tuple[Finding, ...]]) -> Report:
    """`report`, where suppressions have suppressed, and counted, only what the family is responsible for."""
    ours = tuple(one for one in report.suppressed if of_family([one.finding]))
    strangers = Counter((one.reason, one.source) for one in report.suppressed)
    strangers.subtract((one.reason, one.source) for one in ours)
    uses: list[SuppressionUse] = []
    for use in report.suppressions:
        foreign = min(use.uses, strangers[use.reason, use.source])
        strangers[use.reason, use.source] -= foreign
        uses.append(replace(use, uses=use.uses - foreign))
    return replace(report, suppressed=ours, suppressions=tuple(uses))


def _about(events: Iterable[Event], findings: Iterable[Finding]) -> tuple[Event, ...]:
    """The events of the segments in `findings`: a report on one test is not one on the whole system."""
    names = {finding.name for finding in findings} | {finding.path.removeprefix(f"{_SHM}/") for finding in findings}
    return tuple(event for event in events if event.segment in names)
