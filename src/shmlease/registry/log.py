"""The registry's log, which nobody watches: in the directory of the registry, for its process has no standard streams.

`log` has lines of `logging`: what was reclaimed as warnings, what a caller was failed by as errors, and at level DEBUG
every row of the lease table that changed; SHMLEASE_LOG in the environment of whoever starts a registry names the level. A
log that has grown to its bound becomes `log.old`, in place of the one before. Both go with the directory.

`crash` has what the interpreter says when a signal such as SIGSEGV ends it; the successor records it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
from typing import TYPE_CHECKING, Final

from shmlease.core.model import Change, EventKind, EventRow
from shmlease.core.work_units import Unit
from shmlease.errors import PermissionDeniedError
from shmlease.system import syscalls
from shmlease.system.directory import RegistryDirectory
from shmlease.system.safe_open import create_regular, open_regular, read_regular

if TYPE_CHECKING:
    import logging

__all__ = ["ENVIRONMENT", "LOG_NAME", "SILENT", "RegistryLog", "SilentLog", "in_words"]

ENVIRONMENT: Final = "SHMLEASE_LOG"
LOG_NAME: Final = "log"
_CRASH_NAME: Final = "crash"
_LIMIT_BYTES: Final = 256 * 1024
# A traceback of some twenty frames; what is longer keeps its end, where the error is.
_TRACEBACK_CHARACTERS: Final = 3_500
_WORDS_CHARACTERS: Final = 500
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
# What is not listed was reclaimed or lost, or is about to be: a warning.
_LEVEL_OF: Final = {
    EventKind.REQUEST_REFUSED: "ERROR",
    EventKind.CLIENT_DROPPED: "ERROR",
    EventKind.RETIRE_FAILED: "ERROR",
    EventKind.FAULT: "ERROR",
    EventKind.TAKEOVER: "INFO",
    EventKind.HANDED_OVER: "INFO",
    EventKind.WRITER_ABANDONED: "INFO",  # of its own will; that it died is an event of its own
    EventKind.VIEW_DIED: "DEBUG",
}


class SilentLog:
    """A log that keeps nothing: of a registry whose event log is all there is."""

    def changed(self, change: Change) -> None:
        """A change was committed to the lease table."""

    def committed(self, changes: list[Change]) -> None:
        """`changes` were committed to the lease table."""

    def fault(self, error: Exception, unit: Unit | None) -> str:
        """What the event log is to have about `error`, which ends this process: one line, and below it the traceback."""
        import traceback  # noqa: PLC0415 - not needed until something goes wrong

        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = "".join(traceback.format_exception(error))[-_TRACEBACK_CHARACTERS:]
        what = f"{type(error).__name__}: {error}"[:_WORDS_CHARACTERS].replace("\n", " ")
        at_work = "" if unit is None else f", at work on {unit}"
        return f"{what} ({frame.filename}:{frame.lineno} in {frame.name}){at_work}{self._place()}\n{text}"

    def watch_for_crashes(self) -> str:
        """Have what the interpreter says at its end written down; what a predecessor said at its end, or nothing."""
        return ""

    def close(self) -> None:
        """Stop watching."""

    def _place(self) -> str:
        return ""


class RegistryLog(SilentLog):
    """The log of the registry in `directory`.

    Parameters
    ----------
    directory : RegistryDirectory
        Of the registry whose lock this process holds.
    level : str
        The least level that is written.
    echo : bool
        Also to standard error, for a registry in the foreground.
    """

    def __init__(self, directory: RegistryDirectory, level: str = "WARNING", *, echo: bool = False) -> None:
        self._directory = directory
        self._level = level.upper() if level.upper() in _LEVELS else "WARNING"
        self._echo = echo
        self._crash_fd = -1

    @functools.cached_property
    def _logger(self) -> logging.Logger:
        import logging  # noqa: PLC0415 - a registry starts a fifth faster without, and most have nothing to say

        logging.raiseExceptions = False  # a full /dev/shm ends no registry
        logger = logging.getLogger("shmlease.registry")
        logger.setLevel(self._level)
        logger.propagate = False
        if self._echo:
            logger.addHandler(logging.StreamHandler())
        into_file = logging.StreamHandler(_BoundedFile(self._directory))
        into_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s pid %(process)d: %(message)s"))
        logger.addHandler(into_file)
        return logger

    def changed(self, change: Change) -> None:
        """A change was committed to the lease table."""
        if isinstance(change, EventRow):
            level = _LEVEL_OF.get(change.kind, "WARNING")
            if _LEVELS.index(level) >= _LEVELS.index(self._level):
                self._write(level, in_words(change))
        elif self._level == "DEBUG":
            self._write("DEBUG", repr(change))

    def committed(self, changes: list[Change]) -> None:
        """`changes` were committed to the lease table."""
        is_verbose = self._level == "DEBUG"
        for change in changes:
            if is_verbose or type(change) is EventRow:
                self.changed(change)

    def watch_for_crashes(self) -> str:
        """Have what the interpreter says at its end written down; what a predecessor said at its end, or nothing."""
        with contextlib.suppress(OSError), self._directory.entered() as directory:
            said = b""
            with contextlib.suppress(OSError, PermissionDeniedError):
                said = read_regular(_CRASH_NAME, _LIMIT_BYTES, directory=directory)
            with contextlib.suppress(FileNotFoundError):
                syscalls.unlink(_CRASH_NAME, dir_fd=directory)
            self._crash_fd = create_regular(_CRASH_NAME, directory=directory)
            faulthandler.enable(self._crash_fd)
            if said:
                text = said.decode(errors="replace")[:_TRACEBACK_CHARACTERS]
                what = text.partition("\n")[0]
                return f"{what}{self._place()}\n{text}"
        return ""

    def close(self) -> None:
        """Stop watching."""
        if self._crash_fd >= 0:
            faulthandler.disable()
            syscalls.close(self._crash_fd)
            self._crash_fd = -1

    def _place(self) -> str:
        return f"; see {self._directory.path}/{LOG_NAME}"

    def _write(self, level: str, message: str) -> None:
        import logging  # noqa: PLC0415 - see `_logger`

        self._logger.log(logging.getLevelNamesMapping()[level], "%s", message)


class _BoundedFile:
    """The file `log`, as a stream that stays within its bound."""

    def __init__(self, directory: RegistryDirectory) -> None:
        self._directory = directory

    def write(self, text: str) -> None:
        """Append; opened for each line: there are few, and a descriptor kept is one less for clients."""
        with self._directory.entered() as directory:
            try:
                descriptor = create_regular(LOG_NAME, directory=directory)
            except FileExistsError:
                descriptor = open_regular(LOG_NAME, os.O_WRONLY, directory=directory)
            try:
                size_bytes = syscalls.fstat(descriptor).st_size
                syscalls.pwrite(descriptor, text.encode(errors="backslashreplace"), size_bytes)
            finally:
                syscalls.close(descriptor)
            if size_bytes + len(text) > _LIMIT_BYTES:
                syscalls.rename(LOG_NAME, f"{LOG_NAME}.old", src_dir_fd=directory, dst_dir_fd=directory)

    def flush(self) -> None:
        """Nothing is held back."""


def in_words(event: EventRow) -> str:
    """An event in one text: what, of which segment, lease and client, and its details."""
    of = ((name, getattr(event, name)) for name in ("segment", "client"))
    about = ", ".join(f"{name} {number}" for name, number in of if number)
    return f"{event.kind}{f' ({about})' if about else ''}{f': {event.detail}' if event.detail else ''}"


SILENT: Final = SilentLog()
