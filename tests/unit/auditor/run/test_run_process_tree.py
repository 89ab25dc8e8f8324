"""Who descends from a process, also through a parent that has ended, and who of them lives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.until import until
from shmlease.auditor.run.process_tree import descendants_of, is_running

# a child that has a child; both wait for the end of their standard input
PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "input()", "grandchild"])
print("started", flush=True)
input()
"""
# the first thread ends, another goes on
THREADED = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
print("started", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def run(program: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


@pytest.fixture
def family() -> Iterator[subprocess.Popen[str]]:
    with run(PARENT) as process:
        yield process
        process.communicate("\n" * 2, timeout=60)


def test_children_of_children_are_found_with_their_commands(family: subprocess.Popen[str]) -> None:
    # a process has no command line for a moment while it becomes another program: its parent may be told before
    (grandchild,) = until(lambda: [one for one in descendants_of(family.pid) if one.command.endswith("grandchild")])
    found = descendants_of(os.getpid())
    assert {family.pid, grandchild.pid} <= {process.pid for process in found}
    assert grandchild in found


def test_process_that_has_ended_is_none_though_nobody_has_waited_for_it() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        assert pid not in {process.pid for process in descendants_of(os.getpid())}
    finally:
        os.waitpid(pid, 0)
    assert not is_running(pid)


def test_process_whose_first_thread_has_ended_lives() -> None:
    with run(THREADED) as process:
        status = Path(f"/proc/{process.pid}/task/{process.pid}/status")
        until(lambda: "State:\tZ" in status.read_text(), what="the end of the first thread")
        assert process.pid in {one.pid for one in descendants_of(os.getpid())}
        assert is_running(process.pid)
        process.kill()
