"""The client's side of the protocol on its own: what it asks again, releases and confirms, whatever a registry says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmlease.core import messages as m
from shmlease.core.session import Session

SECRET = b"s" * 16


class Token:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def session_of(client: int = 3) -> Session:
    session = Session(SECRET)
    hello = session.hello(None)
    session.receive(m.Welcome(hello.seq, client, 0, "r", 1, 42, 4096))
    return session


def asked(session: Session, request: Callable[[int], m.Request]) -> int:
    seq = session.next_seq()
    session.outstanding[seq] = request(seq)
    return seq


def a_lease(session: Session) -> Callable[[int], m.Request]:
    return lambda seq: m.Lease(seq, session.id_of(seq), None, 4096, 1, b"", "", 0, 5_000)


def granted(session: Session, seq: int) -> m.Granted:
    return m.Granted(seq, session.id_of(seq), 5, 1, 4096, True)


class Log:
    """A notice log without end."""

    def __init__(self) -> None:
        self.last = 0
        self.notices: list[m.Notice] = []

    def append(self, notice: m.Notice) -> bool:
        self.notices.append(notice)
        self.last = notice.seq
        return True

    def restart(self) -> None: ...


def written(session: Session) -> list[m.Notice]:
    """Write all that is to be written."""
    log = Log()
    assert session.write_into(log)
    return log.notices


def test_welcome_says_who_this_is_and_only_the_answer_to_the_last_hello_counts() -> None:
    session = Session(SECRET)
    first = session.hello(None)
    second = session.hello(None)
    session.receive(m.Welcome(first.seq, 7, 0, "r", 1, 42, 4096))
    assert session.welcome is None
    session.receive(m.Welcome(second.seq, 8, 0, "r", 2, 42, 4096))
    assert (session.client, session.epoch) == (8, 2)
    assert session.hello(None).resume == 8


def test_refusal_of_a_hello_is_its_answer_and_no_complaint() -> None:
    session = Session(SECRET)
    hello = session.hello(None)
    refused = m.Refused(hello.seq, m.RefusalCode.CLOSING, "it closes")
    session.receive(refused)
    assert session.welcome is refused
    assert not session.complaints


def test_answer_goes_to_its_request() -> None:
    session = session_of()
    first, second = asked(session, m.Ping), asked(session, m.Trim)
    session.receive(m.Done(second, 9))
    assert session.answers == {second: m.Done(second, 9)}
    session.receive(m.Done(first))
    assert set(session.answers) == {first, second}


def test_lease_that_is_granted_to_nobody_is_released_once() -> None:
    session = session_of()
    seq = asked(session, a_lease(session))
    assert session.abandon(seq), "something may yet be granted"
    assert not session.abandon(seq)
    for _ in range(2):  # the packet may be taken in twice
        session.receive(granted(session, seq))
    assert [notice.lease for notice in written(session)] == [session.id_of(seq)]  # type: ignore[union-attr]


def test_lease_whose_grant_had_come_when_it_was_abandoned_is_released_once() -> None:
    session = session_of()
    seq = asked(session, a_lease(session))
    session.receive(granted(session, seq))
    assert not session.abandon(seq), "nothing more will be granted"
    session.receive(granted(session, seq))
    assert [notice.lease for notice in written(session)] == [session.id_of(seq)]  # type: ignore[union-attr]
    assert not session.answers
    assert not session.outstanding


def test_successor_is_asked_again_in_order_and_nobody_waits_for_what_was_abandoned() -> None:
    session = session_of()
    lease, ping, answered, trim = asked(session, a_lease(session)), asked(session, m.Ping), asked(session, m.Ping), 0
    session.abandon(lease)
    gone = asked(session, m.Statistics)
    session.abandon(gone)
    session.receive(m.Done(answered))
    trim = asked(session, m.Trim)
    again = session.unanswered()
    assert [request.seq for request in again] == [lease, ping, trim], "what was answered is not asked again"
    assert again[0].timeout_ns == 0  # type: ignore[union-attr]


def test_every_request_for_a_lease_is_asked_again_when_nobody_waits_for_it_any_more() -> None:
    asking = {kind for kind in get_args(m.Request) if "lease" in kind.__struct_fields__} - {
        m.Expose
    }  # of a lease that is held
    assert set(m.GRANTING) == asking
    session = session_of()
    fields: dict[str, Any] = {"name": "a", "size_bytes": 4096, "nbytes": 8, "layout": b"", "site": "", "due_ns": 0}
    fields |= {"segment": 1, "generation": 1, "parent_lease": 7, "timeout_ns": 10**9}
    for kind in m.GRANTING:
        chosen = {name: value for name, value in fields.items() if name in kind.__struct_fields__}
        seq = asked(session, lambda seq, kind=kind, chosen=chosen: kind(seq, lease=session.id_of(seq), **chosen))
        assert session.abandon(seq)
    again = session.unanswered()
    assert [type(request) for request in again] == list(m.GRANTING)
    assert {getattr(request, "timeout_ns", 0) for request in again} == {0}


def test_notice_has_the_number_it_is_written_with_and_numbers_go_up() -> None:
    session = session_of()
    session.outbox.extend([session.release_of(1), session.release_of(2)])
    full = Log()
    full.append = full.notices.append  # type: ignore[assignment, method-assign]
    assert not session.write_into(full)
    ping = asked(session, m.Ping)  # sent before the notice was written
    again = written(session)
    assert again[0].seq > ping > full.notices[0].seq, "an answer to the ping must not confirm what was written after it"
    assert [notice.lease for notice in again] == [1, 2]  # type: ignore[union-attr]


def test_notice_that_was_written_just_before_an_interrupt_is_not_written_twice() -> None:
    session, log = session_of(), Log()
    session.outbox.extend([session.release_of(1), session.release_of(2)])
    append = log.append

    def interrupted(notice: m.Notice) -> bool:
        log.append = append  # type: ignore[method-assign]
        log.append(notice)
        raise KeyboardInterrupt

    log.append = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        session.write_into(log)
    assert session.write_into(log)
    assert [notice.lease for notice in log.notices] == [1, 2]  # type: ignore[union-attr]


def test_claim_is_confirmed_when_what_was_written_of_it_has_been_read() -> None:
    session, token = session_of(), Token()
    spare = m.Spare(0, 3 << 40 | 1 << 39 | 1, 8, 1, 4096, True)
    session.receive(spare)
    assert session.fitting_spare(4096, 5000) is spare
    assert session.fitting_spare(4097, 9000) is None
    session.claim(spare, token)
    session.receive(spare)
    assert session.fitting_spare(4096, 5000) is None, "told twice, it is still one"
    session.receive(m.Done(10_000))
    assert session.confirmed_claims() == [], "nothing was written of it"
    session.outbox.append(lambda seq: m.Claim(seq, spare.lease, 1, b"", "", 0, False))
    (claim,) = written(session)
    session.confirmed = 0
    session.receive(m.Done(claim.seq))
    assert session.confirmed_claims() == [], "an answer confirms what was written before its request"
    session.receive(m.Done(claim.seq + 1))
    assert [lease for lease, _ in session.confirmed_claims()] == [spare.lease]


@pytest.mark.parametrize(("granted", "asks_at", "looks_at"), [(64, 48, 24), (8, 4, 2), (4, 2, 1), (1, 0, 0)])
def test_spares_are_asked_for_and_looked_for_before_there_are_none(granted: int, asks_at: int, looks_at: int) -> None:
    session = session_of()
    for number in range(granted):
        session.receive(m.Spare(0, 3 << 40 | 1 << 39 | number, number, 1, 4096, True))
    asked, looked = [], []
    while session.spares:
        session.spares.popitem()
        if session.needs_spares():
            asked.append(len(session.spares))
        if session.has_spares_coming():
            looked.append(len(session.spares))
    assert asked[0] == asks_at
    assert looked[0] == looks_at
    assert asked[-1] == looked[-1] == 0


def test_spares_of_an_old_connection_are_forgotten_when_a_new_one_is_welcomed() -> None:
    session = session_of()
    session.receive(m.Spare(0, 3 << 40 | 1 << 39 | 1, 8, 1, 4096, True))
    hello = session.hello(None)
    session.receive(m.Welcome(hello.seq, 3, 17, "r", 2, 42, 4096))
    assert not session.spares
    assert session.confirmed == 18


def test_refusal_of_a_notice_is_a_complaint_but_not_of_one_that_was_unsure() -> None:
    session = session_of()
    session.outbox.extend([session.release_of(1), session.release_of(2, unsure=True)])
    sure, unsure = written(session)
    for notice in (sure, unsure):
        session.receive(m.Refused(notice.seq, m.RefusalCode.NOT_HELD, f"notice {notice.seq}"))
    assert list(session.complaints) == [f"notice {sure.seq}"]


# --- a registry that says anything --------------------------------------------------------------------------------------

numbers = st.integers(0, 12)
ids = st.one_of(numbers, st.builds(lambda number: 3 << 40 | number, numbers), st.integers(0, 2**63 - 1))
messages: st.SearchStrategy[Any] = st.one_of(
    st.builds(m.Granted, numbers, ids, numbers, numbers, st.just(4096), st.booleans()),
    st.builds(
        m.Attached, numbers, ids, numbers, numbers, numbers, numbers, st.binary(max_size=4), st.none(), st.booleans()
    ),
    st.builds(m.Done, numbers),
    st.builds(m.Exposed, numbers, st.just("alias")),
    st.builds(m.Closed, numbers, st.just([])),
    st.builds(m.Spare, numbers, ids, numbers, numbers, st.just(4096), st.booleans()),
    st.builds(m.Forget, numbers),
    st.builds(m.Welcome, numbers, numbers, numbers, st.just("r"), numbers, numbers, numbers),
    st.builds(m.Refused, numbers, st.sampled_from(m.RefusalCode), st.just("no")),
)
steps = st.lists(st.one_of(messages, st.sampled_from(["ask", "lease", "abandon", "write", "hello", "claim"])), max_size=40)


@given(steps)
def test_registry_that_says_anything_neither_breaks_a_session_nor_has_it_release_twice(course: list[Any]) -> None:
    session = Session(SECRET)
    session.hello(None)
    log: list[m.Notice] = []
    abandoned: set[int] = set()
    for step in course:
        before = session.confirmed
        match step:
            case "ask":
                asked(session, m.Ping)
            case "lease":
                asked(session, a_lease(session))
            case "abandon":
                for seq in list(session.outstanding)[:1]:
                    abandoned.add(seq)
                    session.abandon(seq)
            case "write":
                log += written(session)
            case "hello":
                session.hello(None)
            case "claim":
                for spare in list(session.spares.values())[:1]:
                    session.claim(spare, Token())
            case message:
                session.receive(message)
                once = (dict(session.answers), dict(session.spares), dict(session.abandoned), len(session.outbox))
                session.receive(message)
                again = (dict(session.answers), dict(session.spares), dict(session.abandoned), len(session.outbox))
                assert once == again, "taken in twice, it changes nothing"
        assert session.confirmed >= before
        assert set(session.answers) <= set(session.outstanding)
        assert not set(session.outstanding) & set(session.abandoned)
        assert not set(session.spares) & set(session.claims)
        assert [request.seq for request in session.unanswered()] == sorted(request.seq for request in session.unanswered())
    log += written(session)
    assert [notice.seq for notice in log] == sorted({notice.seq for notice in log})
    assert len(log) <= len(abandoned), "what is released was granted to a call that is not there any more"
