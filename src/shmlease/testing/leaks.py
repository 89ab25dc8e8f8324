"""Leak checks for tests: `assert_no_leaks`, for any framework, and `LeakWatch`, on which the pytest plugin is built.

A watch answers for this process and whoever descends from it. Other programs may use shared memory at the same time: what they
made or hold is not reported.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, Self

from shmlease.auditor.audit import audit, begin_scope
from shmlease.auditor.configuration import Configuration, load_configuration
from shmlease.auditor.judge.evidence import Scope
from shmlease.auditor.judge.findings import Confidence, Creator, Event, Fact, Finding, Process, Report, SuppressionUse
from shmlease.auditor.judge.suppression import Suppression
from shmlease.auditor.report.formats import Style, render
from shmlease.auditor.run.attribution import attributed
from shmlease.auditor.run.command import ISOLATED, recording_environment
from shmlease.auditor.run.inject.shmlease_recorder import ENVIRONMENT, Recorder
from shmlease.auditor.run.process_tree import descendants_of
from shmlease.auditor.run.records import Creations, RecordLog, merged
from shmlease.system.shm_root import list_root
from shmlease.testing.glance import Glance, Glancer
from shmlease.testing.scope_times import ScopeTimes

__all__ = ["LeakError", "LeakWatch", "assert_no_leaks"]

_SHM: Final = "/dev/shm"
# Rules about the system as a whole, for which no test can answer.
_NOT_OF_A_TEST: Final = ("LH013", "LH016", "LH017")
_REPORT_COLUMNS: Final = 100


class LeakError(AssertionError):
    """Something leaked; `report` tells what.

    Parameters
    ----------
    report : Report
        What was found.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        return told(self.report)


@contextmanager
def assert_no_leaks(
    name: str = "the block",
    *,
    rules: Collection[str] | None = None,
    ignore: Collection[str] = (),
    allow: Sequence[Suppression] = (),
    alone: bool | None = None,
) -> Iterator[None]:
    """Fail if the block leaves anything in shared memory.

    What this process and its descendants made within the block and is still there at its end counts: files, leases,
    mappings of unlinked segments, System V segments. Suppressions of the project's configuration apply. It is a context
    manager, and a decorator::

        with shmlease.testing.assert_no_leaks():
            run_pipeline()

    Parameters
    ----------
    name : str
        What to call the block in the findings.
    rules, ignore : collection of str
        Ids or names of the rules to run, or not to run.
    allow : sequence of Suppression
        Findings to set aside, each with its reason.
    alone : bool, optional
        Whether nothing else uses /dev/shm meanwhile, so that a segment counts even if it is not known who made it: one made by
        C code, for instance. By default only under ``shmlease run``, in a /dev/shm of its own.

    Raises
    ------
    LeakError
        Something leaked. An exception of the block itself comes first, and nothing is checked then.

    Notes
    -----
    Blocks may nest, but not overlap in threads: what two of them make at the same time is both's. A descendant that lost its
    parent (a daemon) is recognized by what it recorded, but not by what it holds.
    """
    with LeakWatch(load_configuration(), rules=rules, ignore=ignore, alone=alone) as watch:
        yield
        report = watch.check(name, suppressions=allow)
    if report is not None and report.leaks:
        raise LeakError(report)


