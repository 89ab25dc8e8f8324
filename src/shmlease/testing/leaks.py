"""Leak checks for tests in any framework: `assert_no_leaks`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from shmlease.auditor.configuration import load_configuration
from shmlease.auditor.judge.findings import Report
from shmlease.auditor.judge.suppression import Suppression
from shmlease.auditor.report.formats import Style, render
from shmlease.testing.leak_watch import LeakWatch

__all__ = ["LeakError", "assert_no_leaks", "told"]

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
    with LeakWatch(load_configuration(), rules=rules, ignore=ignore, alone=alone) as watch:
        yield
        report = watch.check(name, suppressions=allow)
    if report is not None and report.leaks:
        raise LeakError(report)


def told(report: Report) -> str:
    """`report` in words: its leaks, and what they were set against."""
    leaks = replace(report, findings=report.leaks, suppressions=(), coverage=replace(report.coverage, gaps=()))
    return render(leaks, "text", Style(colour=False, width_columns=_REPORT_COLUMNS)).rstrip()
