"""The rules of the auditor: one literal table, which the reports, the documentation and the selftest use.

An id never changes its meaning and is never given to another rule. The severity says what a finding does to the exit code:
errors and warnings are leaks; notes are reported and do not count.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from shmlease.errors import LeaseError

__all__ = ["RULES", "Rule", "Severity", "rule_ids", "rule_of", "unknown_rule"]


class Severity(Enum):
    """How much a finding weighs: errors and warnings set the exit code to 23, notes do not."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding, under an id that stays the same for ever."""

    id: str
    name: str
    description: str
    severity: Severity
    remedy: str


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

_TABLE = (
    Rule(
        "LH001",
        "orphan",
        "A named segment that no process anywhere has open or mapped.",
        _E,
        "call `unlink()` in a `finally` when its last user is done; `shmlease reap` removes it now",
    ),
    Rule(
        "LH002",
        "held-without-lease",
        "A process has a segment of a registry mapped without holding a lease on it.",
        _W,
        "attach through the registry in that process, instead of by the segment's OS name or an inherited mapping",
    ),
    Rule(
        "LH003",
        "unlinked-but-held",
        "A segment has lost its name while a process still holds its memory.",
        _W,
        "close the mapping or descriptor in the process named; the memory returns when its last holder closes it",
    ),
    Rule(
        "LH004",
        "dark-bytes",
        "The filesystem has more memory in use than its files and their visible holders explain.",
        _W,
        "audit as root to see every process; what is still dark then is held by a descriptor in flight between "
        "processes or registered in an io_uring",
    ),
    Rule(
        "LH005",
        "half-created",
        "A segment whose creator got no further than its name: no size, or no page written, and nobody holds it.",
        _E,
        "call `unlink()` where it was created, also when what comes next fails; `shmlease reap` removes it now",
    ),
    Rule(
        "LH006",
        "stale-lease",
        "The lease table counts a lease whose holder is dead.",
        _E,
        "the registry should have ended it at once: check that it is not stopped, and restart it",
    ),
    Rule(
        "LH007",
        "dead-registry",
        "Files of a registry that is no longer running.",
        _E,
        "start a registry again, which sweeps them, or run `shmlease reap --yes`",
    ),
    Rule(
        "LH008",
        "premature-unlink",
        "A segment lost its file while a live process holds a lease on it.",
        _E,
        "find what unlinks it: a resource tracker, a cleanup script, or another program that uses the same name",
    ),
    Rule(
        "LH009",
        "outlives-its-scope",
        "A segment created within the scope (a command, a test) is still held after it.",
        _E,
        "call `unlink()` and `close()` before the scope ends",
    ),
    Rule(
        "LH010",
        "overdue-lease",
        "A lease has been held for longer than was allowed.",
        _W,
        "release it, or allow longer: `overdue_after` in [tool.shmlease.audit]",
    ),
    Rule(
        "LH011",
        "lingering-view",
        "A numpy view outlives the lease it was taken from and keeps the segment held.",
        _W,
        "drop the view, or copy what is needed, before the lease is released",
    ),
    Rule(
        "LH012",
        "expired-ticket",
        "A ticket expired before anyone redeemed it.",
        _W,
        "redeem the ticket sooner, give it a longer ttl, or do not create it",
    ),
    Rule(
        "LH013",
        "foreign-namespace",
        "A segment in the /dev/shm of another mount namespace has no holder.",
        _W,
        "unlink it inside that namespace, for instance with `nsenter --mount --target PID`",
    ),
    Rule(
        "LH014",
        "sysv",
        "A System V segment with no attachment left, whose creator is dead.",
        _E,
        "remove it with `ipcrm -m ID`, and mark such segments with IPC_RMID as soon as they are attached",
    ),
    Rule(
        "LH015",
        "tracker-reaped",
        "A segment was removed by a resource tracker after its program had ended.",
        _W,
        "call `unlink()` in the program; the tracker is a safety net that is killed together with the process group",
    ),
    Rule(
        "LH016",
        "blind",
        "Something could not be seen, so that a leak there would have gone unnoticed.",
        _N,
        "audit as the user who owns it, or as root",
    ),
    Rule(
        "LH017",
        "orphan-charge",
        "Shared memory is charged to a control group that has no process left.",
        _N,
        "remove the segments that were created in that group; the charge stays until their pages are freed",
    ),
    Rule(
        "LH018",
        "registry-fault",
        "A registry process ended because of a fault of its own, and a successor took its place.",
        _N,
        "report it with the traceback; a request that ended two processes is refused, all others are served",
    ),
)

RULES: dict[str, Rule] = {rule.id: rule for rule in _TABLE}
_BY_NAME = {rule.name: rule for rule in _TABLE}


def rule_of(text: str) -> Rule | None:
    """The rule with this id (``"LH001"``, any case) or name (``"orphan"``), or None."""
    return RULES.get(text.upper()) or _BY_NAME.get(text.lower())


def rule_ids(texts: Collection[str]) -> frozenset[str]:
    """The ids of the rules that `texts` name, by id or name.

    Raises
    ------
    LeaseError
        A rule does not exist.
    """
    rules = {text: rule_of(text) for text in texts}
    unknown = sorted(text for text, rule in rules.items() if rule is None)
    if unknown:
        raise LeaseError(unknown_rule(unknown[0]), rules=unknown)
    return frozenset(rule.id for rule in rules.values() if rule is not None)


def unknown_rule(text: str) -> str:
    """The message for `text`, which names no rule: the rule that may be meant, and all rules."""
    import difflib  # noqa: PLC0415 - only for who mistyped

    near = difflib.get_close_matches(text.lower(), _BY_NAME, n=1)
    guess = f"did you mean {near[0]} ({_BY_NAME[near[0]].id})? " if near else ""
    return f"there is no rule {text!r}; {guess}the rules are {', '.join(f'{one.id} {one.name}' for one in RULES.values())}"
