"""Each in a child of its own: a signal for the process goes to any thread that does not block it, and may end us all."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from rig.forked import in_a_child
from shmlease.auditor.run.signals import PASSED_ON, Received, Signals


def received(signals: Signals) -> list[Received]:
    assert select.select([signals], [], [], 5)[0], "no signal came"
    return list(signals.read())


@pytest.mark.parametrize("number", sorted(PASSED_ON))
@in_a_child
def test_signal_of_a_process_is_read_instead_of_delivered(number: int) -> None:
    with Signals() as signals:
        os.kill(os.getpid(), number)
        assert received(signals) == [Received(number, from_process=True)]


@in_a_child
def test_death_of_a_child_is_the_kernel_s_word() -> None:
    with Signals() as signals:
        pid = os.posix_spawn("/bin/true", ["true"], {}, setsigmask=signals.mask)
        assert received(signals) == [Received(signal.SIGCHLD, from_process=False)]
        os.waitpid(pid, 0)


@in_a_child
def test_mask_is_put_back_and_nothing_strikes_afterwards() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with Signals() as signals:
        assert signals.mask == before
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@in_a_child
def test_without_a_signal_there_is_nothing_to_read() -> None:
    with Signals() as signals:
        assert list(signals.read()) == []


@in_a_child
def test_exit_code_is_there_though_the_process_ignores_its_children() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with Signals() as signals:
        pid = os.posix_spawn("/bin/false", ["false"], {}, setsigmask=signals.mask)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    os.posix_spawn("/bin/true", ["true"], {})
    with pytest.raises(ChildProcessError):
        os.wait()  # it ignores them again


def test_command_that_is_run_by_a_process_that_ignores_its_children_returns_its_exit_code() -> None:
    program = (
        "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "from shmlease.auditor.run.command import run\n"
        "print(run(['sh', '-c', 'exit 7'], isolate=False).returncode, signal.getsignal(signal.SIGCHLD).name)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "7 SIG_IGN\n", done.stderr
