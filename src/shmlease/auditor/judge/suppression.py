"""Suppressing findings: by a suppression with a reason, or by a baseline of known findings.

What was suppressed stays in the report, with the reason. A suppression that matched nothing is reported too, because it may
hide the next leak.
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
    """Suppresses the findings that match all three globs, until the day it expires.

    Parameters
    ----------
    reason : str
        Why it is not a leak; required.
    rule : str
        A glob on the id or the name of the rule.
    name : str
        A glob on the OS name, relative to /dev/shm or without its directory, or on the label.
    creator : str
        A glob on the command line of the creator, or of any holder.
    expires : date or None
        The last day on which it applies.
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


_UNLINKED = ("unlinked-but-held",)
_IDLE = ("orphan", "foreign-namespace")

# What other programs keep in shared memory by design: name, rules, reason. Each is as narrow as its reason:
# multiprocessing's heap, for instance, unlinks its file at once, so a `pym-*` that still has a name is a leak like any
# other.
_BY_DESIGN = (
    ("sem.*", _IDLE + _UNLINKED, "a named POSIX semaphore keeps its name until sem_unlink, whether or not it is open"),
    ("pym-*", _UNLINKED, "multiprocessing unlinks the file of its heap (Array, Value) as soon as it has mapped it"),
    (
        "pulse-shm-*",
        _IDLE + _UNLINKED,
        "PulseAudio keeps its pool while it runs, and its next start removes what a crash left",
    ),
    ("pipewire-*", _UNLINKED, "PipeWire and PulseAudio clients keep their pool unlinked"),
    (".org.chromium.*", _UNLINKED, "Chromium unlinks its shared memory when it creates it, and passes descriptors on"),
    (".com.google.Chrome.*", _UNLINKED, "Chrome unlinks its shared memory when it creates it, and passes descriptors on"),
    ("org.mozilla.*", _UNLINKED, "Firefox unlinks its shared memory when it creates it, and passes descriptors on"),
    (
        "PostgreSQL.*",
        (*_IDLE, "half-created"),
        "PostgreSQL keeps segments that no backend maps now; its next start removes them",
    ),
    ("iox2_*", (*_IDLE, "half-created"), "iceoryx2 keeps the state of its services in files that it opens when needed"),
    (
        "__KMP_REGISTERED_LIB_*",
        _IDLE + _UNLINKED,
        "the OpenMP runtime registers itself so that it notices a second copy of it",
    ),
)
DEFAULT_SUPPRESSIONS: tuple[Suppression, ...] = tuple(
    Suppression(reason, rule, name, source="default") for name, rules, reason in _BY_DESIGN for rule in rules
)


class Suppressions:
    """An ordered list of suppressions; the first that matches a finding suppresses it."""

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
        """The findings that stay, those that are suppressed, and how often each suppression was used."""
        kept: list[Finding] = []
        suppressed: list[Suppressed] = []
        uses: Counter[int] = Counter()
        for finding in findings:
            position = self._first(finding)
            if position is None:
                kept.append(finding)
            else:
                uses[position] += 1
                suppressed.append(Suppressed(finding, self._all[position].reason, self._all[position].source))
        return tuple(kept), tuple(suppressed), tuple(self._use(one, uses[i]) for i, one in enumerate(self._all))

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
    """What a suppression may call the segment."""
    names = (finding.name, finding.name.rpartition("/")[2], finding.label)
    return names if "/" in finding.name or finding.label else (finding.name,)


def suppress_known(
    findings: Iterable[Finding], known: Mapping[str, int], source: str
) -> tuple[tuple[Finding, ...], tuple[Suppressed, ...]]:
    """The findings beyond those that `known` allows, as a number for each fingerprint, and the others."""
    left = Counter(known)
    kept: list[Finding] = []
    suppressed: list[Suppressed] = []
    for finding in findings:
        if left[finding.fingerprint] > 0:
            left[finding.fingerprint] -= 1
            suppressed.append(Suppressed(finding, "known since the baseline was written", source))
        else:
            kept.append(finding)
    return tuple(kept), tuple(suppressed)
