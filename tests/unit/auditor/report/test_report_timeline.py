"""The lanes of a timeline, their axis, and the trace."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shmlease.auditor.judge.findings import Creator, Environment, Event, Finding, Report
from shmlease.auditor.report.axis import Axis, axis_of
from shmlease.auditor.report.formats import trace
from shmlease.auditor.report.lanes import Lane, Timeline, timeline_of

SECOND = 1_000_000_000
ROOTS = ("/dev/shm",)


def report(events: list[Event], *findings: Finding, end_s: float = 10) -> Report:
    environment = Environment(roots=ROOTS, began_ns=int(end_s * SECOND))
    return Report(findings=findings, events=tuple(events), environment=environment)


def event(at_s: float, kind: str, segment: str = "psm_1", **fields: Any) -> Event:
    return Event(int(at_s * SECOND), kind, segment, **fields)


def finding(name: str = "psm_1", **fields: Any) -> Finding:
    return Finding.of("LH001", f"{name} has no holder", name=name, path=f"/dev/shm/{name}", **fields)


def scope(begin_s: float, end_s: float) -> list[Event]:
    return [event(begin_s, "begin", "", text="the job"), event(end_s, "end", "", text="the job ended")]


def lane_of(*events: Event, findings: tuple[Finding, ...] = (), end_s: float = 10) -> Lane:
    (lane,) = timeline_of(report(list(events), *findings, end_s=end_s)).lanes
    return lane


def spans(lane: Lane) -> list[tuple[float, float, bool, float | None]]:
    return [
        (s.begin_ns / SECOND, s.end_ns / SECOND, s.is_open, s.outlived_from_ns / SECOND if s.outlived_from_ns else None)
        for s in lane.spans
    ]


def test_segment_that_is_unlinked_has_one_closed_span() -> None:
    assert spans(lane_of(event(1, "create"), event(3, "unlink"))) == [(1, 3, False, None)]


def test_name_that_is_used_twice_has_two_spans() -> None:
    lane = lane_of(event(1, "create"), event(2, "unlink"), event(4, "create"), event(5, "unlink"))
    assert spans(lane) == [(1, 2, False, None), (4, 5, False, None)]


def test_leak_lasts_to_the_end_and_outlives_its_scope_from_where_that_ended() -> None:
    lane = lane_of(*scope(0, 4), event(1, "create"), findings=(finding(),))
    assert spans(lane) == [(1, 10, True, 4)]
    assert lane.is_leaking


def test_what_is_unlinked_after_its_scope_has_outlived_it_until_then() -> None:
    lane = lane_of(*scope(0, 4), event(1, "create"), event(6, "reap"))
    assert spans(lane) == [(1, 6, False, 4)]


def test_scope_of_a_segment_s_own_comes_before_that_of_the_session() -> None:
    lane = lane_of(*scope(0, 9), event(1, "create"), event(2, "end", text="a test ended"), findings=(finding(),))
    assert spans(lane) == [(1, 10, True, 2)]
    assert [mark.kind for mark in lane.marks] == ["create"]


def test_without_a_scope_a_leak_is_abandoned_when_its_maker_exits() -> None:
    made = finding(creator=Creator(pid=7))
    lanes = timeline_of(report([event(1, "create"), event(5, "exit", "", pid=7)], made)).lanes
    assert spans(lanes[0]) == [(1, 10, True, 5)]


def test_without_a_scope_or_an_exit_a_leak_is_abandoned_from_the_last_that_is_known() -> None:
    assert spans(lane_of(event(1, "create"), event(2, "attach"), findings=(finding(),))) == [(1, 10, True, 2)]


def test_segment_that_nobody_saw_end_lasts_to_the_last_that_is_known() -> None:
    assert spans(lane_of(event(1, "create"), event(2, "attach"))) == [(1, 2, False, None)]


def test_segment_of_a_registry_is_there_as_long_as_its_table_has_it() -> None:
    assert spans(lane_of(event(1, "create", "shmlease-ab/s1"))) == [(1, 10, True, None)]


def test_segment_that_was_only_seen_to_go_has_a_span_without_length() -> None:
    assert spans(lane_of(event(3, "unlink"))) == [(3, 3, False, None)]


def test_lease_is_a_bar_from_grant_to_release() -> None:
    lane = lane_of(
        event(1, "create", "shmlease-ab/s1"),
        event(1, "grant", "shmlease-ab/s1", lease="ab:1", pid=7, text="run.py:3"),
        event(2, "attach", "shmlease-ab/s1", lease="ab:2", pid=8),
        event(3, "exit", "shmlease-ab/s1", lease="ab:1"),
    )
    assert [(bar.kind, bar.begin_ns // SECOND, bar.end_ns // SECOND, bar.pid, bar.is_open) for bar in lane.bars] == [
        ("grant", 1, 3, 7, False),
        ("attach", 2, 10, 8, True),
    ]


def test_birth_that_two_tell_of_is_one_mark_with_what_both_say() -> None:
    lane = lane_of(event(1, "create", pid=7), event(1.01, "create", text="run.py:3"), event(2, "unlink"))
    assert [(mark.kind, mark.pid, mark.text) for mark in lane.marks] == [("create", 7, "run.py:3"), ("unlink", None, "")]


def test_finding_goes_by_the_path_of_its_segment_or_by_its_name() -> None:
    by_alias = Finding.of("LH009", "held", name="shmlease-ab-1", path="/dev/shm/shmlease-ab/s1", label="numbers")
    lane = lane_of(event(1, "create", "shmlease-ab/s1"), findings=(by_alias,))
    assert (lane.findings, lane.label) == ((0,), "numbers")


def test_leaking_lanes_come_first_then_by_age() -> None:
    events = [event(1, "create", "a"), event(2, "create", "b"), event(3, "create", "c")]
    assert [lane.segment for lane in timeline_of(report(events, finding("c"))).lanes] == ["c", "a", "b"]


def test_report_without_events_has_an_empty_timeline() -> None:
    timeline = timeline_of(report([]))
    assert timeline.lanes == ()
    assert timeline.begin_ns == timeline.end_ns


# --- the axis --------------------------------------------------------------------------------------------------------


def test_axis_of_a_run_is_to_scale() -> None:
    axis = axis_of(Timeline(0, 10 * SECOND, scope=(0, 8 * SECOND)))
    assert [axis.position(int(at * SECOND)) for at in (-1, 0, 5, 10, 11)] == [0, 0, 50, 100, 100]
    assert axis.format(1_500_000) == "+1.5 ms"
    assert [name for _, name in axis.ticks()] == ["0 s", "2 s", "4 s", "6 s", "8 s", "10 s"]


def test_axis_of_an_audit_of_old_things_is_one_of_age() -> None:
    axis = axis_of(Timeline(0, 40 * 86_400 * SECOND))
    positions = [at for at, _ in axis.ticks()]
    assert positions == sorted(positions, reverse=True)
    assert [name for _, name in axis.ticks()][-1] == "30 d"
    assert axis.position(axis.end_ns) == 100
    assert axis.position(0) == 0
    assert axis.format(axis.end_ns - 3600 * SECOND) == "1 h ago"


@pytest.mark.parametrize("span_ns", [0, 1, 999, 3_000_000, 7 * SECOND, 500 * SECOND])
def test_axis_has_a_handful_of_ticks_whatever_its_length(span_ns: int) -> None:
    ticks = list(Axis(0, span_ns).ticks())
    assert 1 <= len(ticks) <= 8
    assert all(0 <= at <= 100 for at, _ in ticks)


# --- the trace -------------------------------------------------------------------------------------------------------


def traced(*events: Event, findings: tuple[Finding, ...] = ()) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(trace.render(report(list(events), *findings)))["traceEvents"]
    return found


def test_trace_nests_what_happens_to_a_segment_in_its_life() -> None:
    rows = traced(
        *scope(0, 4),
        event(1, "create", pid=7),
        event(2, "attach", pid=8, lease="a:1"),
        event(3, "release", lease="a:1"),
        findings=(finding(creator=Creator(pid=7, command="python run.py")),),
    )
    lives = [(row["ph"], row["name"], row["ts"]) for row in rows if row.get("id") == "0x0" and row["ph"] in "be"]
    assert lives == [
        ("b", "psm_1", 1e6),
        ("b", "outlived its scope", 4e6),
        ("e", "outlived its scope", 10e6),
        ("e", "psm_1", 10e6),
        ("b", "read lease", 2e6),
        ("e", "read lease", 3e6),
    ]
    assert {row["pid"] for row in rows if row.get("id") == "0x0"} == {7}
    assert [row["name"] for row in rows if row["ph"] == "n"] == ["create", "attach", "release"]
    names = {row["pid"]: row["args"]["name"] for row in rows if row["ph"] == "M"}
    assert names[7] == "python run.py"


def test_trace_has_a_begin_for_each_end() -> None:
    rows = traced(*scope(0, 4), event(1, "create"), event(2, "unlink"), event(3, "create"))
    assert [row["ph"] for row in rows].count("b") == [row["ph"] for row in rows].count("e")


def test_trace_of_an_empty_report_is_valid() -> None:
    assert [row["ph"] for row in traced()] == ["M"]
