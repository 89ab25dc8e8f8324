"""Whose leak it is, where other programs use the same /dev/shm: keeps the findings that a family of processes answers for.

A finding is the family's if one of it made the segment, or holds it. What others made, or hold, is theirs. What nobody holds
and nobody is known to have made appeared while the family ran; how much that says depends on who else is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from shmlease.auditor.judge.findings import Confidence, Fact, Finding, Process
from shmlease.auditor.judge.rules import Severity

__all__ = ["attributed"]

_NOT_KNOWN = Fact("who made it was not seen: another program of this machine may have, in the same time", "no record")
_DOUBT: Final = (Confidence.PROVED, Confidence.LIKELY, Confidence.UNKNOWN)


def attributed(
    findings: Iterable[Finding],
    made: Callable[[Finding], bool],
    is_member: Callable[[Process], bool | None],
    *,
    unknown: Confidence | None = Confidence.LIKELY,
) -> tuple[Finding, ...]:
    """The findings that the family answers for.

    Parameters
    ----------
    findings : iterable of Finding
        What is new since the family began.
    made : callable
        Whether a process of the family was recorded making what a finding is about.
    is_member : callable
        Whether a process is of the family; None if it has ended, and so cannot be asked.
    unknown : Confidence or None
        How sure it is at most that the family made what nobody is known to have made or to hold; None to leave that out.
    """
    kept: list[Finding] = []
    for finding in findings:
        if finding.severity is Severity.NOTE or made(finding) or any(is_member(holder) for holder in finding.holders):
            kept.append(finding)
        elif unknown is not None and not finding.holders and not _is_a_strangers(finding, is_member):
            confidence = max(finding.confidence, unknown, key=_DOUBT.index)
            kept.append(replace(finding, confidence=confidence, evidence=(*finding.evidence, _NOT_KNOWN)))
    return tuple(kept)


def _is_a_strangers(finding: Finding, is_member: Callable[[Process], bool | None]) -> bool:
    """Whether its maker lives and is of another family."""
    creator = finding.creator
    return creator is not None and creator.pid is not None and is_member(Process(creator.pid)) is False
