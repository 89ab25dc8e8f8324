"""The oracle sees what is left, on a made-up /dev/shm and /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmlease.verification.oracle import Oracle

SMAPS = """\
7f0000000000-7f0000001000 rw-s 00000000 00:1b 12 {path}
Size:                  4 kB
Rss:                   {rss} kB
VmFlags: rd wr
7f0000002000-7f0000003000 r-xp 00000000 08:01 13 /usr/lib/x.so
Rss:                   4 kB
"""


@pytest.fixture
def shm(tmp_path: Path) -> Path:
    directory = tmp_path / "shm" / "shmlease-r1"
    directory.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    return directory


def oracle(shm: Path) -> Oracle:
    return Oracle("r1", is_private=False, root=str(shm.parent), proc=str(shm.parent.parent / "proc"))


def maps(shm: Path, pid: int, path: str, rss: int = 4) -> None:
    process = shm.parent.parent / "proc" / str(pid)
    process.mkdir(exist_ok=True)
    smaps = SMAPS.format(path=path, rss=rss)
    (process / "smaps").write_text(smaps)
    (process / "maps").write_text("".join(line for line in smaps.splitlines(keepends=True) if "-" in line.split()[0]))


def test_nothing_is_found_where_nothing_is(shm: Path) -> None:
    for name in ("ledger", "lock", "socket", "j1", "j2"):
        (shm / name).touch()
    assert oracle(shm).leaks_at_rest(2) == []


def test_segments_tickets_notice_logs_and_names_that_are_left_are_found(shm: Path) -> None:
    for name in ("s4", "t9", "t9.2", "j1", "j2"):
        (shm / name).touch()
    (shm.parent / "shmlease-r1-4").touch()
    found = oracle(shm).leaks_at_rest(1)
    assert len(found) == 5
    assert any("s4" in words for words in found)
    assert any("2 notice logs" in words for words in found)


def test_who_maps_a_segment_that_is_left_is_named(shm: Path) -> None:
    (shm / "s4").touch()
    maps(shm, 77, f"{shm}/s4")
    assert oracle(shm).leaks_at_rest(0) == [f"{shm}/s4 is still there, mapped by 77"]


def test_memory_of_unlinked_segments_is_found_and_their_empty_mappings_are_not(shm: Path) -> None:
    maps(shm, 77, f"{shm}/s4 (deleted)", rss=4)
    maps(shm, 78, f"{shm}/s5 (deleted)", rss=0)
    assert oracle(shm).leaks_at_rest(0) == ["pid 77 keeps 4096 bytes of unlinked segments in memory"]


def test_other_registries_are_none_of_its_business(shm: Path) -> None:
    other = shm.parent / "shmlease-r2"
    other.mkdir()
    (other / "s1").touch()
    maps(shm, 77, f"{other}/s1 (deleted)")
    assert oracle(shm).leaks_at_rest(0) == []
    shm.rmdir()
    assert oracle(shm).leaks_after_end(set()) == []


def test_everything_that_is_left_after_the_end_is_found(shm: Path) -> None:
    maps(shm, 77, f"{shm}/s4 (deleted)", rss=0)
    (shm.parent.parent / "proc" / "99").mkdir()
    found = oracle(shm).leaks_after_end({99, 100})
    assert found == [f"{shm} is still there", "registry process 99 is still there", "pid 77 still maps its segments"]


def test_a_sample_counts_blocks_not_lengths(shm: Path) -> None:
    (shm / "s1").write_bytes(b"x" * 8192)
    with (shm / "s2").open("wb") as file:
        file.truncate(1 << 20)
    (shm / "t5").touch()
    seen = oracle(shm).sample()
    assert (seen.segments, seen.tickets) == (2, 1)
    assert 8192 <= seen.segment_bytes < 1 << 20
