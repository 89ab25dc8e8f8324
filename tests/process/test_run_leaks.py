"""What `shmlease run` finds in programs that leak, and that it finds nothing in those that do not."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest
from running import run_command, run_program

from shmlease.auditor.judge.findings import Confidence

SHARED = pytest.mark.parametrize("isolation", ["--isolate", "--no-isolate"])

FORGOTTEN = """\
from multiprocessing.shared_memory import SharedMemory

def make():
    return SharedMemory(create=True, size=5000)

segment = make()
segment.buf[0] = 1
"""


@SHARED
def test_forgotten_segment_exits_23_and_names_the_line(tmp_path: Path, isolation: str) -> None:
    finished = run_program(tmp_path, FORGOTTEN, isolation)
    assert finished.code == 23
    assert finished.rules == ["LH015"]
    assert finished.places == ["program.py:4"]
    (finding,) = finished.report.leaks
    assert finding.confidence is Confidence.PROVED
    assert finding.size_bytes == 5000
    assert [str(place) for place in finding.creator.stack][:2] == ["program.py:6 in <module>", "program.py:4 in make"]
    assert "program.py:4 in make" in finished.stderr


@SHARED
def test_its_twin_that_cleans_up_exits_0(tmp_path: Path, isolation: str) -> None:
    finished = run_program(tmp_path, FORGOTTEN + "segment.close()\nsegment.unlink()\n", isolation)
    assert finished.code == 0
    assert finished.report.findings == ()


def test_line_of_a_program_given_as_text_is_named(tmp_path: Path) -> None:
    program = "from multiprocessing.shared_memory import SharedMemory\nSharedMemory(create=True, size=100)"
    finished = run_command(tmp_path, sys.executable, "-c", program)
    assert (finished.code, finished.places) == (23, ["<string>:2"])


def test_segment_of_a_process_group_that_was_killed_is_an_orphan_with_its_line(tmp_path: Path) -> None:
    killed = FORGOTTEN + "import os, signal\nos.killpg(0, signal.SIGKILL)\n"
    finished = run_program(tmp_path, f"import os\nos.setsid()\n{killed}")
    assert finished.code == 128 + 9
    assert (finished.rules, finished.places) == (["LH001"], ["program.py:6"])


def test_segment_of_a_child_is_blamed_on_the_child(tmp_path: Path) -> None:
    program = """
        import multiprocessing, os
        def child():
            from multiprocessing import resource_tracker
            from multiprocessing.shared_memory import SharedMemory
            segment = SharedMemory(create=True, size=100)
            segment.buf[0] = 1
            resource_tracker.unregister(segment._name, "shared_memory")
        if __name__ == "__main__":
            process = multiprocessing.get_context("spawn").Process(target=child)
            process.start()
            process.join()
            print(process.pid)
    """
    finished = run_program(tmp_path, program)
    assert (finished.code, finished.rules, finished.places) == (23, ["LH001"], ["program.py:6"])
    assert finished.report.leaks[0].creator.pid == int(finished.stdout)


def test_file_that_is_written_and_never_mapped_names_its_line(tmp_path: Path) -> None:
    program = """
        with open("/dev/shm/test-run-written", "wb") as file:
            file.write(bytes(5000))
    """
    finished = run_program(tmp_path, program)
    assert (finished.code, finished.rules, finished.places) == (23, ["LH001"], ["program.py:2"])


def test_program_that_is_no_python_is_audited_all_the_same(tmp_path: Path) -> None:
    finished = run_command(tmp_path, "sh", "-c", "head -c 5000 /dev/zero > /dev/shm/psm_run_sh", options=("--isolate",))
    assert (finished.code, finished.rules) == (23, ["LH001"])
    assert finished.report.leaks[0].confidence is Confidence.PROVED


def test_in_a_shared_directory_a_segment_without_known_maker_is_only_likely(tmp_path: Path) -> None:
    name = f"test-run-{os.getpid()}"
    finished = run_command(tmp_path, "sh", "-c", f"echo > /dev/shm/{name}", options=("--no-isolate",))
    os.unlink(f"/dev/shm/{name}")
    (finding,) = [one for one in finished.report.leaks if one.name == name]
    assert finding.confidence is Confidence.LIKELY
    assert "its creator is unknown" in finished.stderr


def test_in_a_shared_directory_what_others_hold_is_not_blamed_on_the_command(tmp_path: Path) -> None:
    """A process that is none of the command's makes a segment while it runs, and goes on holding it."""
    name = f"test-run-{os.getpid()}"
    asked, answered = tmp_path / "asked", tmp_path / "answered"
    os.mkfifo(asked)
    os.mkfifo(answered)
    stranger = os.fork()
    if stranger == 0:
        signal.alarm(60)  # should the test fail before it asks
        asked.read_text()
        os.open(f"/dev/shm/{name}", os.O_CREAT | os.O_RDWR)
        answered.write_text("made")
        asked.read_text()
        os._exit(0)
    finished = run_command(tmp_path, "sh", "-c", f"echo > {asked}; cat {answered}", options=("--no-isolate",))
    asked.write_text("end")
    os.waitpid(stranger, 0)
    os.unlink(f"/dev/shm/{name}")
    assert finished.stdout == "made"
    assert name not in [finding.name for finding in finished.report.findings]


