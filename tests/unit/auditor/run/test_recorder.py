"""The recorder as it runs in a program: what it writes, and what it must not need to ask."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import weakref
from collections import Counter
from pathlib import Path

from shmlease.auditor.run.inject import shmlease_record_file, shmlease_recorder
from shmlease.auditor.run.record_log import RecordLog
from shmlease.auditor.run.records import Record, Records

INJECT = os.path.dirname(shmlease_recorder.__file__)


def record(tmp_path: Path, program: str) -> Records:
    """What is recorded in `program`, which ends with nothing left in shared memory."""
    log = tmp_path / "records"
    log.touch()
    start = f"import sys\nsys.path.insert(0, {INJECT!r})\nimport shmlease_recorder\n"
    environment = {**os.environ, "SHMLEASE_RECORDS": str(log), "PYTHONPATH": ""}
    script = tmp_path / "program.py"
    script.write_text(start + textwrap.dedent(program))
    subprocess.run([sys.executable, str(script)], check=True, env=environment)
    return RecordLog(str(log), str(tmp_path)).read()


def only(records: Records) -> Record:
    (one,) = records.records
    return one


def test_path_of_shared_memory_is_known_without_asking_the_kernel(tmp_path: Path) -> None:
    """The kernel takes longer to answer than everything else that is recorded."""
    records = record(
        tmp_path,
        """
        import os
        from multiprocessing.shared_memory import SharedMemory
        shmlease_recorder.start()
        asked = []
        readlink = os.readlink
        os.readlink = lambda path: asked.append(path) or readlink(path)
        names = []
        for _ in range(5):
            segment = SharedMemory(create=True, size=4096)
            names.append(segment.name)
            segment.close()
            segment.unlink()
        assert len(asked) == 1, asked
        print(*names)
        """,
    )
    assert [one.kind for one in records.records] == ["size"] * 5
    assert all(one.path.startswith("/dev/shm/psm_") for one in records.records)
    assert len({one.path for one in records.records}) == len({one.inode for one in records.records}) == 5


def test_segment_is_recorded_once_with_its_stack_though_it_is_sized_and_mapped(tmp_path: Path) -> None:
    records = record(
        tmp_path,
        """
        from multiprocessing.shared_memory import SharedMemory
        def make():
            return SharedMemory(create=True, size=5000)
        shmlease_recorder.start()
        segment = make()
        segment.close()
        segment.unlink()
        """,
    )
    one = only(records)
    assert (one.kind, one.size_bytes) == ("size", 5000)
    assert [place.function for place in one.stack][-2:] == ["make", "<module>"]
    assert "program.py" in records.commands[one.pid]


def test_two_calls_of_one_line_have_each_their_stack(tmp_path: Path) -> None:
    records = record(
        tmp_path,
        """
        from multiprocessing.shared_memory import SharedMemory
        def make():
            segment = SharedMemory(create=True, size=100)
            segment.close()
            segment.unlink()
        def first():
            make()
        def second():
            make()
        shmlease_recorder.start()
        for _ in range(3):
            first()
            second()
        """,
    )
    assert [one.stack[-2].function for one in records.records] == ["first", "second"] * 3


def test_other_segment_mapped_under_the_same_number_is_recorded(tmp_path: Path) -> None:
    records = record(
        tmp_path,
        """
        import mmap, os, _posixshmem
        shmlease_recorder.start()
        for name in ("/shmtest-a", "/shmtest-b"):
            descriptor = _posixshmem.shm_open(name, os.O_CREAT | os.O_RDWR, 0o600)
            if name == "/shmtest-a":
                os.ftruncate(descriptor, 4096)
            else:
                os.posix_fallocate(descriptor, 0, 4096)
            mmap.mmap(descriptor, 4096).close()
            os.close(descriptor)
            _posixshmem.shm_unlink(name)
        """,
    )
    assert [(one.kind, one.path) for one in records.records] == [
        ("size", "/dev/shm/shmtest-a"),
        ("map", "/dev/shm/shmtest-b"),
    ]


def test_forked_child_records_for_itself(tmp_path: Path) -> None:
    records = record(
        tmp_path,
        """
        import os
        from multiprocessing.shared_memory import SharedMemory
        def make():
            segment = SharedMemory(create=True, size=100)
            segment.close()
            segment.unlink()
        shmlease_recorder.start()
        make()
        child = os.fork()
        if child == 0:
            make()
            os._exit(0)
        os.waitpid(child, 0)
        """,
    )
    parent, child = records.records
    assert parent.pid != child.pid
    assert set(records.commands) == {parent.pid, child.pid}
    assert parent.stack[1].function == child.stack[1].function == "make"


def test_what_was_recorded_survives_sigkill(tmp_path: Path) -> None:
    records = record(
        tmp_path,
        """
        import os, signal
        from multiprocessing.shared_memory import SharedMemory
        if os.fork() == 0:
            shmlease_recorder.start()
            for _ in range(3):
                segment = SharedMemory(create=True, size=100)
                segment.close()
                segment.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        os.wait()
        """,
    )
    assert len(records.records) == 3


def test_other_files_are_none_of_its_business(tmp_path: Path) -> None:
    records = record(
        tmp_path,
        """
        import mmap, os
        shmlease_recorder.start()
        with open("/dev/null", "w"), open("other", "w+b") as file:
            file.truncate(4096)
            mmap.mmap(file.fileno(), 4096).close()
            mmap.mmap(-1, 4096).close()
            os.truncate("other", 10)
        os.unlink("other")
        """.replace('"other"', repr(str(tmp_path / "other"))),
    )
    assert records.records == ()


def test_events_of_the_program_s_own_do_no_harm(tmp_path: Path) -> None:
    records = record(
        tmp_path,
        """
        shmlease_recorder.start()
        for event in ("mmap.__new__", "os.truncate", "open"):
            sys.audit(event)
            sys.audit(event, None, None, None)
        """,
    )
    assert records.records == ()


def test_stack_of_files_opened_in_a_loop_is_not_written_for_each(tmp_path: Path) -> None:
    records = record(
        tmp_path,
        """
        import os
        shmlease_recorder.start()
        for number in range(20):
            open(f"/dev/shm/shmtest-{number}", "w").close()
            os.unlink(f"/dev/shm/shmtest-{number}")
        """,
    )
    assert [one.kind for one in records.records] == ["open"] * 20
    assert (tmp_path / "records").read_bytes().count(b"stack\x1f") <= 2  # the interpreter counts a specialized call anew


def test_program_does_not_wait_for_a_reader_of_its_records(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "records")
    program = (
        f"import sys\nsys.path.insert(0, {INJECT!r})\n"
        "import shmlease_recorder\nshmlease_recorder.start()\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        "made = SharedMemory(create=True, size=4096)\n"
        "made.close(); made.unlink(); print('done')\n"
    )
    environment = {**os.environ, "SHMLEASE_RECORDS": str(tmp_path / "records"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.stdout == "done\n", done.stderr


MANY = """
    import os, signal
    from multiprocessing.shared_memory import SharedMemory
    def make(times):
        for _ in range(times):
            segment = SharedMemory(create=True, size=100)
            segment.close()
            segment.unlink()
    make(1)  # which starts the resource tracker
    shmlease_recorder.start()
