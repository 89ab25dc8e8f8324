"""Identities that survive the reuse of pids, and deaths that are proved and not guessed."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from rig.until import until
from shmlease.errors import PermissionDeniedError
from shmlease.system.identity import (
    boot_id,
    identify,
    is_dead,
    own_identity,
    own_time_namespace,
    peer_of,
    pidfd_of_peer,
    require_same_user,
    unseen_identity,
    watch,
)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_identity_says_which_process_it_is(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper.pid)
    assert (identity.pid, identity.uid, identity.boot_id) == (sleeper.pid, os.geteuid(), boot_id())
    until(lambda: identify(sleeper.pid).command == "sleep 600")
    assert identify(sleeper.pid).start_ticks == identity.start_ticks
    assert own_identity().pid == os.getpid()


def test_name_of_a_process_may_hold_anything() -> None:
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b') R 1 (x) '); print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert identify(process.pid).start_ticks >= own_identity().start_ticks
    process.communicate(b"\n")


def test_living_process_is_not_dead(sleeper: subprocess.Popen[bytes]) -> None:
    assert not is_dead(identify(sleeper.pid))


def test_process_that_cannot_be_seen_from_here_is_never_called_dead() -> None:
    unseen = unseen_identity(1000)
    assert (unseen.pid, unseen.uid) == (0, 1000)
    assert not is_dead(unseen)
    assert watch(unseen) == -1


def test_process_that_has_ended_is_dead_buried_or_not(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper.pid)
    sleeper.kill()
    until(lambda: is_dead(identity), what="the death of a zombie")
    with pytest.raises(ProcessLookupError):
        identify(sleeper.pid)
    sleeper.wait()
    assert is_dead(identity)


def test_stopped_process_is_alive(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper.pid)
    sleeper.send_signal(signal.SIGSTOP)
    assert not is_dead(identity)
    pidfd = watch(identity)
    assert pidfd is not None
    os.close(pidfd)


def test_process_lives_as_long_as_any_of_its_threads() -> None:
    """Its leader is a zombie meanwhile."""
    code = (
        "import ctypes, platform, sys, threading\n"
        "threading.Thread(target=sys.stdin.read).start()\n"
        "ctypes.CDLL(None).syscall({'x86_64': 60}.get(platform.machine(), 93), 0)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert process.stdin is not None

    def state() -> str:
        with open(f"/proc/{process.pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0]

    try:
        before = identify(process.pid)
        until(lambda: state() == "Z", what="the death of the leader")
        assert not is_dead(before)
        assert identify(process.pid).command.startswith(sys.executable)
        pidfd = watch(before)
        assert pidfd is not None
        assert not select.select([pidfd], [], [], 0)[0]
        process.stdin.close()
        assert select.select([pidfd], [], [], 10)[0]
        os.close(pidfd)
        assert is_dead(before)
    finally:
        process.kill()
        process.wait()


def test_start_time_read_in_another_time_namespace_proves_nothing(sleeper: subprocess.Popen[bytes]) -> None:
    here = identify(sleeper.pid)
    assert here.time_namespace == own_time_namespace()
    elsewhere = replace(here, time_namespace=here.time_namespace + 1, start_ticks=here.start_ticks + 10_000_000)
    assert not is_dead(elsewhere)
    pidfd = watch(elsewhere)
    assert pidfd is not None
    os.close(pidfd)
    assert here.may_be(elsewhere)
    assert not here.is_surely(elsewhere)
    sleeper.kill()
    sleeper.wait()
    assert is_dead(elsewhere), "nobody has its pid"


def test_boot_id_of_a_container_proves_nothing(sleeper: subprocess.Popen[bytes]) -> None:
    """systemd-nspawn gives each container a boot id of its own; it also gives it a pid namespace."""
    inside = replace(identify(sleeper.pid), boot_id="00000000-0000-0000-0000-000000000000", pid_namespace=1)
    assert not is_dead(inside)
    assert watch(inside) == -1


def test_pid_used_again_is_another_process(sleeper: subprocess.Popen[bytes]) -> None:
    former = replace(identify(sleeper.pid), start_ticks=identify(sleeper.pid).start_ticks - 1)
    assert is_dead(former)
    assert watch(former) is None


def test_process_of_an_earlier_boot_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    former = replace(identify(sleeper.pid), boot_id="00000000-0000-0000-0000-000000000000")
    assert is_dead(former)


def test_process_of_another_pid_namespace_counts_as_alive(sleeper: subprocess.Popen[bytes]) -> None:
    """Its pid means nothing here: whoever has that number, or nobody, it is somebody else."""
    elsewhere = replace(identify(sleeper.pid), pid_namespace=1, start_ticks=1)
    nobody = replace(elsewhere, pid=2**22 - 1)
    assert not is_dead(elsewhere)
    assert not is_dead(nobody)


def test_pid_counts_in_the_namespace_of_the_one_who_looked() -> None:
    """A container's process, seen from outside, has a pid of the outside."""
    process = subprocess.Popen(["unshare", "--pid", "--fork", "sleep", "600"], stderr=subprocess.DEVNULL)
    try:

        def inner() -> int:
            if process.poll() is not None:
                pytest.skip("this system does not let us make a pid namespace")
            with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
                return int((file.read().split() or ["0"])[0])

        pid = until(inner)
        until(lambda: os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid"))
        identity = identify(pid)
        assert identity.pid_namespace == os.stat("/proc/self/ns/pid").st_ino
        assert not is_dead(identity)
        os.kill(pid, signal.SIGKILL)
        until(lambda: is_dead(identity))
    finally:
        process.kill()
        process.wait()


def test_watch_becomes_readable_when_the_process_dies(sleeper: subprocess.Popen[bytes]) -> None:
    pidfd = watch(identify(sleeper.pid))
    assert pidfd is not None
    assert not select.select([pidfd], [], [], 0)[0]
    sleeper.kill()
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)


def test_process_is_watched_by_one_that_has_many_files_open(sleeper: subprocess.Popen[bytes], many_files: None) -> None:
    pidfd = watch(identify(sleeper.pid))
    assert pidfd is not None
    assert pidfd > 1023
    os.close(pidfd)


def test_process_of_another_pid_namespace_is_not_watched_and_not_dead(sleeper: subprocess.Popen[bytes]) -> None:
    assert watch(replace(identify(sleeper.pid), pid_namespace=1)) == -1
    assert watch(replace(identify(sleeper.pid), pid_namespace=1, pid=2**22 - 1)) == -1


def test_peer_is_who_the_kernel_says_it_is(sleeper: subprocess.Popen[bytes]) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        assert peer_of(here) == (os.getpid(), os.geteuid())
        pidfd = pidfd_of_peer(here, os.getpid())
        assert not select.select([pidfd], [], [], 0)[0]
        os.close(pidfd)


def test_peer_that_has_died_has_no_pidfd_or_one_that_says_so() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(b"\0shmlease-test-%d" % os.getpid())
    listener.listen()
    with here, there, listener:
        name = f"\\0shmlease-test-{os.getpid()}"
        code = f"import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect('{name}')"
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code])
        connection, _ = listener.accept()
        process.wait()
        with connection:
            pid, _ = peer_of(connection)
            assert pid == process.pid
            try:
                pidfd = pidfd_of_peer(connection, pid)
            except OSError:
                return
            assert select.select([pidfd], [], [], 0)[0]
            os.close(pidfd)


def test_another_user_is_refused() -> None:
    require_same_user(os.geteuid(), "the client")
    with pytest.raises(PermissionDeniedError, match="the client belongs to uid 4242") as refused:
        require_same_user(4242, "the client")
    assert refused.value.uid == 4242
