"""What a registry had in hand is known to its successor, whatever instruction it died at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rig.shell import identity
from shmlease.core import messages as m
from shmlease.core.effects import DropClient, DropToken, LinkAlias, RetireSegment
from shmlease.core.messages import ClientMessage, Notice
from shmlease.core.work_units import (
    KIND_BYTES,
    Unit,
    detach_unit,
    effect_unit,
    end_unit,
    hello_unit,
    message_unit,
    timer_unit,
)
from shmlease.system.work_log import WORK_NAME, WorkLog, parse_work

TRIM = message_unit(5, m.Trim(17))
END = end_unit(2**23 - 1)


@pytest.fixture
def successor(tmp_path: Path) -> Iterator[Callable[[], WorkLog]]:
    """The work log of the next registry."""
    directory = os.open(tmp_path, os.O_PATH)
    yield lambda: WorkLog(directory)
    os.close(directory)


def test_first_registry_has_nothing_to_go_on(successor: Callable[[], WorkLog]) -> None:
    work = successor()
    assert (work.last, work.suspects) == ((), {})


def test_what_was_begun_and_not_cleared_is_suspected(successor: Callable[[], WorkLog]) -> None:
    work = successor()
    work.begin(END)
    work.clear()
    work.begin(TRIM)
    work.begin(TRIM)
    later = successor()
    assert (later.last, later.suspects) == ((TRIM, TRIM), {TRIM: 1})
    later.begin(TRIM)
    later.begin(END)
    assert successor().suspects == {TRIM: 2, END: 1}


def test_suspects_are_remembered_over_registries_that_died_of_something_else(successor: Callable[[], WorkLog]) -> None:
    successor().begin(TRIM)
    for _ in range(3):
        assert successor().suspects == {TRIM: 1}


def test_who_failed_of_itself_says_so(successor: Callable[[], WorkLog], tmp_path: Path) -> None:
    asked: list[tuple[Unit, bool]] = []

    def blame(unit: Unit, has_failed: bool) -> bool:
        asked.append((unit, has_failed))
        return unit == END

    work = successor()
    work.begin(END)
    work.begin(TRIM)
    work.failed()
    directory = os.open(tmp_path, os.O_PATH)
    later = WorkLog(directory, blame)
    assert asked == [(END, True), (TRIM, True)]
    assert later.suspects == {END: 1}
    later.begin(TRIM)
    assert (WorkLog(directory, blame).last, asked[2:]) == ((TRIM,), [(TRIM, False)])
    asked.clear()
    later = WorkLog(directory, blame, has_crashed=True)
    later.begin(TRIM)
    WorkLog(directory, blame, has_crashed=True)
    assert asked == [(TRIM, True)]
    os.close(directory)


def test_full_log_says_so_and_keeps_what_it_has(successor: Callable[[], WorkLog]) -> None:
    work = successor()
    units = [end_unit(client) for client in range(1000)]
    begun = []
    for unit in units:
        if work.is_full:
            break
        work.begin(unit)
        begun.append(unit)
    work.begin(TRIM)
    assert 0 < len(begun) < len(units)
    assert successor().last == tuple(begun)


def test_of_many_suspects_the_last_are_remembered(successor: Callable[[], WorkLog]) -> None:
    for client in range(1000):
        successor().begin(end_unit(client))
    assert list(successor().suspects)[-1] == end_unit(999)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"shmlease work 1\n", b"\xff" * 20480, b"shmlease work 1\n" + b"\xff" * 40960]
)
def test_what_is_no_work_log_tells_nothing_and_stops_nobody(
    successor: Callable[[], WorkLog], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / WORK_NAME).write_bytes(content)
    work = successor()
    work.begin(TRIM)
    assert TRIM in successor().suspects


def test_any_bytes_are_read(successor: Callable[[], WorkLog], tmp_path: Path) -> None:
    successor().begin(TRIM)
    content = bytearray((tmp_path / WORK_NAME).read_bytes())
    content[16:] = b"\xff" * (len(content) - 16)
    parse_work(bytes(content))


def test_link_in_its_place_is_not_followed(successor: Callable[[], WorkLog], tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"precious")
    (tmp_path / WORK_NAME).symlink_to(target)
    (tmp_path / f"{WORK_NAME}.new").symlink_to(target)
    successor().begin(TRIM)
    assert successor().suspects == {TRIM: 1}
    assert target.read_bytes() == b"precious"


def test_every_unit_fits_and_comes_back() -> None:
    kinds = [kind for union in (ClientMessage, Notice) for kind in union.__args__]
    units = [message_unit(1, kind(*(1 for _ in kind.__struct_fields__))) for kind in kinds]
    units += [timer_unit(kind, 3) for kind in ("ticket", "readers", "retire", "warm", "lease", "attach")]
    units += [effect_unit(effect) for effect in (LinkAlias(1, "a", 2, 3), RetireSegment(1, "", punch=True))]
    units += [effect_unit(DropToken(1, 2)), effect_unit(DropClient(3)), detach_unit(1), hello_unit(identity(1)), END]
    assert len(set(units)) == len(units)
    assert all(len(unit.kind.encode()) <= KIND_BYTES for unit in units), [u for u in units if len(u.kind) > KIND_BYTES]
    assert all(str(unit) for unit in units)


def test_units_differ_by_all_of_their_numbers() -> None:
    assert (
        len({Unit("end of client", 1), Unit("end of client", 2), Unit("lost client", 1), Unit("end of client", 1, 1)}) == 4
    )
