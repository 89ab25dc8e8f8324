"""Leak checks for tests in any framework: `assert_no_leaks`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ContextDecorator, ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Final

from shmlease.auditor.configuration import load_configuration
from shmlease.auditor.judge.findings import Report
from shmlease.auditor.judge.suppression import Suppression
from shmlease.auditor.report.formats import Style, render
from shmlease.testing.leak_watch import LeakWatch
from shmlease.units import format_bytes

__all__ = ["LeakError", "assert_no_leaks", "in_short", "told"]

_REPORT_COLUMNS: Final = 100
# Of the blocks that have begun and not ended: what an inner one has failed for is no second failure of an outer one.
_open_watches: Final[list[LeakWatch]] = []


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


class assert_no_leaks(ContextDecorator):  # noqa: N801 - it reads as the assertion that it is
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
        Findings to suppress, each with its reason.
    alone : bool, optional
        Whether nothing else uses /dev/shm meanwhile, so that a segment counts even if its creator is unknown: one created
        by C code, for instance. By default only under ``shmlease run``, in a /dev/shm of its own.

    Raises
    ------
    LeakError
        Something leaked. An exception of the block itself comes first, and nothing is checked then.

    Notes
    -----
    Blocks may nest, but not overlap in threads: what two of them make at the same time is both's. A descendant that lost
    its parent (a daemon) is recognized by what it recorded, but not by what it holds.
    """

    def __init__(
        self,
        name: str = "the block",
        *,
        rules: Collection[str] | None = None,
        ignore: Collection[str] = (),
        allow: Sequence[Suppression] = (),
        alone: bool | None = None,
    ) -> None:
        self._name = name
        self._allow = allow
        self._how: dict[str, Any] = {"rules": rules, "ignore": ignore, "alone": alone}
        self._watches: list[LeakWatch] = []  # one for each time that it is entered: a decorated function may recurse

    def __enter__(self) -> None:
        watch = LeakWatch(load_configuration(), **self._how)
        watch.__enter__()
        self._watches.append(watch)
        _open_watches.append(watch)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        __tracebackhide__ = True  # what the reader of a failure wants to see is the block
        with ExitStack() as stack:
            watch = self._watches.pop()
            stack.push(watch)
            _open_watches.remove(watch)
            report = None if kind is not None else watch.check(self._name, suppressions=self._allow)
        if report is not None and report.leaks:
            for enclosing in _open_watches:
                enclosing.settle(report)
            raise LeakError(report)


def told(report: Report) -> str:
    """`report` in words: what leaked in a line, then each leak with what it was set against."""
    leaks = replace(report, findings=report.leaks, suppressions=(), coverage=replace(report.coverage, gaps=()))
    *details, _ = render(leaks, "text", Style(colour=False, width_columns=_REPORT_COLUMNS)).splitlines()  # no verdict
    return "\n".join((in_short(report), "", *details)).rstrip()


def in_short(report: Report) -> str:
    """What leaked, in a line: the first, and how many more."""
    first, *others = report.leaks
    place = first.creator.reported_at if first.creator else None
    made = f", made at {place}" if place else ""
    more = f", and {len(others)} more" if others else ""
    return f"{first.definition.name} {first.label or first.name} ({format_bytes(first.size_bytes)}){made}{more}"
