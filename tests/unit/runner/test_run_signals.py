from __future__ import annotations

import os
import select
import signal
import threading

import pytest

from leasehold.runner.signals import PASSED_ON, Received, Signals


@pytest.fixture(autouse=True)
def alone() -> None:
    """A signal for the process goes to any thread that does not block it, and may end us all."""
    if threading.active_count() > 1:
        pytest.skip("another thread, of a plugin or an earlier test, could take the signal")


def received(signals: Signals) -> list[Received]:
    assert select.select([signals], [], [], 5)[0], "no signal came"
    return list(signals.read())


@pytest.mark.parametrize("number", sorted(PASSED_ON))
def test_signal_of_a_process_is_read_instead_of_delivered(number: int) -> None:
    with Signals() as signals:
        # to this thread alone: another one, that some test before has left, may not block the signal and would end us all
        signal.pthread_kill(threading.get_ident(), number)
        assert received(signals) == [Received(number, from_process=True)]


def test_death_of_a_child_is_the_kernel_s_word() -> None:
    with Signals() as signals:
        pid = os.posix_spawn("/bin/true", ["true"], {}, setsigmask=signals.mask)
        assert received(signals) == [Received(signal.SIGCHLD, from_process=False)]
        os.waitpid(pid, 0)


def test_mask_is_put_back_and_nothing_strikes_afterwards() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with Signals() as signals:
        assert signals.mask == before
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_without_a_signal_there_is_nothing_to_read() -> None:
    with Signals() as signals:
        assert list(signals.read()) == []