def test_segment_that_outlives_the_command_in_a_daemon_is_found_with_its_holder(tmp_path: Path) -> None:
    program = """
        import mmap, os, signal
        ready, begun = os.pipe()
        if os.fork() == 0:
            os.setsid()
            descriptor = os.open("/dev/shm/test-run-held", os.O_CREAT | os.O_RDWR, 0o600)
            os.ftruncate(descriptor, 4096)
            memory = mmap.mmap(descriptor, 4096)
            os.write(begun, b"x")
            os.closerange(0, 3)  # the test waits for all who have its pipes
            signal.alarm(60)
            signal.pause()
        os.read(ready, 1)
    """
    finished = run_program(tmp_path, program, "--settle", "200ms")
    assert (finished.code, finished.rules, finished.places) == (23, ["LH009"], ["program.py:6"])
    (holder,) = finished.report.leaks[0].holders
    os.kill(holder.pid, signal.SIGKILL)
    assert any("may still leave behind" in gap.what for gap in finished.report.coverage.gaps)


def test_what_a_tracker_removes_while_the_command_goes_on_is_found(tmp_path: Path) -> None:
    (tmp_path / "leak.py").write_text(FORGOTTEN)
    outer = """
        import os, subprocess, sys, time
        subprocess.run([sys.executable, "leak.py"], check=True)
        while any(name.startswith("psm_") for name in os.listdir("/dev/shm")):
            time.sleep(0.005)
    """
    finished = run_program(tmp_path, outer, "--isolate")
    assert (finished.code, finished.rules, finished.places) == (23, ["LH015"], ["leak.py:4"])


# In a tracker: what it is to unlink it unlinks once the runner has seen the end of the command, and waits for the tracker.
PATIENT_TRACKER = """
import os, sys
if "resource_tracker" in " ".join(sys.orig_argv):
    import _posixshmem, time
    unlink = _posixshmem.shm_unlink

    def unlink_late(name):
        while not is_waited_for(os.getppid()):
            time.sleep(0.001)
        unlink(name)

    def is_waited_for(parent):
        files = f"task/{parent}/children", "stat", "cmdline"
        children, stat, command = (read(f"/proc/{parent}/{name}") for name in files)
        is_asleep = stat.rpartition(")")[2].split()[0] == "S"
        return children.split() == [str(os.getpid())] and is_asleep and "shmlease" in command

    def read(path):
        with open(path) as file:
            return file.read()

    _posixshmem.shm_unlink = unlink_late
"""


def test_without_the_hook_a_tracker_is_known_by_being_the_last(tmp_path: Path) -> None:
    """Where the runner sees the end of the command before the tracker has ended; without the hook nothing else tells."""
    (tmp_path / "sitecustomize.py").write_text(PATIENT_TRACKER)
    finished = run_program(tmp_path, FORGOTTEN, "--no-hook", env={"PYTHONPATH": str(tmp_path)})
    assert (finished.code, finished.rules, finished.places) == (23, ["LH015"], [])
    assert any("where in the code" in gap.what for gap in finished.report.coverage.gaps)


