"""Ends what a test run has started when the run itself has ended, however that was: also after a SIGKILL.

The guardian is a process in a session of its own that waits for the end of the one that started it, a test runner or a
worker of xdist. Then it kills, until nothing is found any more, each process

- whose environment carries the run's mark,
- which has the run's pipe open: forked without exec, it has no environment of its own to be known by,
- or which is in the run's private mount namespace, whatever it did to its environment and descriptors.

Mounts and /dev/shm of the namespace vanish with its last process; the run's directory for temporary files is removed. Where
the system gives no private /dev/shm, the directories of the registries that were killed are removed by their ids.

It needs nothing but the standard library, and starts without site, so that a run is guarded some 20 ms after its start.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

__all__ = ["die_with_parent", "guard"]

_PR_SET_PDEATHSIG = 1
_SHM = "/dev/shm"
_REGISTRY_ID = re.compile(rb'"id":"([^"/]+)"')
# A process in uninterruptible sleep dies when the kernel lets it; the guardian does not wait for ever.
_GIVE_UP_S = 60.0


def guard(mark: str, *, directory: str = "", is_private: bool = False) -> None:
    """Have a guardian watch over this process.

    Parameters
    ----------
    mark : str
        The entry ``NAME=value`` in the environment of all that this run starts.
    directory : str
        What to remove at the end; nothing if empty.
    is_private : bool
        Whether this process is in a mount namespace of its own.
    """
    theirs, _ours = os.pipe2(os.O_CLOEXEC)  # ours stays open, here and in every child that is forked and runs on
    this = os.pidfd_open(os.getpid())
    subprocess.run(  # it forks: the guardian is nobody's child, so that no test that counts its children meets it
        [sys.executable, "-I", "-S", __file__, str(this), mark, directory, "private" if is_private else ""],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[this],
        start_new_session=True,
        cwd="/",
        check=True,
    )
    os.close(theirs)
    os.close(this)


def die_with_parent() -> None:
    """SIGKILL this process when the one that started it has ended."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


class _Run:
    """What a process of the run is known by."""

    def __init__(self, mark: str, *, is_private: bool) -> None:
        self._mark = mark.encode()
        self._pipe = os.fstat(0).st_ino
        self._namespace = os.readlink("/proc/self/ns/mnt") if is_private else None

    def processes(self) -> Iterator[int]:
        """Those that are there now, this one left out."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if int(pid) != os.getpid() and self._has(pid):
                    yield int(pid)
            except OSError:  # it has ended, or is another user's
                continue

    def _has(self, pid: str) -> bool:
        if self._namespace is not None and os.readlink(f"/proc/{pid}/ns/mnt") == self._namespace:
            return True
        with open(f"/proc/{pid}/environ", "rb") as file:
            if self._mark in file.read().split(b"\0"):
                return True
        return any(self._is_pipe(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))

    def _is_pipe(self, link: str) -> bool:
        return os.readlink(link) == f"pipe:[{self._pipe}]"


def _main(guarded: int, mark: str, directory: str, private: str) -> None:
    if os.fork():
        os._exit(0)
    run = _Run(mark, is_private=bool(private))
    select.select([guarded], [], [])  # until it has ended
    registries: set[bytes] = set()
    deadline = time.monotonic() + _GIVE_UP_S
    while (found := list(run.processes())) and time.monotonic() < deadline:
        for process in found:
            registries |= _registries(process)
            try:
                os.kill(process, signal.SIGKILL)
            except OSError:  # it has ended, or is another user's
                continue
        time.sleep(0.01)
    if not private:
        _remove_registries(registries)
    if directory:
        shutil.rmtree(directory, ignore_errors=True)


def _registries(pid: int) -> set[bytes]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read()
    except OSError:
        return set()
    return set(_REGISTRY_ID.findall(command)) if b"shmlease.registry" in command else set()


def _remove_registries(ids: set[bytes]) -> None:
    for name in os.listdir(_SHM):
        for id in map(bytes.decode, ids):
            if name == f"shmlease-{id}":
                shutil.rmtree(f"{_SHM}/{name}", ignore_errors=True)
            elif re.fullmatch(rf"shmlease-{re.escape(id)}-\d+", name):
                os.unlink(f"{_SHM}/{name}")


if __name__ == "__main__":
    _main(int(sys.argv[1]), *sys.argv[2:])
