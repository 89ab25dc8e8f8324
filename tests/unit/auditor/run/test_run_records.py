from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from shmlease.auditor.judge.findings import FileIdentity, Place
from shmlease.auditor.observe.statx import statx
from shmlease.auditor.run.inject.shmlease_record_file import END_OF_PIECE
from shmlease.auditor.run.inject.shmlease_recorder import SEPARATOR
from shmlease.auditor.run.record_log import RecordLog
from shmlease.auditor.run.records import Records

OWN = ("/home/me/job/load.py", "12", "load", "/home/me/job/run.py", "3", "<module>")
STANDARD = ("/usr/lib/python3.12/multiprocessing/shared_memory.py", "104", "SharedMemory.__init__")
LIBRARY = ("/home/me/job/.venv/lib/python3.12/site-packages/joblib/pool.py", "77", "dump")


def line(*fields: object) -> str:
    return SEPARATOR.join(map(str, fields)) + "\n"


def made(at_ns: int, inode: int, name: str, stack: str = "", kind: str = "size", pid: int = 7, size: int = 0) -> str:
    return line(kind, at_ns, pid, inode, size, f"/dev/shm/{name}", "", stack)


def read(tmp_path: Path, *lines: str) -> Records:
    (tmp_path / "records").write_text("".join(lines))
    return RecordLog(str(tmp_path / "records"), "/home/me/job").read()


def test_record_names_the_process_the_segment_and_the_stack(tmp_path: Path) -> None:
    records = read(
        tmp_path,
        line("process", 7, "python run.py"),
        line("stack", "7.1", *STANDARD, *OWN),
        line("size", 100, 7, 55, 4096, "/dev/shm/psm_1", "tests/test_a.py::test_b (call)", "7.1"),
    )
    (record,) = records.records
    assert (record.at_ns, record.pid, record.inode, record.size_bytes) == (100, 7, 55, 4096)
    assert record.test == "tests/test_a.py::test_b"
    creator = records.creator(record)
    assert creator.command == "python run.py"
    assert creator.place == Place("load.py", 12, "load")
    assert [place.file for place in creator.stack] == ["run.py", "load.py", STANDARD[0]]


@pytest.mark.parametrize(
    ("frames", "place"),
    [
        ((*STANDARD, *LIBRARY, *OWN), "load.py:12 in load"),
        ((*STANDARD, *LIBRARY), ".venv/lib/python3.12/site-packages/joblib/pool.py:77 in dump"),
        (STANDARD, "/usr/lib/python3.12/multiprocessing/shared_memory.py:104 in SharedMemory.__init__"),
        (("<string>", "1", "<module>"), "<string>:1 in <module>"),
    ],
)
def test_blame_goes_to_the_program_then_a_library_then_anything(
    tmp_path: Path, frames: tuple[str, ...], place: str
) -> None:
    records = read(tmp_path, line("stack", "7.1", *frames), made(100, 55, "psm_1", "7.1"))
    assert str(records.records[0].place) == place


def test_frames_of_the_test_runner_are_left_out_of_the_stack(tmp_path: Path) -> None:
    runner = ("/x/lib/python3.12/site-packages/_pytest/runner.py", "1", "run", "/usr/lib/python3.12/runpy.py", "1", "main")
    records = read(tmp_path, line("stack", "7.1", *STANDARD, *OWN, *runner), made(100, 55, "psm_1", "7.1"))
    assert records.creator(records.records[0]).stack[0].file == "run.py"


@pytest.mark.parametrize(
    "torn", ["", "\x1f\x1f", "size\x1f12", "process\x1fx\x1fy\n", "stack\n", line("size", "soon", 7, 1, 0, "n", "", "")]
)
def test_line_that_was_cut_short_costs_only_itself(tmp_path: Path, torn: str) -> None:
    records = read(tmp_path, made(100, 55, "a"), torn if torn.endswith("\n") else torn + "\n", made(200, 56, "b"))
    assert [record.inode for record in records.records] == [55, 56]