class LeakWatch:
    """Watches what this process and its descendants leave in shared memory, one scope after another.

    Parameters
    ----------
    configuration : Configuration
        The project's settings of an audit.
    rules, ignore : collection of str
        Instead of, and beside, those of the configuration.
    children : bool
        Whether Python programs started meanwhile are to record as well: it changes ``PYTHONPATH`` for the time of the watch.
    alone : bool, optional
        Whether nothing else uses shared memory meanwhile, so that what nobody is known to have made counts as well. By default
        only where `shmlease run` has given this process a /dev/shm of its own; else such findings are of unknown confidence.
    beside_workers : bool
        Whether this is one of several processes that run tests side by side: then only what it is known to have made, or holds,
        is looked into.
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
        self._glancer = Glancer(_SHM)
        list_root(_SHM)  # that there is none, and why
        self._device = os.stat(_SHM).st_dev
        self._owned: dict[str, Glance] = {}
        self._ended: dict[str, str] = {}  # subject -> the owner that has ended
        self._scopes = ScopeTimes()
        self._record_file = record_file

    def __enter__(self) -> Self:
        self._directory = tempfile.mkdtemp(prefix="shmlease-")
        path = self._record_file or os.path.join(self._directory, "records")
        environment = recording_environment(os.environ, path)
        self._log = RecordLog(path)
        self._logs = [self._log]  # and those of other processes
        self._recorder = Recorder(path)
        self._recorder.install()
        self._restore = {key: os.environ.get(key) for key in (ENVIRONMENT, "PYTHONPATH")}
        if self._children:
            os.environ.update({key: environment[key] for key in self._restore})
        self._begin_anew()
        return self

    def __exit__(self, *_: object) -> None:
        self._recorder.is_active = False
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
    ) -> Report | None:
        """What is new since the last check; None if a glance shows that nothing is. Then the next scope begins.

        Parameters
        ----------
        name : str
            What to call the scope that ends.
        suppressions : sequence of Suppression
            Findings to set aside, beside those of the configuration.
        before_looking : callable
            Lets go of what is no leak, and only waits: by default, what the garbage collector frees.
        always : bool
            Whether to audit, and report, even if there is nothing new.
        """
        glance = self._glancer.look()
        if not always and not self._is_suspicious(glance):
            self._glance = glance
            self._began_ns = time.time_ns()
            return None
        before_looking()
        ended_ns = time.time_ns()
        creations = merged(log.read() for log in self._logs).creations(self._device)
        report = audit(
            scope=Scope(name, self._began_ns, self._subjects, self._dark_bytes),
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
        ours = of_family(report.findings)
        ours = tuple(self._with_owner(self._with_test(finding, creations)) for finding in ours)
        events = [Event(self._began_ns, "begin", text=name), Event(ended_ns, "end", text=f"{name} ended")]
        events += [Event(ended_ns, "end", finding.name, f"{name} ended") for finding in ours]
        self._begin_anew()
        return replace(report, findings=ours, events=_about(report.events, ours)).adding(events=events)

    def begin(self, name: str) -> None:
        """A test begins: what child processes make from now on, they make in it."""
        self._scopes.begin(name)

    def record_file(self, name: str) -> str:
        """A file for the process `name` to record in; what it records is read here as well."""
        path = os.path.join(self._directory, f"records-{name}")
        self._logs.append(RecordLog(path))
        return path

    def settle(self, report: Report) -> None:
        """Another process has reported this: a worker, or a child that ran a test. It is not to be reported again here."""
        told = (*report.findings, *(one.finding for one in report.suppressed))
        self._subjects.update((one.subject, one.identity.born_ns if one.identity else None) for one in told)
        files = {(one.path, one.identity.inode) for one in told if one.identity is not None}
        subjects = {one.subject for one in told if one.identity is None}
        self._glance = replace(
            self._glance,
            files=self._glance.files | files,
            sysv=self._glance.sysv | subjects,
            leases=self._glance.leases | subjects,
        )

    def by_test(self, report: Report, default: str) -> dict[str, Report]:
        """`report`, divided by the tests that its findings are to be blamed on; `default` has what no other answers for.

        What an owner made that has ended counts where its end was noticed.
        """
        found: dict[str, list[Finding]] = {default: []}
        for finding in report.findings:
            test = finding.creator.test if finding.creator and finding.subject not in self._ended else ""
            found.setdefault(test or default, []).append(finding)
        others = replace(report, suppressed=(), suppressions=(), events=())
        return {
            test: replace(report if test == default else others, findings=tuple(_in_test(one, test) for one in findings))
            for test, findings in found.items()
        }

    def look(self) -> Glance:
        """What is there now, for `own`."""
        return self._glancer.look()

    def own(self, owner: str, before: Glance) -> None:
        """What is new since `before` was seen is `owner`'s, which outlives the scope: it counts once that has ended."""
        now = self._glancer.look()
        if not now.has_new(before):
            return
        fresh = Glance(now.files - before.files, 0, now.sysv - before.sysv, now.leases - before.leases)
        self._owned[owner] = fresh
        self._expect(fresh)
        if now.hidden_inodes > before.hidden_inodes:
            # which files have lost their names cannot be glanced at; who made them is then forgotten
            self._subjects.update(begin_scope(owner, foreign=False).subjects)
            self._glance = replace(self._glance, hidden_inodes=now.hidden_inodes)

    def end(self, owner: str) -> None:
        """`owner` has ended: what it made, and is still there, is a leak from now on."""
        fresh = self._owned.pop(owner, None)
        if fresh is None:
            return
        for subject in fresh.subjects(self._device):
            self._subjects.pop(subject, None)
            self._ended[subject] = owner
        self._glance = replace(
            self._glance,
            files=self._glance.files - fresh.files,
            sysv=self._glance.sysv - fresh.sysv,
            leases=self._glance.leases - fresh.leases,
        )

    def _with_test(self, finding: Finding, creations: Creations) -> Finding:
        """`finding`, with the test in which it was made.

        A child process knows only the test in which it was started, and may serve many. So of what it makes, the time tells.
        """
        record = creations.record_of(finding.identity) if finding.identity is not None else None
        test = self._scopes.at(record.at_ns) if record is not None and record.pid != os.getpid() else None
        if test is None or finding.creator is None:
            return finding
        return replace(finding, creator=replace(finding.creator, test=test))

    def _with_owner(self, finding: Finding) -> Finding:
        owner = self._ended.get(finding.subject)
        if owner is None:
            return finding
        fact = Fact(f"{owner} made it, and has ended", "pytest fixture")
        return replace(finding, evidence=(*finding.evidence, fact))

    def _expect(self, glance: Glance) -> None:
        self._subjects.update(dict.fromkeys(glance.subjects(self._device)))
        self._glance = replace(
            self._glance,
            files=self._glance.files | glance.files,
            sysv=self._glance.sysv | glance.sysv,
            leases=self._glance.leases | glance.leases,
        )

    def _is_suspicious(self, glance: Glance) -> bool:
        if not glance.has_new(self._glance):
            return False
        if not self._beside_workers or replace(glance, files=frozenset()).has_new(self._glance):
            return True
        # side by side with others, new files are mostly theirs: only what was recorded here is looked into
        made = {record.path for record in self._log.read().records}
        return any(path in made for path, _ in glance.files - self._glance.files)

    def _begin_anew(self) -> None:
        """Everything that is there now is known."""
        scope = begin_scope("", foreign=False)
        self._subjects: dict[str, int | None] = dict(scope.subjects)
        self._dark_bytes: Mapping[int, int] = scope.dark_bytes
        self._glance = self._glancer.look()
        self._subjects.update(dict.fromkeys(self._glance.subjects(self._device)))
        for owned in self._owned.values():
            self._expect(owned)
        self._began_ns = time.time_ns()


