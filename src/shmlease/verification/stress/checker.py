"""What must not have happened, found in the histories of all processes together.

The checker knows the promises and nothing of how they are kept. A call that began and did not end, because its process was
killed, may or may not have happened; wherever that matters the benefit of the doubt is shmlease's. Times of different
processes are compared only as "ended before the other began".
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from shmlease.verification.stress.history import Event

__all__ = ["Finding", "check"]

# What a call may be refused with. Everything else, a registry that cannot be reached included, is a broken promise.
_REFUSALS: Final[dict[str, set[str]]] = {
    "lease": {"CapacityError", "SegmentExistsError"},
    "share": {"CapacityError"},
    "ticket": {"CapacityError"},
    # a full /dev/shm has no room for the lease table to grow: a forked child's first read takes a lease as well
    "attach": {"SegmentNotFoundError", "CapacityError"},
    "read": {"CapacityError"},
    "redeem": {"TicketError"},
}
_FOREVER_NS: Final = 2**63


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise.

    `kind` is leak, wrong read, lost publication, redeemed twice, unexpected error, death or stuck; `process` who met it.
    """

    kind: str
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
        if not act.outcome or act.outcome in _REFUSALS.get(act.what, ()):
            continue
        parent = event.process.partition("f")[0]
        if act.outcome == "LeaseClosedError" and parent != event.process and parent in cut_short:
            continue  # a forked child whose parent was killed before the child took a lease of its own
        kind = "wrong read" if act.outcome == "WrongReadError" else "unexpected error"
        what = f"{act.what} of {act.subject or hex(act.stamp)}: {act.outcome}: {act.detail}"
        yield Finding(kind, event.process, what, act.begin_ns)


def _tickets(history: list[Event]) -> Iterator[Finding]:
    attempts: defaultdict[str, list[Event]] = defaultdict(list)
    for event in history:
        if event.act.what == "redeem":
            attempts[event.act.subject].append(event)
    for ticket, tries in attempts.items():
        got_it = [event for event in tries if event.is_finished and not event.act.outcome]
        for event in got_it[1:]:
            yield Finding(
                "redeemed twice", event.process, f"ticket {ticket}, also by {got_it[0].process}", event.act.begin_ns
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
                    "lost publication", event.process, f"{detail}was refused: {event.act.detail}", event.act.begin_ns
                )


def _names(history: list[Event]) -> Iterator[Finding]:
    attaches: defaultdict[str, list[Event]] = defaultdict(list)
    for event in history:
        if event.act.what == "attach":
            attaches[event.act.subject].append(event)
    publications = _publications(history, attaches)
    for name, tries in attaches.items():
        published = publications.get(name, [])
        for event in tries:
            if event.is_finished:
                yield from _attach(event, name, published)


def _attach(event: Event, name: str, published: list[_Publication]) -> Iterator[Finding]:
    act = event.act
    if act.outcome == "SegmentNotFoundError":
        for publication in published:
            if publication.surely_from_ns <= act.begin_ns and act.end_ns <= publication.surely_to_ns:
                detail = f"{name!r} was published as {publication.stamp:#x} by {publication.event.process}, and not found"
                yield Finding("lost publication", event.process, detail, act.begin_ns)
    elif not act.outcome:
        mine = next((publication for publication in published if publication.stamp == act.stamp), None)
        if mine is None or mine.event.act.begin_ns > act.end_ns:
            yield Finding("wrong read", event.process, f"{name!r} held {act.stamp:#x}, not published by then", act.begin_ns)
            return
        later = [other for other in published if mine.granted_ns < other.granted_ns <= act.begin_ns]
        if later:
            detail = f"{name!r} was {act.stamp:#x}, although {later[0].stamp:#x} had taken the name before"
            yield Finding("wrong read", event.process, detail, act.begin_ns)


def _publications(history: list[Event], attaches: defaultdict[str, list[Event]]) -> defaultdict[str, list[_Publication]]:
    granted: dict[int, int] = {}
    released: dict[int, int] = {}
    found: defaultdict[str, list[_Publication]] = defaultdict(list)
    for event in history:
        act = event.act
        if act.what == "lease" and act.subject and event.is_finished and not act.outcome:
            granted[act.stamp] = act.end_ns
        elif act.what == "release" and act.subject:
            released.setdefault(act.stamp, act.begin_ns)
    for event in history:
        act = event.act
        if act.what == "publish" and act.stamp in granted:
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
