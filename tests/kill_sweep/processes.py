"""The processes of a point: forked from one that has imported everything, and registries that are forked as well.

A registry is usually launched as a fresh interpreter, which takes most of the time of a point and has nothing to do with
its outcome. Here a launcher, forked for each point before any client has begun, forks registries on request: from
`shmlease.registry.process.main` on they are what they always are. `install` makes it what clients launch with.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

import msgspec

from shmlease.core.settings import Settings
from shmlease.errors import RegistryUnavailableError
from shmlease.registry.process import main
from shmlease.system import launch as launching
from shmlease.system.surroundings import DEFAULT_SIGNALS

__all__ = ["Launcher", "become_subreaper", "children", "fork", "install", "launch_as_always", "start_registry"]

_PR_SET_CHILD_SUBREAPER: Final = 36
launch_as_always: Final = launching.launch
_launcher: Launcher | None = None


def become_subreaper() -> None:
    """From now on, whoever of this process's descendants loses its parent becomes its child."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """Processes whose parent is this one."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if int(file.read().rsplit(")", 1)[1].split()[1]) == os.getpid():
                    found.append(int(pid))
        except OSError:  # it has ended
            continue
    return found


def fork(work: Callable[[], None], *, keep: Iterable[int] = (), words: int = 2) -> int:
    """A child that does `work` with no other descriptors than `keep`, and ends as a program ends; its pid.

    It exits with 0, or writes its traceback to the descriptor `words` and exits with 1.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.dup2(words, 2)
        kept = {0, 1, 2, *keep}
        for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
            if fd not in kept:
                try:
                    os.close(fd)
                except OSError:  # the one that listed them
                    pass
        work()
        _run_exit_functions()
        code = 0
    except BaseException:
        os.write(2, f"{work}: {traceback.format_exc()}".encode())
    finally:
        os._exit(code)


def _run_exit_functions() -> None:
    import atexit

    atexit._run_exitfuncs()


class Launcher:
    """A process that forks registries; ends when no process that could ask it is left."""

    def __init__(self, words: int) -> None:
        self._asking, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with asked:
            fork(lambda: _serve_launches(asked), keep=[asked.fileno()], words=words)
        self.fd = self._asking.fileno()

    def launch(self, settings: Settings, lock_fd: int) -> None:
        """As `shmlease.system.launch.launch`."""
        report_r, report_w = os.pipe2(os.O_CLOEXEC)
        try:
            socket.send_fds(self._asking, [msgspec.json.encode(settings)], [lock_fd, report_w])
        finally:
            os.close(report_w)
        with open(report_r, "rb") as report:
            words = report.read()
        if words != b"ready":
            raise RegistryUnavailableError(f"the registry process did not start: {words.decode()}")

    def close(self) -> None:
        """Ask nothing any more."""
        self._asking.close()


def install(launcher: Launcher | None) -> None:
    """Let this process, and what it forks, launch registries with `launcher`; None: as always."""
    global _launcher  # noqa: PLW0603 - `launch` is a function of a module, and so is what stands in for it
    _launcher = launcher


def _launch(settings: Settings, lock_fd: int) -> None:
    (launch_as_always if _launcher is None else _launcher.launch)(settings, lock_fd)


assert "shmlease.client" not in sys.modules, "imported before the launcher was put in"
launching.launch = _launch


def _serve_launches(asked: socket.socket) -> None:
    while True:
        settings, fds, _, _ = socket.recv_fds(asked, 65536, 2)
        if not settings:
            return
        if os.fork() == 0:
            if os.fork():
                os._exit(0)  # so that the registry is nobody's child
            asked.close()
            start_registry(settings.decode(), *fds)
        for fd in fds:
            os.close(fd)
        os.wait()


def start_registry(settings: str, lock_fd: int, report_fd: int) -> NoReturn:
    """Become the registry, as a process that `launch_as_always` has started does."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    lock_fd, report_fd = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (lock_fd, report_fd))
    for fd, place in ((null, 0), (report_fd, launching.REPORT_FD), (report_fd, 2), (lock_fd, launching.LOCK_FD)):
        os.dup2(fd, place, inheritable=False)
    os.closerange(launching.LOCK_FD + 1, 64)
    signal.pthread_sigmask(signal.SIG_SETMASK, DEFAULT_SIGNALS)
    code = 1
    try:
        main(settings)
        code = 0
    finally:
        os._exit(code)
