"""A child forked in C, where Python runs no at-fork handlers, as uWSGI does: it is a client of its own from its first call
on.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAD = """
import ctypes, os, signal, threading
import numpy as np
import shmlease
from shmlease.system.directory import RegistryDirectory
fork = ctypes.PyDLL(None).fork  # which holds the interpreter's lock, and tells it nothing

registry = shmlease.Registry("16MiB")
kept = registry.share(np.arange(1000), "kept")

def child(work):
    pid = fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
CALLS = {
    "attach": "assert registry.attach('kept').array.sum() == 499_500",
    "share": "with registry.share(np.arange(10)) as lease: assert lease.array.sum() == 45",
    "ticket": (
        "with registry.share(np.arange(10)) as lease, registry.redeem(lease.ticket()) as again: assert "
        "again.array.sum() == 45"
    ),
    "statistics": "assert registry.statistics().clients == 2",
    "connect": "with shmlease.connect().attach('kept') as lease: assert lease.array.sum() == 499_500",
    "inherited": "assert kept.array.sum() == 499_500; kept.ticket()",
    "successor": (
        "os.kill(RegistryDirectory(registry.id).read_ledger().registry.identity.pid, signal.SIGKILL); "
        "assert registry.statistics().epoch == 2"
    ),
}


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", HEAD + program], capture_output=True, text=True, check=False, timeout=280)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.parametrize("call", CALLS)
def test_first_call_of_such_a_child(call: str) -> None:
    run(f"""
def work():
    {CALLS[call]}
assert ended(child(work)) == 0
assert kept.array.sum() == 499_500
with registry.share(np.arange(10)) as lease: assert lease.array.sum() == 45
kept.release()
registry.close()
""")


def test_what_no_notice_has_told_of_is_not_inherited_by_such_a_child() -> None:
    """It is used again as soon as it is released, under the same lease, and its holder does not know of the child."""
    run("""
while registry._link.session.kept is None:
    registry.lease(shape=10).release()
lease = registry.lease(shape=10)
lease.array[:] = 7
def work():
    try: lease.array
    except shmlease.LeaseClosedError as error: assert 'Python was not told of' in str(error)
    else: raise AssertionError
    with registry.lease(shape=10) as own: own.array[:] = 8
assert ended(child(work)) == 0
assert (lease.array == 7).all()
lease.release()
kept.release()
registry.close()
""")


def test_parent_and_such_children_use_the_registry_at_once() -> None:
    run("""
def work():
    for number in range(30):
        with registry.share(np.full(100, number)) as lease, registry.redeem(lease.ticket()) as again:
            assert again.array.sum() == 100 * number
def in_threads():
    failures = []
    def guarded():
        try: work()
        except BaseException as failure: failures.append(failure)
    threads = [threading.Thread(target=guarded) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    if failures: raise failures[0]
children = [child(in_threads) for _ in range(3)]
work()
assert [ended(pid) for pid in children] == [0, 0, 0]
kept.release()
registry.close()
""")


def test_such_a_child_is_noticed_where_the_kernel_wipes_no_memory() -> None:
    """As under gVisor: the process id is asked for."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            """
import mmap
class Refusing(mmap.mmap):
    def madvise(self, option, *rest):
        if option == 18: raise OSError(22, "Invalid argument")
        return super().madvise(option, *rest)
mmap.mmap = Refusing
from shmlease.system import forks
import ctypes, os
assert not forks._is_wiped
told = []
forks.after_fork_in_child(lambda: told.append(os.getpid()))
forks.notice_fork()
assert told == []
child = ctypes.PyDLL(None).fork()
if child == 0:
    forks.notice_fork()
    forks.notice_fork()
    os._exit(0 if told == [os.getpid()] else 1)
assert os.waitpid(child, 0)[1] == 0
""",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert (done.returncode, done.stderr) == (0, "")