def test_stack_that_was_cut_short_loses_only_its_last_frame(tmp_path: Path) -> None:
    records = read(tmp_path, line("stack", "7.1", *OWN[:5]), made(100, 55, "a", "7.1"))
    assert [str(place) for place in records.records[0].stack] == ["load.py:12 in load"]


def test_line_that_is_being_written_is_read_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "records"
    log = RecordLog(str(path))
    assert log.read().records == ()
    whole = made(100, 55, "a")
    path.write_text(whole[:20])
    assert log.read().records == ()
    path.write_text(whole)
    assert [record.inode for record in log.read().records] == [55]
    with open(path, "a") as file:
        file.write(made(200, 56, "b"))
    assert [record.inode for record in log.read().records] == [55, 56]


def test_creator_of_a_file_is_who_mapped_it_first_after_its_birth(tmp_path: Path) -> None:
    second = 1_000_000_000
    records = read(
        tmp_path,
        made(1 * second, 55, "psm_1", pid=1),  # an earlier file of the same inode
        made(5 * second, 55, "psm_1", pid=2),
        made(6 * second, 55, "psm_1", pid=3, kind="map"),
    )
    creations = records.creations(device=40)
    assert creations[FileIdentity(40, 55, 5 * second)].pid == 2
    assert creations[FileIdentity(40, 55, 1 * second)].pid == 1
    assert FileIdentity(40, 55, 7 * second) not in creations
    assert FileIdentity(41, 55, 5 * second) not in creations
    assert FileIdentity(40, 56, 5 * second) not in creations


def test_birth_may_lie_a_tick_of_the_kernel_clock_after_its_record(tmp_path: Path) -> None:
    creations = read(tmp_path, made(1_000_000_000, 55, "psm_1")).creations(40)
    assert FileIdentity(40, 55, 1_004_000_000) in creations


def test_file_that_was_only_opened_is_found_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "block"
    path.write_bytes(b"x")
    status = statx(str(path))
    assert status.born_ns is not None
    records = read(
        tmp_path,
        line("open", status.born_ns - 3_600_000_000_000, 1, 0, 0, path, "", ""),  # of an earlier file of that name
        line("open", status.born_ns - 1_000, 2, 0, 0, path, "", ""),
        line("open", status.born_ns + 3_600_000_000_000, 3, 0, 0, path, "", ""),
    )
    assert records.creations(status.device)[status.identity].pid == 2
    os.unlink(path)
    assert len(records.creations(status.device)) == 0


def test_file_is_its_opener_s_though_that_was_stopped_for_a_second_before_the_file_was_there(tmp_path: Path) -> None:
    path = tmp_path / "block"
    path.write_bytes(b"x")
    status = statx(str(path))
    assert status.born_ns is not None
    creations = read(tmp_path, line("open", status.born_ns - 1_000_000_000, 2, 0, 0, path, "", "")).creations(status.device)
    assert creations[status.identity].pid == 2
    assert list(creations) == [FileIdentity(status.device, status.inode)]
    assert FileIdentity(status.device, status.inode, status.born_ns + 1) not in creations, "another file of that inode"


def test_makings_are_the_first_records_of_each_inode(tmp_path: Path) -> None:
    records = read(
        tmp_path,
        made(1, 55, "psm_1"),
        made(2, 55, "psm_1", kind="map", pid=8),
        made(3, 56, "psm_1"),
        made(4, 0, "psm_1", kind="reap"),
    )
    assert [record.at_ns for record in records.creations_by_path()["/dev/shm/psm_1"]] == [1, 3]
    assert [record.at_ns for record in records.reaped] == [4]


