from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_proc import PROC, FakeProc, map_line

from shmlease.auditor.judge.evidence import Root
from shmlease.auditor.observe.processes import descriptors_in_transit, scan_processes


def test_mapping_and_descriptor_of_one_file_are_one_hold(fake_proc: FakeProc, root: Root, shm: Path) -> None:
    segment = shm / "a segment"
    segment.write_bytes(b"x" * 5000)
    inode = segment.stat().st_ino
    process = fake_proc.add(7, command="python job.py")
    (process / "maps").write_text(map_line(str(segment), root.device, inode, start=0x7F00AA000000, size=8192))
    (process / "fd" / "5").symlink_to(segment)
    scan = scan_processes([root], str(fake_proc.path))
    (hold,) = scan.holds[root.device, inode]
    assert (hold.pid, hold.how, hold.unlinked) == (7, "mapped, descriptor 5", False)
    assert (hold.size_bytes, hold.mapped_at) == (5000, (0x7F00AA000000,))
    assert scan.processes[7].command == "python job.py"
    assert scan.processes[7].start_ticks == 522941


def test_file_whose_path_is_longer_than_the_kernel_tells_is_held_and_stops_nobody(root: Root, shm: Path) -> None:
    """A directory at a time: a path of more than 4,096 bytes cannot be named at once."""
    depth, held = 20, os.open(shm, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 255, dir_fd=held)
        above, held = held, os.open("d" * 255, os.O_RDONLY, dir_fd=held)
        os.close(above)
    file = os.open("segment", os.O_CREAT | os.O_RDWR, dir_fd=held)
    try:
        with pytest.raises(OSError, match="File name too long"):
            os.readlink(f"/proc/self/fd/{file}")
        scan = scan_processes([root])
        (hold,) = scan.holds[root.device, os.fstat(file).st_ino]
        assert hold.pid == os.getpid()
        assert descriptors_in_transit([os.getpid()]) == ()
    finally:
        os.close(file)
        os.close(held)


def test_name_that_looks_deleted_is_no_unlinked_file(fake_proc: FakeProc, root: Root, shm: Path) -> None:
    segment = shm / "x (deleted)"
    segment.write_bytes(b"x")
    (fake_proc.add(7) / "fd" / "5").symlink_to(segment)
    scan = scan_processes([root], str(fake_proc.path))
    (hold,) = scan.holds[root.device, segment.stat().st_ino]
    assert not hold.unlinked
    assert hold.path == str(segment)


def test_unlinked_mapping_is_measured_by_what_was_touched(fake_proc: FakeProc, root: Root) -> None:
    """Without the privilege that /proc/PID/map_files takes, smaps is what there is."""
    process = fake_proc.add(7)
    lines = [line for line in (PROC / "maps").read_text().splitlines(keepends=True) if "/dev/shm/gone (deleted)" in line]
    (process / "maps").write_text(
        "".join(lines).replace("00:1b", f"{os.major(root.device):02x}:{os.minor(root.device):02x}")
    )
    (process / "smaps").write_text((PROC / "smaps").read_text())
    scan = scan_processes([root], str(fake_proc.path))
    (hold,) = scan.holds[root.device, 1431026]
    assert (hold.unlinked, hold.resident_bytes, hold.is_exact) == (True, 16384, False)
    assert hold.path == "/dev/shm/gone"


def test_files_elsewhere_are_not_looked_at(fake_proc: FakeProc, root: Root, tmp_path: Path) -> None:
    elsewhere = tmp_path / "log"
    elsewhere.write_text("x")
    process = fake_proc.add(7)
    (process / "fd" / "1").symlink_to(elsewhere)
    (process / "fd" / "2").symlink_to("socket:[12]")
    (process / "fd" / "3").symlink_to("/a/server/that/does/not/answer")
    assert scan_processes([root], str(fake_proc.path)).holds == {}


def test_path_of_another_mount_namespace_is_not_trusted(fake_proc: FakeProc, root: Root, shm: Path) -> None:
    """There, the same file may have any path: what it is tells its device."""
    segment = shm / "s"
    segment.write_bytes(b"x")
    alias = fake_proc.path / "elsewhere"
    alias.symlink_to(segment)
    (fake_proc.add(7, namespace=2) / "fd" / "5").symlink_to(alias)
    scan = scan_processes([root], str(fake_proc.path))
    assert (root.device, segment.stat().st_ino) in scan.holds
    assert scan.processes[7].mount_namespace == 2


