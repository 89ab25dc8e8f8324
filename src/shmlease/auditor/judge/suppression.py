"""Setting findings aside: by a suppression with a reason, or by a baseline of what is known.

What was set aside stays in the report, with the word on which it was; a suppression that nothing used is told as well, for
it may hide the next leak.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase, translate

from shmlease.auditor.judge.findings import Finding, Suppressed, SuppressionUse
from shmlease.auditor.judge.rules import RULES, Rule

__all__ = ["DEFAULT_SUPPRESSIONS", "Suppression", "Suppressions", "suppress_known"]


@dataclass(frozen=True, slots=True)
class Suppression:
    """Findings to set aside: those that match all three globs, until the day it expires.

    Parameters
    ----------
    reason : str
        Why that is no leak. There is no suppression without one.
    rule : str
        A glob on the id or the name of the rule.
    name : str
        A glob on the OS name, relative to /dev/shm or without its directory, or on the label.
    creator : str
        A glob on the command line of the creator, or of any holder.
    expires : date or None
        The last day on which it counts.
    source : str
        Where it was written.
    """

    reason: str
    rule: str = "*"
    name: str = "*"
    creator: str = "*"
    expires: date | None = None
    source: str = ""

    def is_about(self, rule: Rule) -> bool:
        """Whether it is about findings of `rule`."""
        glob = self.rule.lower()
        return fnmatchcase(rule.id.lower(), glob) or fnmatchcase(rule.name, glob)

    def matches(self, finding: Finding) -> bool:
        """Whether it is about the segment of `finding`, whatever the rule and the day."""
        if not any(fnmatchcase(name, self.name) for name in _names(finding)):
            return False
        if self.creator == "*":
            return True
        commands = [holder.command for holder in finding.holders]
        if finding.creator is not None:
            commands.append(finding.creator.command)
        return any(fnmatchcase(command, self.creator) for command in commands)

    def has_expired(self, today: date) -> bool:
        """Whether its last day has passed."""
        return self.expires is not None and today > self.expires


def _by_design(reason: str, name: str, *rules: str) -> tuple[Suppression, ...]:
    return tuple(Suppression(reason, rule, name, source="default") for rule in rules)


# What other programs keep in shared memory by design. Each is as narrow as its reason: multiprocessing's heap, for
# instance, unlinks its file at once, so a `pym-*` that still has a name is a leak like any other.
DEFAULT_SUPPRESSIONS: tuple[Suppression, ...] = (
    *_by_design("a named POSIX semaphore keeps its name until sem_unlink, whether or not it is open",
                "sem.*", "orphan", "foreign-namespace", "unlinked-but-held"),
    *_by_design("multiprocessing unlinks the file of its heap (Array, Value) as soon as it has mapped it",
                "pym-*", "unlinked-but-held"),
    *_by_design("PulseAudio keeps its pool while it runs, and removes what a crash left at its next start",
                "pulse-shm-*", "orphan", "foreign-namespace", "unlinked-but-held"),
    *_by_design("PipeWire and PulseAudio clients hold their pool unlinked", "pipewire-*", "unlinked-but-held"),
    *_by_design("Chromium unlinks its shared memory when it creates it and passes descriptors on",
                ".org.chromium.*", "unlinked-but-held"),
    *_by_design("Chrome unlinks its shared memory when it creates it and passes descriptors on",
                ".com.google.Chrome.*", "unlinked-but-held"),
    *_by_design("Firefox unlinks its shared memory when it creates it and passes descriptors on",
                "org.mozilla.*", "unlinked-but-held"),
    *_by_design("PostgreSQL keeps dynamic segments that no backend maps at the moment; its next start removes leftovers",
                "PostgreSQL.*", "orphan", "foreign-namespace", "half-created"),
    *_by_design("iceoryx2 keeps the state of its services in files that are opened when needed; its nodes clean up",
                "iox2_*", "orphan", "foreign-namespace", "half-created"),
    *_by_design("the OpenMP runtime registers itself under this name so that a second copy of it is noticed",
                "__KMP_REGISTERED_LIB_*", "orphan", "foreign-namespace", "unlinked-but-held"),
)  # fmt: skip


class Suppressions:
    """Suppressions in their order, of which the first that matches a finding sets it aside."""

    def __init__(self, suppressions: Sequence[Suppression], today: date) -> None:
        self._all = tuple(suppressions)
        self._today = today
        self._by_rule = {
            rule.id: [
                (position, one)
                for position, one in enumerate(self._all)
                if one.is_about(rule) and not one.has_expired(today)
            ]
            for rule in RULES.values()
        }
        self._any_name = {
            rule: re.compile("|".join(translate(one.name) for _, one in about)) for rule, about in self._by_rule.items()
        }

    def apply(
        self, findings: Iterable[Finding]
    ) -> tuple[tuple[Finding, ...], tuple[Suppressed, ...], tuple[SuppressionUse, ...]]:
        """The findings that stay, those that are set aside, and how often each suppression was used."""
        kept: list[Finding] = []
        aside: list[Suppressed] = []
        uses: Counter[int] = Counter()
        for finding in findings:
            position = self._first(finding)
            if position is None:
                kept.append(finding)
            else:
                uses[position] += 1
                aside.append(Suppressed(finding, self._all[position].reason, self._all[position].source))
        return tuple(kept), tuple(aside), tuple(self._use(one, uses[i]) for i, one in enumerate(self._all))

    def _first(self, finding: Finding) -> int | None:
        about = self._by_rule[finding.rule]
        if not about or not any(map(self._any_name[finding.rule].match, _names(finding))):
            return None  # the usual case, and there may be ten thousand findings
        return next((position for position, one in about if one.matches(finding)), None)

    def _use(self, one: Suppression, uses: int) -> SuppressionUse:
        expires = one.expires.isoformat() if one.expires else ""
        return SuppressionUse(
            one.reason, one.source, one.rule, one.name, one.creator, expires, uses, one.has_expired(self._today)
        )


def _names(finding: Finding) -> tuple[str, ...]:
    """What a user may mean by the name of the segment."""
    names = (finding.name, finding.name.rpartition("/")[2], finding.label)
    return names if "/" in finding.name or finding.label else (finding.name,)


def suppress_known(
    findings: Iterable[Finding], known: Mapping[str, int], source: str
) -> tuple[tuple[Finding, ...], tuple[Suppressed, ...]]:
    """The findings beyond those that `known` allows, as a number for each fingerprint, and the others."""
    left = Counter(known)
    kept: list[Finding] = []
    aside: list[Suppressed] = []
    for finding in findings:
        if left[finding.fingerprint] > 0:
            left[finding.fingerprint] -= 1
            aside.append(Suppressed(finding, "known since the baseline was written", source))
        else:
            kept.append(finding)
    return tuple(kept), tuple(aside)
