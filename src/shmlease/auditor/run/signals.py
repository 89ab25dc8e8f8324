"""Signals as data: blocked in this process, and read from a descriptor together with who sent them.

A signal from the terminal goes to the whole foreground process group, so the command has it already; one that another
process sent to this one alone is meant for the command and must be passed on.

Source: signalfd(2), sigaction(2) for the codes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

__all__ = ["PASSED_ON", "Received", "Signals"]

PASSED_ON: Final = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH}
)
_SIGSET_BYTES: Final = 128  # sigset_t of glibc and musl
_INFO_BYTES: Final = 128  # struct signalfd_siginfo
_INFO: Final = struct.Struct("=IiiI")  # signal, errno, code, pid
_SIG_DFL: Final = 0
_SIG_IGN: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
_libc.signal.restype = ctypes.c_void_p


@dataclass(frozen=True, slots=True)
class Received:
    """A signal, and whether a process sent it: not so those of the terminal and of the kernel."""

    number: int
    from_process: bool


class Signals:
    """Blocks the signals that are passed on, and SIGCHLD, for the duration of a `with`; `mask` is what was blocked before.

    Where SIGCHLD is ignored, it is not meanwhile: the system would bury the children, and with them their exit codes.
    """

    def __init__(self) -> None:
        self.mask: set[signal.Signals] = set()
        self._fd = -1
        self._is_ignored = False

    def __enter__(self) -> Self:
        blocked = PASSED_ON | {signal.SIGCHLD}
        self.mask = {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, blocked)}
        bits = sum(1 << (number - 1) for number in blocked)
        self._fd = _libc.signalfd(
            -1, bits.to_bytes(8, sys.byteorder).ljust(_SIGSET_BYTES, b"\0"), os.O_CLOEXEC | os.O_NONBLOCK
        )
        if self._fd < 0:
            number = ctypes.get_errno()
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
            raise OSError(number, os.strerror(number), "signalfd")
        self._is_ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
        if self._is_ignored:
            _libc.signal(signal.SIGCHLD, _SIG_DFL)  # not Python's, which is for the main thread alone
        return self

    def __exit__(self, *_: object) -> None:
        for _received in self.read():  # none is left pending, to strike when they are unblocked
            pass
        os.close(self._fd)
        if self._is_ignored:
            _libc.signal(signal.SIGCHLD, _SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._fd

    def read(self) -> Iterator[Received]:
        """The signals that have come since."""
        while True:
            try:
                info = os.read(self._fd, _INFO_BYTES * 16)
            except BlockingIOError:
                return
            for offset in range(0, len(info), _INFO_BYTES):
                number, _, code, _ = _INFO.unpack_from(info, offset)
                yield Received(number, from_process=code <= 0)  # SI_USER, SI_QUEUE, SI_TKILL
