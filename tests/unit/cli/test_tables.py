"""Lease tables as people and machines read them, from snapshots that nobody had to serve."""

from __future__ import annotations

import io
import json
import os
import re

import pytest
from rich.console import Console

from shmlease.cli.prometheus import as_prometheus
from shmlease.cli.table_json import as_json
from shmlease.cli.tables import Look, as_text, console_for_tables
from shmlease.core.model import (
    NUMBER_BITS,
    ClientRow,
    ClientState,
    EventKind,
    EventRow,
    Identity,
    LeaseMode,
    LeaseRow,
    LeaseState,
    Mark,
    RegistryRow,
    SegmentRow,
    TicketRow,
)
from shmlease.core.snapshot import Snapshot
from shmlease.core.transitions import SegmentState
from shmlease.system.directory import RegistryDirectory

MIB = 2**20
S = 1_000_000_000
NOW_NS = 1000 * S
HOLDER = Identity(4121, 1, "boot", 1, 0, "python job.py")
CLIENT = 1 << NUMBER_BITS


def snapshot(*segments: SegmentRow, applied: int = 0, **others: object) -> Snapshot:
    leases = [
        LeaseRow(CLIENT | row.number, row.number, LeaseMode.WRITE, LeaseState.HELD, 0, 0)
        for row in segments
        if row.state in {SegmentState.FILLING, SegmentState.PUBLISHED}
    ]
    return Snapshot(
        registry=RegistryRow("probe", HOLDER, 96 * MIB, 0, 0, 3, NOW_NS - 60 * S, None),
        marks={Mark.SEGMENT: 12, Mark.CLIENT: 3},
        clients={1: ClientRow(1, HOLDER, b"", ClientState.CONNECTED, 0)},
        applied={1: applied},
        segments={row.number: row for row in segments},
        leases={lease.id: lease for lease in leases},
        **others,  # type: ignore[arg-type]
    )


def segment(number: int, state: SegmentState, name: str | None = None, site: str = "") -> SegmentRow:
    return SegmentRow(number, 1, MIB, state, name, created_ns=NOW_NS - 2 * S, site=site)


def seen(table: Snapshot | None, at_ns: int = NOW_NS) -> Look:
    return Look(RegistryDirectory("probe"), False, table, at_ns)


def shown(*looks: Look, columns: int = 200, **how: bool | list[Look]) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=columns).print(as_text(list(looks), **how))  # type: ignore[arg-type]
    return out.getvalue().splitlines()


MIXED = snapshot(
    segment(1, SegmentState.WARM),
    segment(2, SegmentState.RESERVED),
    segment(3, SegmentState.WARM),
    segment(4, SegmentState.PUBLISHED, "calls", f"{os.getcwd()}/job.py:12 in load"),
)


def test_what_is_held_has_a_row_and_what_is_kept_for_the_next_lease_is_one_line() -> None:
    lines = shown(seen(MIXED))
    (row,) = (line for line in lines if "calls" in line)
    assert row.split() == [
        "4",
        "calls",
        "published",
        "1",
        "MiB",
        "2",
        "s",
        "pid",
        "4121",
        "write",
        "job.py:12",
        "in",
        "load",
    ]
    assert "  kept for the next lease: 1 spare (1 MiB), 2 warm (2 MiB); --all shows them" in lines
    assert "1 MiB in 1 segment, capacity 96 MiB, 1 writer, 0 readers, 0 tickets, 1 client" in lines[1]


def test_all_shows_each_and_what_is_held_stays_first() -> None:
    lines = shown(seen(MIXED), has_all=True)
    begin = next(index for index, line in enumerate(lines) if "taken at" in line) + 1
    assert [line.split()[0] for line in lines[begin:]] == ["4", "1", "2", "3"]


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_no_line_wraps_and_figures_are_whole_whatever_the_width(columns: int) -> None:
    table = snapshot(
        *(segment(n, SegmentState.PUBLISHED, "name " * 30, "/a/long/way/to/the/code.py:1 in f" * 4) for n in range(1, 4)),
        events=(EventRow(1, NOW_NS, EventKind.HOLDER_DIED, detail="words " * 40),),
    )
    lines = shown(seen(table), columns=columns)
    assert len(lines) == 2 + 1 + 3 + 1, "\n".join(lines)
    assert max(map(len, lines)) <= columns
    if columns >= 60:
        assert sum("1 MiB" in line and "2 s" in line and "published" in line for line in lines) == 3