CLEAN_POOL = """
    import multiprocessing

    def square(number):
        return number * number

    def put(queue, array, lock):
        with lock:
            array[0] += 1
        queue.put(1)

    if __name__ == "__main__":
        multiprocessing.set_start_method("{method}")
        with multiprocessing.Pool(2) as pool:
            assert sum(pool.map(square, range(100))) == 328350
        queue, array, lock = multiprocessing.Queue(), multiprocessing.Array("i", 10000), multiprocessing.Lock()
        processes = [multiprocessing.Process(target=put, args=(queue, array, lock)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            queue.get()
            process.join()
        print(array[0])
"""


@SHARED
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_clean_pool_lock_queue_and_array_exit_0(tmp_path: Path, method: str, isolation: str) -> None:
    finished = run_program(tmp_path, CLEAN_POOL.format(method=method), isolation)
    assert (finished.code, finished.stdout) == (0, "2\n"), finished.stderr


def test_clean_numpy_program_exits_0(tmp_path: Path) -> None:
    program = """
        import numpy
        from multiprocessing.shared_memory import SharedMemory
        segment = SharedMemory(create=True, size=800_000)
        array = numpy.ndarray((100, 1000), buffer=segment.buf)
        array[:] = numpy.linalg.svd(numpy.ones((100, 1000)), full_matrices=False)[2]
        del array
        segment.close()
        segment.unlink()
    """
    assert run_program(tmp_path, program).code == 0


@SHARED
@pytest.mark.skipif(importlib.util.find_spec("joblib") is None, reason="joblib is not installed")
def test_clean_joblib_program_with_memory_maps_exits_0(tmp_path: Path, isolation: str) -> None:
    program = """
        import joblib, numpy

        def total(array, row):
            return float(array[row].sum())

        if __name__ == "__main__":
            array = numpy.ones((100, 50_000))
            rows = joblib.Parallel(n_jobs=2, max_nbytes="1M")(joblib.delayed(total)(array, row) for row in range(20))
            print(sum(rows))
    """
    finished = run_program(tmp_path, program, isolation)
    assert (finished.code, finished.stdout) == (0, "1000000.0\n"), finished.stderr


@SHARED
def test_clean_shmlease_program_exits_0(tmp_path: Path, isolation: str) -> None:
    program = """
        import shmlease, numpy
        with shmlease.Registry(capacity="16MiB") as registry:
            with registry.share(numpy.arange(1000), "numbers") as lease:
                print(lease.array.sum())
    """
    finished = run_program(tmp_path, program, isolation)
    assert (finished.code, finished.stdout) == (0, "499500\n"), finished.stderr


def test_registry_of_a_killed_program_is_waited_for(tmp_path: Path) -> None:
    program = """
        import shmlease, numpy, os, signal
        registry = shmlease.Registry(capacity="16MiB")
        lease = registry.share(numpy.arange(1000), "numbers")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    finished = run_program(tmp_path, program)
    assert finished.code == 128 + 9
    assert finished.report.leaks == ()
    assert not any("may still leave behind" in gap.what for gap in finished.report.coverage.gaps)


def test_lease_that_outlives_the_command_is_found(tmp_path: Path) -> None:
    program = """
        import shmlease, numpy, os, signal
        ready, begun = os.pipe()
        registry = shmlease.Registry(capacity="16MiB")
        lease = registry.share(numpy.arange(1000), "numbers")
        if os.fork() == 0:
            with shmlease.connect(registry.id).attach("numbers"):
                os.write(begun, b"x")
                os.closerange(0, 3)  # the test waits for all who have its pipes
                signal.alarm(60)
                signal.pause()
        os.read(ready, 1)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    finished = run_program(tmp_path, program, "--settle", "300ms")
    assert finished.rules == ["LH009"]
    (leak,) = finished.report.leaks
    assert leak.label == "numbers"
    for holder in leak.holders:
        os.kill(holder.pid, signal.SIGKILL)