def test_mark_of_an_unlinked_file_is_no_part_of_its_name(tmp_path: Path) -> None:
    assert read(tmp_path, made(1, 55, "pym-1 (deleted)")).records[0].path == "/dev/shm/pym-1"


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize(
    ("replace", "words"),
    [(os.mkfifo, "is a FIFO"), (link, "is a symbolic link"), (Path.mkdir, "is a directory"), (huge, "more than 256 MiB")],
)
def test_program_that_puts_something_else_in_the_place_of_its_records_stops_nobody(
    tmp_path: Path, replace: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "records"
    path.write_text(made(100, 55, "psm_1"))
    log = RecordLog(str(path))
    assert len(log.read().records) == 1
    path.unlink()
    replace(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    records = log.read()
    assert len(records.records) == 1, "what was read before is kept"
    assert words in records.lost
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_line_longer_than_any_recorders_is_passed_over(tmp_path: Path) -> None:
    records = read(tmp_path, "x" * 3_000_000 + "\n", made(100, 55, "psm_1"))
    assert [record.inode for record in records.records] == [55]
    assert records.lost == ""


def test_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path, whole = tmp_path / "records", made(100, 55, "psm_1")
    log = RecordLog(str(path))
    path.write_text(whole[:10])
    assert log.read().records == ()
    path.write_text(whole)
    assert [record.inode for record in log.read().records] == [55]


def piece(*lines: str, size: int = 8192) -> bytes:
    header = b"piece %d\n" % size
    content = "".join(lines).encode()
    return header + content.ljust(size - len(header) - len(END_OF_PIECE), b"\0") + END_OF_PIECE


def test_pieces_that_processes_fill_are_read_further_each_time(tmp_path: Path) -> None:
    path = tmp_path / "records"
    log = RecordLog(str(path))
    first, second, third = (made(at, 50 + at, "a") for at in (1, 2, 3))
    for lines in ([], [second], [second, third[:9]], [second, third]):
        path.write_bytes(first.encode() + piece(*lines) + made(4, 54, "b").encode())
        inodes = [record.inode for record in log.read().records]
        assert inodes == [51, *(int(line.split(SEPARATOR)[3]) for line in lines if line.endswith("\n")), 54]


def test_line_whose_bytes_are_not_yet_all_there_is_left_for_the_next_time(tmp_path: Path) -> None:
    """A processor may store the end of a line before its middle."""
    path = tmp_path / "records"
    log = RecordLog(str(path))
    whole = made(100, 55, "a") + made(200, 56, "b")
    path.write_bytes(piece(whole[:5] + "\0\0\0" + whole[8:]))
    assert log.read().records == ()
    path.write_bytes(piece(whole))
    assert [record.inode for record in log.read().records] == [55, 56]


@pytest.mark.parametrize("left", [12, 13, 4096])
def test_piece_whose_claimer_was_killed_costs_nobody_else_a_record(tmp_path: Path, left: int) -> None:
    path = tmp_path / "records"
    log = RecordLog(str(path))
    cut = made(100, 55, "a").encode() + piece()[:left]
    path.write_bytes(cut)
    assert len(log.read().records) == 1
    path.write_bytes(cut + made(200, 56, "b").encode())
    assert len(log.read().records) == 2
    path.write_bytes(cut + made(200, 56, "b").encode() + piece(made(300, 57, "c")) + made(400, 58, "d").encode())
    assert [record.inode for record in log.read().records] == [55, 56, 57, 58]


def test_record_is_appended_whose_stack_stands_in_a_piece(tmp_path: Path) -> None:
    (tmp_path / "records").write_bytes(piece(line("stack", "7.1", *OWN)) + made(100, 55, "a", "7.1").encode())
    (record,) = RecordLog(str(tmp_path / "records"), "/home/me/job").read().records
    assert str(record.place) == "load.py:12 in load"


@pytest.mark.parametrize("size", ["-5", "0", "20", "x", "9999999999"])
def test_what_only_looks_like_a_piece_is_passed_over(tmp_path: Path, size: str) -> None:
    records = read(tmp_path, f"piece {size}\n", made(100, 55, "a"), "end of piece\n", made(200, 56, "b"))
    assert [record.inode for record in records.records] == [55, 56]
