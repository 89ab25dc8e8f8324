"""The checker finds what must not have happened, and nothing else."""

from __future__ import annotations

from shmlease.verification.history import Act, Event
from shmlease.verification.operations import Call
from shmlease.verification.promises import check

LATE = 10_000


def event(what: str, begin: int, end: int, process: str = "0.0", *, last: int = LATE, **fields: object) -> Event:
    """One call; `end` 0 is one that was cut short."""
    return Event(process, Act(Call(what), begin, end, **fields), end != 0, last)  # type: ignore[arg-type]


def published(
    stamp: int, begin: int, *, readers: int = 0, limit: int = 0, process: str = "0.0", last: int = LATE
) -> list[Event]:
    """A name taken and published, from `begin` on for 20 ns."""
    return [
        event("lease", begin, begin + 5, process, last=last, stamp=stamp, subject="a"),
        event(
            "publish", begin + 10, begin + 20, process, last=last, stamp=stamp, subject="a", readers=readers, limit_ns=limit
        ),
    ]


def released(stamp: int, begin: int) -> Event:
    return event("release", begin, begin + 5, stamp=stamp, subject="a")


def attached(stamp: int, begin: int, end: int) -> Event:
    return event("attach", begin, end, "1.0", stamp=stamp, subject="a")


def not_found(begin: int, end: int) -> Event:
    return event("attach", begin, end, "1.0", subject="a", outcome="SegmentNotFoundError")


def redeemed(begin: int, end: int, process: str = "1.0") -> Event:
    return event("redeem", begin, end, process, stamp=7, subject="t1", limit_ns=1000)


def refused(begin: int, end: int, process: str = "2.0") -> Event:
    return event("redeem", begin, end, process, stamp=7, subject="t1", limit_ns=1000, outcome="TicketError")


def kinds(*events: Event) -> list[str]:
    return [finding.kind for finding in check(events)]


# --- tickets ---------------------------------------------------------------------------------------------------------


def test_a_valid_ticket_that_is_refused_is_a_lost_publication() -> None:
    assert kinds(refused(100, 200)) == ["lost publication"]


def test_a_ticket_may_be_refused_after_its_deadline() -> None:
    assert kinds(refused(900, 1100)) == []


def test_a_ticket_may_be_refused_when_another_has_redeemed_it() -> None:
    assert kinds(redeemed(50, 90), refused(100, 200)) == []


def test_a_ticket_may_be_refused_when_another_was_killed_redeeming_it() -> None:
    assert kinds(redeemed(50, 0), refused(100, 200)) == []


def test_a_ticket_must_not_be_refused_before_another_asks_for_it() -> None:
    assert kinds(refused(100, 200), redeemed(300, 400)) == ["lost publication"]


def test_a_ticket_that_two_get_is_found() -> None:
    assert kinds(redeemed(50, 90), redeemed(100, 200, "2.0")) == ["redeemed twice"]


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_published_name_that_is_not_found_is_a_lost_publication() -> None:
    assert kinds(*published(7, 0), not_found(30, 40), released(7, 100)) == ["lost publication"]


def test_a_name_need_not_be_found_before_its_publication_or_after_its_release() -> None:
    assert kinds(*published(7, 0), not_found(15, 40), released(7, 100), not_found(90, 110), not_found(120, 130)) == []


def test_a_name_need_not_be_found_when_its_writer_may_have_been_killed() -> None:
    assert kinds(*published(7, 0, last=35), not_found(30, 40)) == []


def test_a_promise_to_readers_outlives_the_release() -> None:
    promise = published(7, 0, readers=1, limit=500)
    assert kinds(*promise, released(7, 30), not_found(50, 60)) == []  # it is itself the reader that may have counted
    assert kinds(*published(7, 0, readers=2, limit=500), released(7, 30), not_found(50, 60)) == ["lost publication"]
    assert kinds(*published(7, 0, readers=2, limit=500), released(7, 30), not_found(490, 510)) == []


def test_an_array_of_an_earlier_owner_of_the_name_is_a_wrong_read() -> None:
    old, new = published(7, 0), published(8, 100)
    assert kinds(*old, released(7, 50), *new, attached(7, 200, 210)) == ["wrong read"]
    assert kinds(*old, released(7, 50), *new, attached(8, 200, 210)) == []
    assert kinds(*old, attached(7, 40, 300), released(7, 50), *new) == []  # it began before the name changed hands


def test_an_array_that_was_never_published_under_the_name_is_a_wrong_read() -> None:
    assert kinds(*published(7, 0), attached(9, 30, 40), released(7, 100)) == ["wrong read"]


def test_an_array_read_before_its_publication_is_a_wrong_read() -> None:
    assert kinds(*published(7, 100), attached(7, 30, 40), released(7, 200)) == ["wrong read"]


# --- errors ----------------------------------------------------------------------------------------------------------


def test_an_array_with_other_words_is_a_wrong_read() -> None:
    assert kinds(event("read", 0, 5, stamp=7, outcome="WrongReadError", detail="3 of 8 words")) == ["wrong read"]


def test_refusals_that_are_promised_are_no_findings_and_others_are() -> None:
    assert kinds(event("lease", 0, 5, outcome="CapacityError")) == []
    assert kinds(event("lease", 0, 5, subject="a", outcome="SegmentExistsError")) == []
    assert kinds(event("lease", 0, 5, outcome="SegmentExistsError")) == ["unexpected error"]
    assert kinds(event("publish", 0, 5, outcome="CapacityError")) == ["unexpected error"]
    assert kinds(event("lease", 0, 5, outcome="RegistryUnavailableError")) == ["unexpected error"]


def test_a_forked_child_may_be_refused_what_its_killed_parent_held() -> None:
    refused_child = event("read", 10, 15, "0.0f30", stamp=7, outcome="LeaseClosedError")
    assert kinds(event("child", 5, 0), refused_child) == []
    assert kinds(event("child", 5, 20), refused_child) == ["unexpected error"]
