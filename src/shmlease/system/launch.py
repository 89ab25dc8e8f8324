"""Starting a registry process: in a session of its own, with nothing inherited, nobody's child."""

from __future__ import annotations

import _socket  # not socket, and posix instead of os: gevent puts its own in their place, which let others run meanwhile
import fcntl
import os
import posix
import struct
from typing import Final

import msgspec

from shmlease.core.limits import ENOUGH_TO_START, shortfalls
from shmlease.core.settings import Settings
from shmlease.errors import RegistryUnavailableError, UnsupportedPlatformError
from shmlease.system.interpreter import find_interpreter, places_of
from shmlease.system.shm_shortage import explained
from shmlease.system.surroundings import DEFAULT_SIGNALS, environment_for, own_limits

__all__ = ["LOCK_FD", "REPORT_FD", "launch"]

# What the registry process is started with.
REPORT_FD: Final = 1
LOCK_FD: Final = 3
# An interpreter without environment and site packages (-I -S) finds the standard library first, then shmlease and msgspec,
# and nothing of the caller's; it is up in some 40 ms. It forks once before it does anything: it is nobody's child, so that
# a user's os.wait() never meets it. What the caller had opened without close-on-exec is closed. msgspec would import
# typing_extensions where there is one, a fifth of the start, for what typing has since Python 3.11.
_BOOT: Final = (
    f"import os, sys; os.fork() and os._exit(0); os.setsid(); os.closerange({LOCK_FD + 1}, os.sysconf('SC_OPEN_MAX')); "
    "sys.path += sys.argv[2:]; sys.modules['typing_extensions'] = None; "
    "from shmlease.registry.process import main; main(sys.argv[1])"
)
START_WITHIN_S: Final = 30.0
_TIMEVAL: Final = struct.Struct("@ll")


def launch(settings: Settings, lock_fd: int) -> None:
    """Start a registry process that goes on holding `lock_fd`, and wait until clients can connect.

    Parameters
    ----------
    settings : Settings
        How it is to run.
    lock_fd : int
        The registry's lock, held by this process; the caller closes its descriptor afterwards.

    Raises
    ------
    RegistryUnavailableError
        It did not start; the message has its last words.
    """
    try:
        interpreter = find_interpreter()
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            _spawn(interpreter, settings, lock_fd, theirs.fileno())
            theirs.close()
            words = _read_report(ours)
        finally:
            theirs.close()
            ours.close()
    except UnsupportedPlatformError as error:
        raise RegistryUnavailableError(f"the registry process cannot be started: {error}") from None
    except RegistryUnavailableError:  # an OSError, too
        raise
    except OSError as error:
        raise RegistryUnavailableError(f"the registry process cannot be started: {explained(error)}") from error
    if not words.endswith(b"ready"):
        last = words.decode(errors="replace").strip().splitlines()
        said = last[-1] if last else "it said nothing"
        raise RegistryUnavailableError(f"the registry process did not start: {said}{_low_limits()}")


def _low_limits() -> str:
    """Which limits of this process may have been why, in words."""
    low = shortfalls(own_limits(soft=True), ENOUGH_TO_START)
    return f"; the limits of this process, which a process that it starts inherits, are low: {low}" if low else ""


def _spawn(interpreter: str, settings: Settings, lock_fd: int, report_fd: int) -> None:
    """Start the process, and wait until it has forked the one that stays."""
    above: list[int] = []
    try:
        for fd in (lock_fd, report_fd):
            above.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOCK_FD + 1))
        lock, report = above
        pid = posix.posix_spawn(
            interpreter,
            [
                interpreter,
                "-I",
                "-S",
                "-c",
                _BOOT,
                msgspec.json.encode(settings).decode(),
                *places_of("shmlease", "msgspec"),
            ],
            environment_for(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, report, REPORT_FD),
                (os.POSIX_SPAWN_DUP2, report, 2),
                (os.POSIX_SPAWN_DUP2, lock, LOCK_FD),
            ],
            # Ctrl-C at the terminal is not meant for it: it unblocks what it handles when it serves, in its own session
            setsigmask=DEFAULT_SIGNALS,
            setsigdef=DEFAULT_SIGNALS,
        )
    finally:
        for fd in above:
            os.close(fd)
    try:
        posix.waitpid(pid, 0)
    except ChildProcessError:
        pass  # SIGCHLD is ignored, or somebody waits for every child


def _read_report(report: _socket.socket) -> bytes:
    """What the process says until it is ready or ends."""
    report.setblocking(True)
    report.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, _TIMEVAL.pack(*divmod(int(START_WITHIN_S * 1e6), 1_000_000)))
    words = b""
    while not words.endswith(b"ready"):
        try:
            piece = os.read(report.fileno(), 65536)
        except BlockingIOError:
            raise RegistryUnavailableError(f"the registry process did not start within {START_WITHIN_S:.0f} s") from None
        if not piece:
            break
        words += piece
    return words
