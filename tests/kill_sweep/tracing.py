"""ptrace(2), as much of it as it takes to kill a process at its n-th system call.

Each process that is traced stops twice for each call: at its entry, where a SIGKILL keeps the call from being carried out,
and at its exit, where it has been carried out and the process does not know it. Processes that it starts can be traced with
it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from typing import Final

__all__ = ["WALL", "Tracer", "ask_to_be_traced", "is_possible"]

_TRACEME, _CONT, _SYSCALL, _SETOPTIONS, _SEIZE, _INTERRUPT = 0, 7, 24, 0x4200, 0x4206, 0x4207
_GET_SYSCALL_INFO: Final = 0x420E
_INFO: Final = struct.Struct("=B3xIQQQ")  # op, arch, instruction pointer, stack pointer, number of the call (at its entry)
WALL: Final = 0x40000000  # waitpid: also for processes that were cloned without SIGCHLD
_O_TRACESYSGOOD, _O_EXITKILL = 0x1, 0x100000
_O_FOLLOW: Final = 0x2 | 0x4 | 0x8 | 0x10  # fork, vfork, clone, and exec, which would bring a SIGTRAP otherwise
_SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace request {request:#x} of process {pid}: {os.strerror(number)}")


def ask_to_be_traced() -> None:
    """Called by the process that is to be traced by its parent: it goes on when the tracer lets it."""
    _ptrace(_TRACEME, 0)
    os.kill(os.getpid(), signal.SIGSTOP)


def is_possible() -> bool:
    """Whether this system lets a process trace its child."""
    pid = os.fork()
    if pid == 0:
        try:
            ask_to_be_traced()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        return False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


class Tracer:
    """Counts the stops of the processes that it traces, and kills the one that makes the n-th.

    Parameters
    ----------
    kill_at : int
        Which stop, counted from 1; 0 to kill nobody.
    follow : bool
        Whether what the traced process starts is traced as well.
    """

    def __init__(self, kill_at: int, *, follow: bool = False) -> None:
        self.stops = 0
        self.killed = 0  # the pid
        self.place = ""  # which call it was
        self._kill_at = kill_at
        self._options = _O_TRACESYSGOOD | _O_EXITKILL | (_O_FOLLOW if follow else 0)
        self._traced: set[int] = set()
        self._process_of: dict[int, int] = {}  # what is traced is threads, what is killed is processes

    def adopt(self, pid: int) -> None:
        """Trace a child that has asked for it."""
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            raise ChildProcessError(f"process {pid} ended before it could be traced")
        _ptrace(_SETOPTIONS, pid, 0, self._options)
        self._traced.add(pid)
        _ptrace(_SYSCALL, pid)

    def seize(self, pid: int) -> None:
        """Trace a process that runs; from its next stop on it is counted."""
        _ptrace(_SEIZE, pid, 0, self._options)
        self._traced.add(pid)
        _ptrace(_INTERRUPT, pid)

    def handle(self, pid: int, status: int) -> bool:
        """Deal with what waitpid gave; False if that is the end of a process, which is for the caller."""
        if not os.WIFSTOPPED(status):
            self._traced.discard(pid)
            return False
        reason, is_known = status >> 8, pid in self._traced
        if not is_known:
            self._traced.add(pid)
            self._process_of[pid] = _process_of(pid)
        if reason == _SYSCALL_STOP:
            self.stops += 1
            if self.stops == self._kill_at:
                self.killed, self.place = self.process_of(pid), _place(pid)
                os.kill(pid, signal.SIGKILL)
                return True
        # a stop of ptrace's own, or the first of one that was followed, brings no signal to deliver
        is_signal = is_known and reason != _SYSCALL_STOP and reason >> 8 == 0
        try:
            _ptrace(_CONT if self.killed else _SYSCALL, pid, 0, reason if is_signal else 0)
        except ProcessLookupError:  # killed meanwhile
            pass
        return True

    def process_of(self, thread: int) -> int:
        """The process that a thread belongs to, or belonged to."""
        return self._process_of.get(thread, thread)


def _process_of(thread: int) -> int:
    """The process of a thread that is stopped."""
    with open(f"/proc/{thread}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))


def _place(pid: int) -> str:
    data = ctypes.create_string_buffer(88)
    if _libc.ptrace(_GET_SYSCALL_INFO, pid, len(data), ctypes.addressof(data)) < _INFO.size:
        return "a system call"
    operation, _, _, _, number = _INFO.unpack_from(data)
    return f"the entry of system call {number}" if operation == 1 else "the exit of a system call"
