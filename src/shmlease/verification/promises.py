"""The promises: what may be refused, how each may be broken, and what must not have happened in the histories of all
processes.

Nothing here knows how a promise is kept. Times of different processes are compared only as "ended before the other began".
A call that began and did not end, because its process was killed, may or may not have happened; wherever that matters the
benefit of the doubt is shmlease's.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from shmlease.errors import AbandonedError, CapacityError, LeaseError, SegmentExistsError, SegmentNotFoundError, TicketError
from shmlease.verification.history import Act, Event
from shmlease.verification.operations import Call, WrongReadError

__all__ = ["REFUSALS", "Finding", "Violation", "check"]

# What a call may be refused with. Everything else, a registry that cannot be reached included, is a broken promise.
REFUSALS: Final[dict[Call, tuple[type[LeaseError], ...]]] = {
    Call.LEASE: (CapacityError, SegmentExistsError),
    Call.SHARE: (CapacityError, SegmentExistsError),
    Call.TICKET: (CapacityError,),
    # a full /dev/shm has no room for the lease table to grow: a forked child's first read takes a lease as well
    Call.ATTACH: (SegmentNotFoundError, AbandonedError, CapacityError),
    Call.READ: (CapacityError,),
    Call.REDEEM: (TicketError,),
    Call.REVOKE: (TicketError,),
}
_FOREVER_NS: Final = 2**63


class Violation(enum.StrEnum):
    """How a promise may be broken."""

    LEAK = "leak"  # something is there that nobody uses
    LOST = "lost segment"  # something is gone that somebody uses
    REUSED = "memory used again"  # though in use, or though its last use did not end in order
    CAPACITY = "beyond the capacity"
    WRONG_READ = "wrong read"
    LOST_PUBLICATION = "lost publication"  # of a name or a ticket
    REDEEMED_TWICE = "redeemed twice"
    UNFAIR = "unfair wait"
    UNEXPECTED_ERROR = "unexpected error"
    DEATH = "death"
    STUCK = "stuck"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise; `process` met it."""

    kind: Violation
    process: str
    detail: str
    at_ns: int = 0


@dataclasses.dataclass(slots=True)
class _Publication:
    """A name that an array can be attached by, and between when and when that is certain."""

    event: Event
    granted_ns: int  # when the name was given to it
    surely_to_ns: int

    @property
    def stamp(self) -> int:
        return self.event.act.stamp

    @property
    def surely_from_ns(self) -> int:
        return self.event.act.end_ns or _FOREVER_NS


def check(events: Iterable[Event]) -> list[Finding]:
    """Every broken promise in a history that begins and ends with nothing held."""
    history = sorted(events, key=lambda event: event.act.begin_ns)
    return [*_errors(history), *_tickets(history), *_names(history)]


def _errors(history: list[Event]) -> Iterator[Finding]:
    cut_short = {event.process for event in history if not event.is_finished}
    for event in history:
        act = event.act
        if not act.outcome or _may_be_refused(act):
            continue
        parent = event.process.partition("f")[0]
        if act.outcome == "LeaseClosedError" and parent != event.process and parent in cut_short:
            continue  # a forked child whose parent was killed before the child took a lease of its own
        kind = Violation.WRONG_READ if act.outcome == WrongReadError.__name__ else Violation.UNEXPECTED_ERROR
        what = f"{act.call} of {act.subject or hex(act.stamp)}: {act.outcome}: {act.detail}"
        yield Finding(kind, event.process, what, act.begin_ns)


def _may_be_refused(act: Act) -> bool:
    allowed = {kind.__name__ for kind in REFUSALS.get(act.call, ())}
    if not act.subject:
        allowed.discard(SegmentExistsError.__name__)
    return act.outcome in allowed


