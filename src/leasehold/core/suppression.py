"""Setting findings aside: by a suppression with a reason, or by a baseline of what is known.

What was set aside stays in the report, with the word on which it was; a suppression that nothing used is told as well, for
it may hide the next leak.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase

from leasehold.core.findings import Finding, Suppressed, SuppressionUse

__all__ = ["DEFAULT_SUPPRESSIONS", "Suppression", "set_aside", "set_aside_known"]


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

    def matches(self, finding: Finding) -> bool:
        """Whether it is about `finding`, whatever the day."""
        rules = (finding.rule, finding.definition.name)
        names = (finding.name, finding.name.rpartition("/")[2], finding.label)
        commands = [holder.command for holder in finding.holders]
        if finding.creator is not None:
            commands.append(finding.creator.command)
        return (
            any(fnmatchcase(rule.lower(), self.rule.lower()) for rule in rules)
            and any(fnmatchcase(name, self.name) for name in names)
            and (self.creator == "*" or any(fnmatchcase(command, self.creator) for command in commands))
        )

    def has_expired(self, today: date) -> bool:
        """Whether its last day has passed."""
        return self.expires is not None and today > self.expires


def _by_design(reason: str, name: str, *rules: str) -> tuple[Suppression, ...]:
    return tuple(Suppression(reason, rule, name, source="default") for rule in rules)


# What other programs keep in shared memory by design. Each is as narrow as its reason: multiprocessing's heap, for
# instance, unlinks its file at once, so a `pym-*` that still has a name is a leak like any other.
DEFAULT_SUPPRESSIONS: tuple[Suppression, ...] = (
    *_by_design("a named POSIX semaphore keeps its name until sem_unlink, whether or not it is open",
                "sem.*", "orphan", "unlinked-but-held"),
    *_by_design("multiprocessing unlinks the file of its heap (Array, Value) as soon as it has mapped it",
                "pym-*", "unlinked-but-held"),
    *_by_design("PulseAudio keeps its pool while it runs, and removes what a crash left at its next start",
                "pulse-shm-*", "orphan", "unlinked-but-held"),
    *_by_design("PipeWire and PulseAudio clients hold their pool unlinked", "pipewire-*", "unlinked-but-held"),
    *_by_design("Chromium unlinks its shared memory when it creates it and passes descriptors on",
                ".org.chromium.*", "unlinked-but-held"),
    *_by_design("Chrome unlinks its shared memory when it creates it and passes descriptors on",
                ".com.google.Chrome.*", "unlinked-but-held"),
    *_by_design("Firefox unlinks its shared memory when it creates it and passes descriptors on",
                "org.mozilla.*", "unlinked-but-held"),
    *_by_design("PostgreSQL keeps dynamic segments that no backend maps at the moment; its next start removes leftovers",
                "PostgreSQL.*", "orphan", "half-created"),
    *_by_design("iceoryx2 keeps the state of its services in files that are opened when needed; its nodes clean up",
                "iox2_*", "orphan", "half-created"),
    *_by_design("the OpenMP runtime registers itself under this name so that a second copy of it is noticed",
                "__KMP_REGISTERED_LIB_*", "orphan", "unlinked-but-held"),
)  # fmt: skip


def set_aside(
    findings: Iterable[Finding], suppressions: Sequence[Suppression], today: date
) -> tuple[tuple[Finding, ...], tuple[Suppressed, ...], tuple[SuppressionUse, ...]]:
    """The findings that stay, those that the first matching suppression takes away, and how each was used."""
    kept: list[Finding] = []
    aside: list[Suppressed] = []
    uses: Counter[int] = Counter()
    live = [(position, s) for position, s in enumerate(suppressions) if not s.has_expired(today)]
    for finding in findings:
        position = next((position for position, one in live if one.matches(finding)), None)
        if position is None:
            kept.append(finding)
        else:
            uses[position] += 1
            aside.append(Suppressed(finding, suppressions[position].reason, suppressions[position].source))
    used = tuple(
        SuppressionUse(
            one.reason, one.source, one.rule, one.name, one.creator, one.expires.isoformat() if one.expires else "",
            uses[position], one.has_expired(today),
        )
        for position, one in enumerate(suppressions)
    )  # fmt: skip
    return tuple(kept), tuple(aside), used


def set_aside_known(
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