def _without_strangers(report: Report, of_family: Callable[[Iterable[Finding]], tuple[Finding, ...]]) -> Report:
    """`report`, where suppressions have set aside, and counted, only what the family answers for."""
    ours = tuple(one for one in report.suppressed if of_family([one.finding]))
    strangers = Counter((one.reason, one.source) for one in report.suppressed)
    strangers.subtract((one.reason, one.source) for one in ours)
    uses: list[SuppressionUse] = []
    for use in report.suppressions:
        foreign = min(use.uses, strangers[use.reason, use.source])
        strangers[use.reason, use.source] -= foreign
        uses.append(replace(use, uses=use.uses - foreign))
    return replace(report, suppressed=ours, suppressions=tuple(uses))


def _in_test(finding: Finding, test: str) -> Finding:
    """`finding`, with the test in which it was noticed where it is not known in which it was made."""
    creator = finding.creator or Creator()
    return finding if creator.test or "::" not in test else replace(finding, creator=replace(creator, test=test))


def told(report: Report) -> str:
    """`report` in words: its leaks, and what they were set against."""
    leaks = replace(report, findings=report.leaks, suppressions=(), coverage=replace(report.coverage, gaps=()))
    return render(leaks, "text", Style(colour=False, width_columns=_REPORT_COLUMNS)).rstrip()


def _about(events: Iterable[Event], findings: Iterable[Finding]) -> tuple[Event, ...]:
    """The events of the segments in `findings`: a report on one test is not one on the whole system."""
    names = {finding.name for finding in findings} | {finding.path.removeprefix(f"{_SHM}/") for finding in findings}
    return tuple(event for event in events if event.segment in names)
