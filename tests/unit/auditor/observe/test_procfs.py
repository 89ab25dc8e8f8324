"""The texts in proc/ are real files of /proc, saved from a process that did everything awkward at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmlease.auditor.observe.procfs import (
    device_number,
    parse_descriptor_info,
    parse_maps,
    parse_mounts,
    parse_smaps_resident,
    parse_stat,
    parse_sysv,
    parse_table,
)

PROC = Path(__file__).parent / "proc"
SHM = os.makedev(0, 0x1B)


def text(name: str) -> str:
    return (PROC / name).read_text(encoding="utf-8")


def test_maps_give_every_file_on_a_device_by_inode() -> None:
    entries = list(parse_maps(text("maps"), {SHM}))
    assert [(entry.inode, entry.path) for entry in entries] == [
        (1431029, "/dev/shm/untouched"),
        (1431028, "/dev/shm/gone too (deleted)"),
        (1431027, "/dev/shm/named"),
        (1431026, "/dev/shm/gone"),
        (1431025, "/dev/shm/line\nbreak"),
        (1431024, "/dev/shm/with two  blanks"),
        (1431023, "/dev/shm/frames"),
        (1431030, "/dev/shm/#1431030"),
    ]
    assert entries[0].start == 0x7F9832BB5000
    assert entries[0].end - entries[0].start == 16384


def test_maps_take_one_mark_of_deletion_off_a_path() -> None:
    unlinked = {entry.inode for entry in parse_maps(text("maps"), {SHM}) if entry.unlinked}
    # 1431027 is not unlinked, only named as if it were: its inode tells, not its path
    assert unlinked == {1431026, 1431027, 1431028, 1431029, 1431030}


def test_memfd_and_shared_anonymous_memory_are_on_another_device() -> None:
    others = [entry.path for entry in parse_maps(text("maps")) if entry.unlinked and entry.device != SHM]
    assert others == ["/dev/zero", "/memfd:buffer"]


def test_maps_without_a_file_are_left_out() -> None:
    assert not [entry for entry in parse_maps(text("maps")) if entry.path.startswith("[")]


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\r", "\x1c", "\x85", "\u2028"])
def test_maps_break_lines_at_newlines_alone(separator: str) -> None:
    line = f"1000-2000 rw-s 00000000 00:1b 7                          /dev/shm/a{separator}b\n"
    assert [entry.path for entry in parse_maps(line)] == [f"/dev/shm/a{separator}b"]


def test_device_is_written_as_maps_write_it() -> None:
    assert device_number(SHM) == "00:1b"
    assert device_number(os.makedev(254, 0x123)) == "fe:123"


def test_stat_survives_a_command_with_parentheses_and_blanks() -> None:
    stat = parse_stat(text("stat"))
    assert (stat.pid, stat.command, stat.state) == (30576, "a) R (b c", "R")
    assert (stat.parent, stat.threads, stat.start_ticks) == (30569, 1, 522941)


def test_socket_tells_how_many_descriptors_are_in_flight_to_it() -> None:
    assert parse_descriptor_info(text("fdinfo_socket")).in_flight == 2


def test_io_uring_tells_the_files_registered_in_it_and_skips_empty_slots() -> None:
    info = parse_descriptor_info(text("fdinfo_io_uring"))
    assert info.registered == ("/dev/shm/frames", "/dev/shm/in ring (deleted)")


def test_plain_file_has_nothing_in_transit() -> None:
    assert parse_descriptor_info(text("fdinfo_file")) == (0, ())


def test_mounts_have_device_point_and_filesystem() -> None:
    mounts = {mount.point: mount for mount in parse_mounts(text("mountinfo"))}
    assert mounts["/tmp/with blank"].filesystem == "tmpfs"
    assert mounts["/mnt"].filesystem == "hugetlbfs"
    assert mounts["/dev/shm"].device == SHM  # the later of the two that are mounted there
    assert "size=24684084k" in mounts["/dev/shm"].options


def test_sysv_segments_have_attachments_creator_and_mark_of_removal() -> None:
    condemned, plain = parse_sysv(text("sysvipc_shm"))
    assert (condemned.id, condemned.attachments, condemned.is_condemned) == (14, 1, True)
    assert (plain.id, plain.attachments, plain.is_condemned) == (15, 0, False)
    assert (plain.size_bytes, plain.creator_pid) == (8192, 30576)


def test_sysv_without_the_columns_of_newer_kernels_counts_its_size_as_resident() -> None:
    old = "key shmid perms size cpid lpid nattch uid gid cuid cgid atime dtime ctime\n0 1 600 8192 7 0 0 0 0 0 0 0 0 9\n"
    (line,) = parse_sysv(old)
    assert line.resident_bytes == 8192


def test_smaps_tell_what_was_touched_of_each_mapping() -> None:
    starts = {entry.path: entry.start for entry in parse_maps(text("maps"), {SHM})}
    resident = parse_smaps_resident(text("smaps"))
    assert resident[starts["/dev/shm/frames"]] == 16384
    assert resident[starts["/dev/shm/untouched"]] == 0


def test_table_of_counters_skips_what_is_no_number() -> None:
    assert parse_table("cache 4096\nshmem 0\nname of three\nstate populated\n") == {"cache": 4096, "shmem": 0}