def test_process_that_ends_before_it_is_read_is_left_out(fake_proc: FakeProc, root: Root) -> None:
    (fake_proc.add(7) / "stat").unlink()
    assert 7 not in scan_processes([root], str(fake_proc.path)).processes


def test_process_that_ends_while_it_is_read_counts_as_alive(fake_proc: FakeProc, root: Root) -> None:
    """Its leases are judged at the next look."""
    (fake_proc.add(7) / "maps").unlink()
    assert 7 in scan_processes([root], str(fake_proc.path)).processes


def test_thread_that_ends_while_it_is_read_takes_nothing_away(fake_proc: FakeProc, root: Root, shm: Path) -> None:
    segment = shm / "s"
    segment.write_bytes(b"x")
    process = fake_proc.add(7, state="Z", threads=3)
    (process / "task" / "8").mkdir()
    (process / "task" / "9" / "fd").mkdir(parents=True)
    (process / "task" / "9" / "maps").write_text(map_line(str(segment), root.device, segment.stat().st_ino))
    assert (root.device, segment.stat().st_ino) in scan_processes([root], str(fake_proc.path)).holds


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a process of another user")
def test_process_that_cannot_be_looked_into_is_counted(root: Root) -> None:
    """Seen from an ordinary user: the test's own process, which is root's."""
    program = (
        "import os, sys; from shmlease.auditor.judge.evidence import Root;"
        "from shmlease.auditor.observe.processes import scan_processes;"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534);"
        "print(int(sys.argv[1]) in scan_processes([Root('/dev/shm', int(sys.argv[2]))]).unreadable)"
    )
    command = [sys.executable, "-c", program, str(os.getpid()), str(root.device)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "True"


def test_zombie_and_kernel_thread_hold_nothing(fake_proc: FakeProc, root: Root) -> None:
    fake_proc.add(7, state="Z")
    fake_proc.add(8, flags=0x00200000)
    assert set(scan_processes([root], str(fake_proc.path)).processes) == {1}


def test_dead_leader_is_represented_by_its_threads(fake_proc: FakeProc, root: Root, shm: Path) -> None:
    segment = shm / "s"
    segment.write_bytes(b"x")
    process = fake_proc.add(7, state="Z", threads=2)
    thread = process / "task" / "9"
    (thread / "fd").mkdir(parents=True)
    (thread / "maps").write_text(map_line(str(segment), root.device, segment.stat().st_ino))
    scan = scan_processes([root], str(fake_proc.path))
    (hold,) = scan.holds[root.device, segment.stat().st_ino]
    assert hold.source.endswith("/7/task/9/maps")
    assert 7 in scan.processes


def test_descriptors_of_each_thread_are_read(fake_proc: FakeProc, root: Root, shm: Path) -> None:
    segment = shm / "s"
    segment.write_bytes(b"x")
    process = fake_proc.add(7, threads=2)
    (process / "task" / "9" / "fd").mkdir(parents=True)
    (process / "task" / "9" / "fd" / "3").symlink_to(segment)
    scan = scan_processes([root], str(fake_proc.path))
    (hold,) = scan.holds[root.device, segment.stat().st_ino]
    assert hold.how == "descriptor 3 of thread 9"


def test_descriptors_in_transit_are_reported_with_their_process(fake_proc: FakeProc) -> None:
    process = fake_proc.add(7, command="python server.py")
    (process / "fdinfo").mkdir()
    for number, kind, info in (("3", "socket:[12]", "fdinfo_socket"), ("4", "anon_inode:[io_uring]", "fdinfo_io_uring")):
        (process / "fd" / number).symlink_to(kind)
        (process / "fdinfo" / number).write_text((PROC / info).read_text())
    facts = descriptors_in_transit([7, 8], str(fake_proc.path))
    assert [fact.text for fact in facts] == [
        "pid 7 (python server.py) has 2 descriptors in messages that it has not received yet",
        "pid 7 (python server.py) has registered in an io_uring: /dev/shm/frames, /dev/shm/in ring (deleted)",
    ]


def test_own_process_is_seen_in_the_real_proc_also_when_the_name_is_gone(root: Root, shm: Path) -> None:
    segment = shm / "s"
    segment.write_bytes(b"x" * 4096)
    key = (root.device, segment.stat().st_ino)
    with open(segment, "rb"):
        assert scan_processes([root]).holds[key][0].pid == os.getpid()
        segment.unlink()
        (hold,) = scan_processes([root]).holds[key]
        assert (hold.unlinked, hold.path, hold.resident_bytes, hold.is_exact) == (True, str(segment), 4096, True)
        assert hold.born_ns is not None