def _tickets(history: list[Event]) -> Iterator[Finding]:
    attempts: defaultdict[str, list[Event]] = defaultdict(list)
    for event in history:
        if event.act.call in (Call.REDEEM, Call.REVOKE):
            attempts[event.act.subject].append(event)
    for ticket, tries in attempts.items():
        got_it = [event for event in tries if event.is_finished and not event.act.outcome]
        for event in got_it[1:]:
            yield Finding(
                Violation.REDEEMED_TWICE, event.process, f"ticket {ticket}, also by {got_it[0].process}", event.act.begin_ns
            )
        for event in tries:
            if not event.is_finished or event.act.outcome != "TicketError" or event.act.end_ns >= event.act.limit_ns:
                continue
            others = [o for o in tries if o is not event and o.act.begin_ns <= event.act.end_ns]
            if not any(not other.is_finished or not other.act.outcome for other in others):
                detail = (
                    f"ticket {ticket} of {event.act.stamp:#x}, valid for {_ms(event.act.limit_ns - event.act.end_ns)}, "
                )
                yield Finding(
                    Violation.LOST_PUBLICATION,
                    event.process,
                    f"{detail}was refused: {event.act.detail}",
                    event.act.begin_ns,
                )


def _names(history: list[Event]) -> Iterator[Finding]:
    attaches: defaultdict[str, list[Event]] = defaultdict(list)
    for event in history:
        if event.act.call is Call.ATTACH:
            attaches[event.act.subject].append(event)
    publications = _publications(history, attaches)
    for name, tries in attaches.items():
        published = publications.get(name, [])
        for event in tries:
            if event.is_finished:
                yield from _attach(event, name, published)


def _attach(event: Event, name: str, published: list[_Publication]) -> Iterator[Finding]:
    act = event.act
    if act.outcome in ("SegmentNotFoundError", "AbandonedError"):
        for publication in published:
            if publication.surely_from_ns <= act.begin_ns and act.end_ns <= publication.surely_to_ns:
                detail = f"{name!r} was published as {publication.stamp:#x} by {publication.event.process}, and not found"
                yield Finding(Violation.LOST_PUBLICATION, event.process, detail, act.begin_ns)
    elif not act.outcome:
        mine = next((publication for publication in published if publication.stamp == act.stamp), None)
        if mine is None or mine.event.act.begin_ns > act.end_ns:
            yield Finding(
                Violation.WRONG_READ, event.process, f"{name!r} held {act.stamp:#x}, not published by then", act.begin_ns
            )
            return
        later = [other for other in published if mine.granted_ns < other.granted_ns <= act.begin_ns]
        if later:
            detail = f"{name!r} was {act.stamp:#x}, although {later[0].stamp:#x} had taken the name before"
            yield Finding(Violation.WRONG_READ, event.process, detail, act.begin_ns)


def _publications(history: list[Event], attaches: defaultdict[str, list[Event]]) -> defaultdict[str, list[_Publication]]:
    granted: dict[int, int] = {}
    released: dict[int, int] = {}
    found: defaultdict[str, list[_Publication]] = defaultdict(list)
    for event in history:
        act = event.act
        if act.call is Call.LEASE and act.subject and event.is_finished and not act.outcome:
            granted[act.stamp] = act.end_ns
        elif act.call in (Call.RELEASE, Call.DETACH, Call.WITHDRAW) and act.subject:
            released.setdefault(act.stamp, act.begin_ns)
    for event in history:
        act = event.act
        if act.call is Call.PUBLISH and act.stamp in granted:
            # a process that was killed held it until its last sign of life, if no longer
            to_ns = min(released.get(act.stamp, _FOREVER_NS), event.last_sign_ns)
            if act.readers:
                to_ns = max(to_ns, _promised_to_ns(event, attaches[act.subject]))
            found[act.subject].append(_Publication(event, granted[act.stamp], to_ns))
    return found


def _promised_to_ns(publish: Event, attaches: list[Event]) -> int:
    """Until when a publication that waits for readers is there: its deadline, or the last of them."""
    may_count = [event.act.begin_ns for event in attaches if (event.act.end_ns or _FOREVER_NS) >= publish.act.begin_ns]
    if not publish.is_finished:
        return 0
    readers = publish.act.readers
    return min(publish.act.limit_ns, may_count[readers - 1] if len(may_count) >= readers else _FOREVER_NS)


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / 1e6:.0f} ms more"
