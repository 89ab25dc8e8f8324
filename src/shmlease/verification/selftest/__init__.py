"""The auditor tried on itself: every kind of leak planted and looked for, and a clean twin of each that is to
stay unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from shmlease.auditor.judge.findings import Finding
from shmlease.auditor.judge.rules import Severity
from shmlease.verification.selftest.plants import PLANTS, Plant, Planting
from shmlease.verification.selftest.testbed import NotPermittedError, Testbed

__all__ = ["PLANTS", "Outcome", "Plant", "Trial", "selftest"]

# Another program may change /dev/shm while its memory is counted; the count is then taken again.
_ATTEMPTS: Final = 3


class Outcome(Enum):
    """What became of one plant or twin."""

    DETECTED = "detected"
    MISSED = "missed"
    CLEAN = "clean"
    FALSE_ALARM = "false alarm"
    NOT_PLANTED = "not planted"
    NONE = "-"


@dataclass(frozen=True, slots=True)
class Trial:
    """One plant with its twin, what became of them, and why where that needs to be said."""

    name: str
    rule: str
    leak: Outcome
    twin: Outcome
    reason: str = ""

    @property
    def is_passed(self) -> bool:
        """Whether the auditor was right, as far as it was tried."""
        return self.leak is not Outcome.MISSED and self.twin is not Outcome.FALSE_ALARM


def selftest(plants: Collection[Plant] = PLANTS, *, ignore: Collection[str] = ()) -> Iterator[Trial]:
    """Plant each leak and each twin, one after the other, and audit.

    Everything is planted in the real /dev/shm, under names of its own, and removed again; what else is there is left alone
    and does not count. What this system or this user does not permit is not planted, and the trial says why.

    Parameters
    ----------
    plants : collection of Plant
        What to plant.
    ignore : collection of str
        Rules that are not to look.

    Yields
    ------
    Trial
        As soon as it is over.
    """
    for plant in plants:
        leak, leak_reason = _try(plant, plant.leak, ignore, _judge_leak)
        twin, twin_reason = Outcome.NONE, ""
        if plant.twin is not None:
            twin, twin_reason = _try(plant, plant.twin, ignore, _judge_twin)
        reasons = dict.fromkeys(reason for reason in (leak_reason, twin_reason) if reason)
        yield Trial(plant.name, plant.rule, leak, twin, "; ".join(reasons))


def _judge_leak(plant: Plant, found: list[Finding]) -> Outcome:
    return Outcome.DETECTED if any(finding.rule == plant.rule for finding in found) else Outcome.MISSED


def _judge_twin(plant: Plant, found: list[Finding]) -> Outcome:  # noqa: ARG001 - the signature of a judge
    return Outcome.FALSE_ALARM if any(finding.severity is not Severity.NOTE for finding in found) else Outcome.CLEAN


def _try(
    plant: Plant, planting: Planting, ignore: Collection[str], judge: Callable[[Plant, list[Finding]], Outcome]
) -> tuple[Outcome, str]:
    """Plant, audit, judge what was found about it, and clear the testbed; the reason where there is one."""
    with Testbed(frozenset(ignore)) as testbed:
        known: set[tuple[str, str]] = set()
        if plant.is_nameless:
            testbed.begin_scope()
            known = {finding.key for finding in testbed.audit().findings}
        try:
            report = planting(testbed)
        except NotPermittedError as refusal:
            return Outcome.NOT_PLANTED, str(refusal)
        for _ in range(_ATTEMPTS):
            found = [
                finding
                for finding in (report or testbed.audit()).findings
                if testbed.concerns(finding)
                or (plant.is_nameless and finding.rule == plant.rule and finding.key not in known)
            ]
            outcome = judge(plant, found)
            if outcome is not Outcome.MISSED:
                break
    return outcome, found[0].message if outcome is Outcome.FALSE_ALARM else ""
