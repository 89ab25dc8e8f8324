"""Attribution where other programs use the same /dev/shm: keeps the findings that a family of processes is responsible for.

A finding is the family's if one of its processes created the segment or holds it. What others created or hold is theirs. A
segment that nobody holds, and whose creator is unknown, appeared while the family ran; how much that says depends on what
else was running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from shmlease.auditor.judge.findings import Confidence, Fact, Finding, Process
from shmlease.auditor.judge.rules import Severity

__all__ = ["attributed"]

_NOT_KNOWN = Fact("its creator is unknown: another program may have created it in the same time", "no record")
_DOUBT: Final = (Confidence.PROVED, Confidence.LIKELY, Confidence.UNKNOWN)


def attributed(
    findings: Iterable[Finding],
    is_creator: Callable[[Finding], bool],
    is_member: Callable[[Process], bool | None],
    *,
    unknown: Confidence | None = Confidence.LIKELY,
) -> tuple[Finding, ...]:
    """The findings that the family is responsible for.

    Parameters
    ----------
    findings : iterable of Finding
        What is new since the family started.
    is_creator : callable
        Whether a process of the family is recorded as the creator of what a finding is about.
    is_member : callable
        Whether a process belongs to the family; None if it has ended, so that it cannot be asked.
    unknown : Confidence or None
        The highest confidence for what has no known creator and no holder; None to leave such findings out.
    """
    kept: list[Finding] = []
    for finding in findings:
        if finding.severity is Severity.NOTE or is_creator(finding) or any(is_member(holder) for holder in finding.holders):
            kept.append(finding)
        elif unknown is not None and not finding.holders and not _is_foreign(finding, is_member):
            confidence = max(finding.confidence, unknown, key=_DOUBT.index)
            kept.append(msgspec.structs.replace(finding, confidence=confidence, evidence=(*finding.evidence, _NOT_KNOWN)))
    return tuple(kept)


def _is_foreign(finding: Finding, is_member: Callable[[Process], bool | None]) -> bool:
    """Whether its creator is alive and belongs to another family."""
    creator = finding.creator
    return creator is not None and creator.pid is not None and is_member(Process(creator.pid)) is False