"""


def test_program_that_makes_many_segments_puts_its_records_into_a_mapping(tmp_path: Path) -> None:
    records = record(
        tmp_path,
        MANY
        + """
    descriptors = os.listdir("/proc/self/fd")
    make(20)
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(event) if event == "open" else None)
    make(100)
    assert not opened
    assert os.listdir("/proc/self/fd") == descriptors, "a descriptor is kept"
    os.kill(os.getpid(), signal.SIGKILL) if os.fork() == 0 else os.wait()
        """,
    )
    assert [one.stack[1].function for one in records.records] == ["make"] * 120
    assert [one.at_ns for one in records.records] == sorted(one.at_ns for one in records.records)


def test_records_in_a_mapping_survive_sigkill(tmp_path: Path) -> None:
    records = record(
        tmp_path,
        MANY
        + """
    if os.fork() == 0:
        make(1000)  # more than fit into one piece
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
        """,
    )
    assert len({(one.inode, one.path) for one in records.records}) == 1000


def test_child_of_a_fork_that_python_does_not_know_of_writes_into_a_piece_of_its_own(tmp_path: Path) -> None:
    records = record(
        tmp_path,
        MANY
        + """
    import ctypes
    make(20)
    child = ctypes.PyDLL(None).fork()
    make(20)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
        """,
    )
    assert sorted(Counter(one.pid for one in records.records).values()) == [20, 40]


def test_program_goes_on_where_there_is_no_room_for_a_piece(tmp_path: Path) -> None:
    records = record(
        tmp_path,
        MANY
        + """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as a disk that is full after that
    make(50)
    print("went on")
        """,
    )
    assert 4 < len(records.records) < 50, "what was recorded before is read"


def test_mapping_that_must_not_be_closed_is_never_freed() -> None:
    class Thing:
        pass

    kept = shmlease_record_file._never_freed()
    kept.append(Thing())
    alive = weakref.ref(kept[-1])
    del kept
    gc.collect()
    assert alive() is not None
