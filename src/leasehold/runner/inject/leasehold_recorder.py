"""Records, inside any Python program, where in its code it makes shared-memory segments.

This runs in other people's programs, perhaps under another Python than leasehold's own. So it imports nothing but built-in
modules, changes nothing that the program could see, keeps no descriptor open, and never raises: a record that cannot be written
is lost. The kernel's audit events tell of the segment:

- `os.truncate` on a descriptor: its maker gives it a size (`shm_open` itself has no audit event);
- `mmap.__new__`: somebody maps it, its maker first;
- `open` with O_CREAT of a path in shared memory: a file that may be written without ever being mapped.

One line for each, appended to the file that the environment names; its form is read by `leasehold.runner.records`.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False  # importing typing would cost every program some milliseconds
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any

ENVIRONMENT = "LEASEHOLD_RECORDS"
SHM = "/dev/shm"
SEPARATOR = "\x1f"
# Innermost frames: enough to get from multiprocessing through a library to the caller's own code.
MAX_FRAMES = 24
# What bounds the memory of a program that maps new segments for ever.
_MAX_SEEN = 65536
_MAX_STACKS = 4096


class Recorder:
    """Appends what this process does with shared memory to `path`; `is_active` can be turned off and on."""

    def __init__(self, path: str, shm: str = SHM) -> None:
        self.path = path
        self.is_active = True
        self._below = shm + "/"
        self._device = os.stat(shm).st_dev
        self._seen: set[int] = set()
        # (code and instruction of each frame) -> id; the code is kept with it, so that its address stands for nothing else
        self._stacks: dict[tuple[int, ...], tuple[str, list[CodeType]]] = {}
        self._count = 0
        self._announced = 0
        self._handlers = {"mmap.__new__": self._mapped, "os.truncate": self._sized, "open": self._opened}
        os.register_at_fork(after_in_child=self._seen.clear)

    def install(self) -> None:
        """Begin to record; an audit hook cannot be removed."""
        handlers = self._handlers

        # called for every audit event of the program: a plain function costs it a third of what a method would
        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in handlers and self.is_active:
                try:
                    handlers[event](arguments)
                except Exception:  # noqa: S110 - whatever it was, the program's call goes on
                    pass

        sys.addaudithook(hook)

    def write(self, kind: str, inode: int, size: int, name: str, frame: FrameType | None = None) -> None:
        """Append one record, with the stack that begins at `frame`."""
        pid = os.getpid()
        lines: list[tuple[str, ...]] = []
        if self._announced != pid:
            lines.append(("process", str(pid), " ".join(getattr(sys, "orig_argv", None) or sys.argv)))
        stack, definition = self._stack(pid, frame)
        if definition:
            lines.append(definition)
        test = os.environ.get("PYTEST_CURRENT_TEST", "") if "pytest" in sys.modules else ""
        lines.append((kind, str(time.time_ns()), str(pid), str(inode), str(size), name, test, stack))
        text = "".join([SEPARATOR.join(line).replace("\n", " ") + "\n" for line in lines])
        try:
            # opened each time: a descriptor kept could be closed and its number reused by the program
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                os.write(descriptor, text.encode("utf-8", "surrogateescape"))
                self._announced = pid
            finally:
                os.close(descriptor)
        except OSError:
            pass  # the program has another root, another user, or outlived the audit

    def _stack(self, pid: int, frame: FrameType | None) -> tuple[str, tuple[str, ...]]:
        """The id of the stack that begins at `frame`, and the line that defines it if it is new."""
        first = frame
        key: list[int] = []
        for _ in range(MAX_FRAMES):
            if frame is None:
                break
            key += id(frame.f_code), frame.f_lasti
            frame = frame.f_back
        known = self._stacks.get(tuple(key))
        if known is not None:
            return known[0], ()
        if len(self._stacks) >= _MAX_STACKS:
            self._stacks.clear()
        self._count += 1
        name = f"{pid}.{self._count}"
        fields = ["stack", name]
        codes: list[CodeType] = []
        frame = first
        for _ in range(len(key) // 2):
            assert frame is not None
            code = frame.f_code
            codes.append(code)
            fields += code.co_filename, str(frame.f_lineno), getattr(code, "co_qualname", code.co_name)
            frame = frame.f_back
        self._stacks[tuple(key)] = name, codes
        return name, tuple(fields)

    def _mapped(self, arguments: tuple[Any, ...]) -> None:
        if arguments[0] >= 0:
            self._record("map", arguments[0], 0)

    def _sized(self, arguments: tuple[Any, ...]) -> None:
        if isinstance(arguments[0], int):
            self._record("size", *arguments)

    def _opened(self, arguments: tuple[Any, ...]) -> None:
        path, _, flags = arguments
        if isinstance(flags, int) and flags & os.O_CREAT and not isinstance(path, int):
            path = os.fsdecode(path)
            if path.startswith(self._below):
                self.write("open", 0, 0, path, sys._getframe(2))

    def _record(self, kind: str, descriptor: int, size: int) -> None:
        status = os.fstat(descriptor)
        if status.st_dev != self._device or status.st_ino in self._seen:
            return
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        self._seen.add(status.st_ino)
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        self.write(kind, status.st_ino, size or status.st_size, name, sys._getframe(3))


def record_reaping(recorder: Recorder) -> None:
    """Record what this process removes, if it is the resource tracker of multiprocessing."""
    command = getattr(sys, "orig_argv", ())
    if not any("multiprocessing.resource_tracker import main" in argument for argument in command):
        return
    from multiprocessing import resource_tracker  # noqa: PLC0415 - what this process is about to import itself

    cleaners = getattr(resource_tracker, "_CLEANUP_FUNCS", {})
    unlink = cleaners.get("shared_memory")
    if unlink is None:
        return

    def unlink_and_record(name: str) -> None:
        unlink(name)
        recorder.write("reap", 0, 0, SHM + "/" + name.lstrip("/"))

    cleaners["shared_memory"] = unlink_and_record


def start() -> None:
    """Record in this process, if the environment says where to."""
    path = os.environ.get(ENVIRONMENT)
    if path and hasattr(sys, "addaudithook"):
        recorder = Recorder(path)
        recorder.install()
        record_reaping(recorder)
