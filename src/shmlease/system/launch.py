"""Starting a registry process: in a session of its own, nothing inherited, nobody's child."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from typing import Final

import msgspec

from shmlease.core.settings import Settings
from shmlease.errors import RegistryUnavailableError

__all__ = ["import_path", "launch"]

# The interpreter that the caller runs, with exactly its import path (-S: no site start-up, -I: no environment), so that
# the registry is up in some 40 ms. It forks once before it does anything: it is nobody's child, so that a user's
# os.wait() never meets it.
_BOOT: Final = (
    "import os, sys; os.fork() and os._exit(0); sys.path[:] = sys.argv.pop(1).split(chr(10)); "
    "from shmlease.registry.process import main; main(sys.argv[1:])"
)
START_WITHIN_S: Final = 30.0


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
    report_r, report_w = os.pipe2(os.O_CLOEXEC)
    command = [sys.executable, "-I", "-S", "-c", _BOOT, "\n".join(import_path())]
    try:
        with open(os.devnull, "rb") as null:
            process = subprocess.Popen(
                [*command, msgspec.json.encode(settings).decode(), str(lock_fd), str(report_w)],
                stdin=null,
                stdout=report_w,
                stderr=report_w,
                pass_fds=(lock_fd, report_w),
                start_new_session=True,
                cwd="/",
            )
        os.close(report_w)
        report_w = -1
        process.wait()
        words = b""
        report = select.poll()  # select() knows no descriptor beyond 1023
        report.register(report_r, select.POLLIN)
        while True:
            if not report.poll(START_WITHIN_S * 1000):
                raise RegistryUnavailableError(f"the registry process did not start within {START_WITHIN_S:.0f} s")
            piece = os.read(report_r, 65536)
            words += piece
            if not piece or words.endswith(b"ready"):
                break
    finally:
        os.close(report_r)
        if report_w >= 0:
            os.close(report_w)
    if not words.endswith(b"ready"):
        last = words.decode(errors="replace").strip().splitlines()
        raise RegistryUnavailableError(f"the registry process did not start: {last[-1] if last else 'it said nothing'}")


def import_path() -> list[str]:
    """Where this process imports from, with the places of shmlease and msgspec, however they were found."""
    import shmlease  # noqa: PLC0415 - the package is being imported when this module is

    path = [os.path.abspath(entry) for entry in sys.path]
    for package in (shmlease, msgspec):
        place = os.path.dirname(os.path.dirname(os.path.abspath(str(package.__file__))))
        if place not in path:
            path.append(place)
    return path