def test_nothing_is_cut_where_it_is_piped(capsys: pytest.CaptureFixture[str]) -> None:
    site = "/a/long/way/to/the/code.py:1 in f" * 10
    console_for_tables().print(as_text([seen(snapshot(segment(1, SegmentState.PUBLISHED, "n" * 200, site)))]))
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "published" in line)
    assert "n" * 200 in row
    assert site in row


def test_rates_are_what_was_done_since_the_last_look() -> None:
    before = seen(snapshot(applied=100), NOW_NS - S // 2)
    now = seen(snapshot(segment(1, SegmentState.WARM), applied=350))
    assert any("500 commands/s, 2 new segments/s" in line for line in shown(now, before=[before]))
    assert not any("commands/s" in line for line in shown(now))


def test_more_rows_than_anybody_reads_are_counted() -> None:
    table = snapshot(*(segment(number, SegmentState.PUBLISHED) for number in range(1, 36)))
    assert "  and 5 more; --json shows them all" in shown(seen(table))


def test_unreadable_table_is_said_to_be_so_in_all_forms() -> None:
    assert shown(seen(None)) == ["registry probe: its ledger cannot be read"]
    assert as_json([seen(None)])[0]["state"] == "unreadable"
    assert as_prometheus([seen(None)]) == ""


def test_json_has_every_segment() -> None:
    (told,) = as_json([seen(MIXED)])
    assert [each["state"] for each in json.loads(json.dumps(told))["segments"]] == ["warm", "reserved", "warm", "published"]


SAMPLE = re.compile(r'shmlease_(\w+)\{registry="(\w+)"((?:,\w+="[^"\\\n]*")*)\} (-?[0-9.e+-]+)')


def samples(text: str) -> dict[tuple[str, str], float]:
    """Name and labels beside the registry -> value; the format is checked on the way."""
    found: dict[tuple[str, str], float] = {}
    announced = ""
    for line in text.splitlines():
        if line.startswith("# "):
            announced = line.split()[2]
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert f"shmlease_{match[1]}" == announced, "samples of a metric stand together, below its type"
        assert (match[1], match[3]) not in found, line
        found[match[1], match[3]] = float(match[4])
    return found


def test_metrics_are_the_figures_of_the_table() -> None:
    ticket = TicketRow(CLIENT | 9, 4, 1, 0)
    keeper = TicketRow(CLIENT | 10, 4, 1, 0, keeps=True)
    event = EventRow(1030, NOW_NS, EventKind.HOLDER_DIED)
    table = snapshot(*MIXED.segments.values(), tickets={9: ticket, 10: keeper}, events=(event,))
    found = samples(as_prometheus([seen(table)]))
    assert found["up", ""] == 0
    assert found["takeovers_total", ""] == 2
    assert found["capacity_bytes", ""] == 96 * MIB
    assert found["segments", ',state="warm"'] == 2
    assert found["segment_bytes", ',state="published"'] == MIB
    assert found["segments", ',state="retiring"'] == 0
    assert found["segments_created_total", ""] == 12
    assert found["leases", ',mode="write",state="held"'] == 1
    assert found["tickets", ""] == 1
    assert found["clients", ',state="connected"'] == 1
    assert found["events_total", ""] == 1030
    assert found["recent_events", ',kind="holder died"'] == 1
    assert (found["waits_total", ""], found["reclaims_total", ""]) == (0, 0)
    table.marks.update({Mark.WAIT: 7, Mark.RECLAIM: 3})
    found = samples(as_prometheus([seen(table)]))
    assert (found["waits_total", ""], found["reclaims_total", ""]) == (7, 3)


def test_metrics_of_several_registries_stand_together() -> None:
    one, two = seen(MIXED), Look(RegistryDirectory("other"), False, MIXED, NOW_NS)
    text = as_prometheus([one, two])
    assert text.count("# TYPE shmlease_up gauge\n") == 1
    assert 'shmlease_up{registry="probe"} 0\nshmlease_up{registry="other"} 0\n' in text
