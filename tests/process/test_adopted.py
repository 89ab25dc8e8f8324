"""`shmlease run --adopt`: programs that nobody has changed, whose shared memory becomes leases of the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import run_command, run_program

# What many programs do before Python 3.13, so that the exit of an attacher ends nothing; and nobody unlinks.
LEAKY = """
import multiprocessing, sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import ShareableList, SharedMemory

def work(name, memory):
    other = SharedMemory(name)
    resource_tracker.unregister(other._name, "shared_memory")
    other.buf[0] += 1
    memory.buf[1] = 7
    other.close()

if __name__ == "__main__":
    memory = SharedMemory(create=True, size=1000)
    resource_tracker.unregister(memory._name, "shared_memory")
    for method in sys.argv[1:] or ["fork", "spawn"]:
        worker = multiprocessing.get_context(method).Process(target=work, args=(memory.name, memory))
        worker.start()
        worker.join()
    items = ShareableList([1, 2])
    print(bytes(memory.buf[:2]), list(items), type(memory))
    items.shm.close()
    items.shm.unlink()
"""


def test_leaking_program_says_the_same_and_leaks_no_more(tmp_path: Path) -> None:
    plain = run_program(tmp_path, LEAKY, "-q")
    adopted = run_program(tmp_path, LEAKY, "--adopt", "--strict")
    assert (plain.code, plain.rules) == (23, ["LH001"])
    assert (adopted.code, adopted.rules) == (0, []), adopted.stderr
    assert adopted.stdout == plain.stdout == "b'\\x02\\x07' [1, 2] <class 'multiprocessing.shared_memory.SharedMemory'>\n"
    assert "1 segment of the command had not been unlinked and ended with the run" in adopted.stderr
    assert "(1000 B, made at program.py:14 in <module>)" in adopted.stderr
    assert "Traceback" not in adopted.stderr, "the tracker knows nothing of what is taken back from it"


def test_name_lasts_beyond_its_maker_until_the_end_of_the_run(tmp_path: Path) -> None:
    program = """
    import subprocess, sys
    from multiprocessing.shared_memory import SharedMemory
    make = "from multiprocessing.shared_memory import SharedMemory; SharedMemory('made', create=True, size=9).buf[0] = 5"
    subprocess.run([sys.executable, "-c", make], check=True)
    print(SharedMemory("made").buf[0])
    """
    finished = run_program(tmp_path, program, "--adopt")
    assert (finished.code, finished.stdout, finished.rules) == (0, "5\n", [])
    assert not os.path.exists("/dev/shm/made")


def test_manager_of_an_adopted_program_works(tmp_path: Path) -> None:
    program = """
    from multiprocessing.managers import SharedMemoryManager
    with SharedMemoryManager() as manager:
        memory, items = manager.SharedMemory(9), manager.ShareableList("ab")
        print(len(memory.buf), list(items), type(memory).__mro__[1].__module__)
    """
    finished = run_program(tmp_path, program, "--adopt")
    assert (finished.code, finished.stdout) == (0, "9 ['a', 'b'] multiprocessing.shared_memory\n"), finished.stderr
    assert "not been unlinked" not in finished.stderr


def test_what_cannot_be_adopted_is_left_alone_and_named(tmp_path: Path) -> None:
    program = """
    import os, subprocess, sys
    make = "from multiprocessing.shared_memory import SharedMemory as S; s = S('alone', True, 9); s.close(); s.unlink()"
    subprocess.run([sys.executable, "-I", "-c", make], check=True)
    subprocess.run(["sh", "-c", "echo x > /dev/shm/by-shell; rm /dev/shm/by-shell"], check=True)
    with open("/dev/shm/by-hand", "w") as file:
        pass
    os.unlink("/dev/shm/by-hand")
    """
    finished = run_program(tmp_path, program, "--adopt")
    assert (finished.code, finished.rules) == (0, [])
    gaps = {gap.what: gap.why for gap in finished.report.coverage.gaps if gap.source == "adoption"}
    (own,) = (why for what, why in gaps.items() if "program.py" in what)
    assert own == "it makes segments without multiprocessing.shared_memory: by-hand"
    assert "shared memory of the makers of alone, by-shell, left alone" in gaps
    assert all(what in finished.stderr for what in gaps)


def test_program_that_cannot_import_shmlease_runs_as_it_is_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("raise ImportError('not for this program')")
    program = """
    from multiprocessing.shared_memory import SharedMemory
    memory = SharedMemory(create=True, size=9)
    print(type(memory).__mro__[1].__name__)
    memory.close(); memory.unlink()
    """
    finished = run_program(tmp_path, program, "--adopt")
    assert (finished.code, finished.stdout) == (0, "object\n")
    assert "ImportError: not for this program" in finished.stderr


def test_program_of_an_environment_without_shmlease_is_adopted_by_the_same_version_of_python(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    code = "from multiprocessing.shared_memory import SharedMemory; print(SharedMemory.__mro__[1].__module__)"
    finished = run_command(tmp_path, str(bare / "bin" / "python"), "-c", code, options=("--adopt",))
    assert (finished.code, finished.stdout) == (0, "multiprocessing.shared_memory\n"), finished.stderr


def test_adoption_needs_the_hook(tmp_path: Path) -> None:
    finished = run_program(tmp_path, "", "--adopt", "--no-hook")
    assert finished.code == 2
    assert "--adopt works through the hook" in finished.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_program_that_does_not_use_shared_memory_imports_nothing_of_shmlease(tmp_path: Path, method: str) -> None:
    program = f"""
    import multiprocessing, sys
    def work():
        print(sorted(name for name in sys.modules if name.startswith(("shmlease", "numpy"))))
    if __name__ == "__main__":
        worker = multiprocessing.get_context({method!r}).Process(target=work)
        worker.start(); worker.join()
    """
    finished = run_program(tmp_path, program, "--adopt")
    assert (finished.code, finished.stdout) == (0, "[]\n")
