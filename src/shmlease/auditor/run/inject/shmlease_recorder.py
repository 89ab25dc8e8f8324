"""Records, inside any Python program, where in its code it makes shared-memory segments.

This runs in other people's programs, perhaps under another Python than shmlease's own. So it imports nothing but built-in
modules and its own file's, changes nothing that the program could see, keeps no descriptor open, and never raises: a record
that cannot be written is lost. The kernel's audit events tell of the segment:

- `os.truncate` on a descriptor: its maker gives it a size (`shm_open` itself has no audit event);
- `mmap.__new__`: somebody maps it, its maker first;
- `open` with O_CREAT of a path in shared memory: a file that may be written without ever being mapped;
- `os.link` to a path in shared memory: a lease is given its own name there.

One line for each, written to the file that the environment names; its form is read by `shmlease.auditor.run.records`.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False  # importing typing would cost every program some milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

if TYPE_CHECKING or __package__:
    from shmlease.auditor.run.inject.shmlease_record_file import RecordFile
else:  # in a program that knows nothing of shmlease
    from shmlease_record_file import RecordFile

ENVIRONMENT = "SHMLEASE_RECORDS"
SHM = "/dev/shm"
SEPARATOR = "\x1f"
# Innermost frames: enough to get from multiprocessing through a library to the caller's own code.
MAX_FRAMES = 24
# What bounds the memory of a program that maps new segments for ever.
_MAX_SEEN = 65536
_MAX_STACKS = 4096
# kind, time, pid, inode, size, path, test, id of the stack
_FORM = SEPARATOR.join(("%b", "%d", "%d", "%d", "%d", "%b", "%b", "%b\n")).encode()


class Recorder:
    """Writes what this process does with shared memory to `path`, until it has ended."""

    def __init__(self, path: str, shm: str = SHM) -> None:
        self._file = RecordFile(path)
        self.is_active = True
        self._shm = shm
        self._device = os.stat(shm).st_dev
        self._seen: set[int] = set()
        # A descriptor is mapped right after its file was given a size: it need not be looked at twice. Were it closed
        # instead, and another segment, of no size yet, opened under its number, then that one's mapping would go unseen.
        self._sized = [-1]  # what is known to be mapped next
        # (code and instruction of each frame) -> id; the code is kept with it, so that its address stands for nothing else
        self._stacks: dict[tuple[int, ...], tuple[bytes, list[CodeType]]] = {}
        self._count = 0
        self._pid = os.getpid()
        self._is_announced = False
        os.register_at_fork(after_in_child=self._begin_in_child)

    def install(self) -> None:
        """Begin to record; an audit hook cannot be removed."""
        sys.addaudithook(self._hook())

    def begin_again(self, path: str) -> None:
        """Record in `path`, as a new recorder would."""
        self._device = os.stat(self._shm).st_dev
        self._begin(path)
        self.is_active = True

    def end(self) -> None:
        """Record nothing from now on, until `begin_recording` takes it up again."""
        self.is_active = False
        _ended.append(self)

    def write(self, kind: str, inode: int, size: int, name: str, frame: FrameType | None = None) -> None:
        """Write one record, with the stack that begins at `frame`."""
        if os.getpid() != self._pid:
            self._begin_in_child()
        stack = self._stack(frame)
        encoded = name.encode("utf-8", "surrogateescape").replace(b"\n", b" ")
        self._write(_FORM % (kind.encode(), time.time_ns(), self._pid, inode, size, encoded, _test(), stack))

    def _write(self, line: bytes) -> None:
        file = self._file
        try:
            file.put(line)
        except ValueError:
            file.append(line)

    def _hook(self) -> Callable[[str, tuple[Any, ...]], None]:  # noqa: PLR0915 - the text below says why it is so long
        """What is called for every audit event of the program.

        A segment of one page is made in some ten microseconds. So the hook asks first what is cheapest, keeps what it needs
        in variables of its own, and does itself what would read better as methods, which take half as long again. Of what
        is left (measured by leaving parts out), the call of the hook and `fstat` are a third, and the write another.
        """
        shm, create = self._shm.encode(), os.O_CREAT
        seen, stacks, sized, modules = self._seen, self._stacks, self._sized, sys.modules
        status_of, get_frame, get_pid, now = os.fstat, sys._getframe, os.getpid, time.time_ns
        kept, form = 2 * MAX_FRAMES, _FORM
        constructor = None  # the code of `SharedMemory.__init__`

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal constructor
            try:
                if event == "mmap.__new__":
                    descriptor, kind, size = arguments[0], b"map", 0
                    if descriptor == sized[0]:
                        sized[0] = -1
                        return
                    if descriptor < 0:
                        return
                elif event == "os.truncate":
                    kind, (descriptor, size) = b"size", arguments
                elif event == "open":
                    flags = arguments[2]  # our own, when a record is written, come here as well
                    if flags.__class__ is int and flags & create and self.is_active:
                        self._opened("open", arguments[0], get_frame(1))
                    return
                else:
                    if event == "os.link" and self.is_active:
                        self._opened("link", arguments[1], get_frame(1))
                    return
                if not self.is_active:
                    return
                status = status_of(descriptor)
                inode = status.st_ino
                if status.st_dev != self._device or inode in seen:
                    return
                if get_pid() != self._pid:  # a fork that Python does not know of
                    self._begin_in_child()
                if len(seen) >= _MAX_SEEN:
                    seen.clear()
                seen.add(inode)
                sized[0] = descriptor if size else -1
                maker = get_frame(1)
                code = maker.f_code
                # The kernel makes an entry of /proc for each new descriptor when it is asked for its path, which takes
                # longer than all else here; the constructor of `SharedMemory`, which makes most segments of most programs,
                # knows it.
                if code is constructor:
                    name = shm + maker.f_locals["self"]._name.encode("utf-8", "surrogateescape")
                else:
                    name = os.fsencode(os.readlink(f"/proc/self/fd/{descriptor}"))
                    if code.co_name == "__init__" and code.co_filename.endswith("/multiprocessing/shared_memory.py"):
                        constructor = code
                key: tuple[int, ...] = (id(code), maker.f_lasti)
                frame = maker.f_back
                while frame is not None and len(key) < kept:
                    key += id(frame.f_code), frame.f_lasti
                    frame = frame.f_back
                known = stacks.get(key)
                stack = known[0] if known is not None else self._define(key, maker)
                test, size = _test() if "pytest" in modules else b"", size or status.st_size
                line = form % (kind, now(), self._pid, inode, size, name.replace(b"\n", b" "), test, stack)
                file = self._file
                try:
                    file.put(line)
                except ValueError:
                    file.append(line)
            except Exception:  # noqa: S110 - whatever it was, the program's call goes on
                pass

        return hook

    def _opened(self, kind: str, path: Any, frame: FrameType) -> None:
        """Record that `path` is opened to be made, or linked, if it is in shared memory."""
        path = os.fsdecode(path)
        if path.startswith(self._shm + "/"):
            self.write(kind, 0, 0, path, frame)

    def _stack(self, frame: FrameType | None) -> bytes:
        """The id of the stack that begins at `frame`."""
        first = frame
        key: tuple[int, ...] = ()
        while frame is not None and len(key) < 2 * MAX_FRAMES:
            key += id(frame.f_code), frame.f_lasti
            frame = frame.f_back
        known = self._stacks.get(key)
        return known[0] if known is not None else self._define(key, first)

    def _define(self, key: tuple[int, ...], frame: FrameType | None) -> bytes:
        """Write what stack begins at `frame`, and in a new process which one it is; the id of the stack."""
        lines = b""
        if not self._is_announced:
            command = " ".join(getattr(sys, "orig_argv", None) or sys.argv)
            lines = _line("process", str(self._pid), command)
            self._is_announced = True
        self._count += 1
        name = f"{self._pid}.{self._count}"
        fields: list[str] = []
        codes: list[CodeType] = []
        while frame is not None and len(codes) < MAX_FRAMES:
            code = frame.f_code
            codes.append(code)
            fields += code.co_filename, str(frame.f_lineno), getattr(code, "co_qualname", code.co_name)
            frame = frame.f_back
        self._write(lines + _line("stack", name, *fields))
        if len(self._stacks) >= _MAX_STACKS:
            self._stacks.clear()
        self._stacks[key] = name.encode(), codes
        return name.encode()

    def _begin_in_child(self) -> None:
        self._begin(self._file.path)

    def _begin(self, path: str) -> None:
        self._file = RecordFile(path)
        self._seen.clear()
        self._stacks.clear()
        self._sized[0] = -1
        self._pid = os.getpid()
        self._is_announced = False


def _line(*fields: str) -> bytes:
    return SEPARATOR.join(fields).replace("\n", " ").replace("\0", " ").encode("utf-8", "surrogateescape") + b"\n"


def _test() -> bytes:
    test = os.environ.get("PYTEST_CURRENT_TEST", "") if "pytest" in sys.modules else ""
    return test.encode("utf-8", "surrogateescape").replace(b"\n", b" ")


_ended: list[Recorder] = []


def begin_recording(path: str) -> Recorder:
    """A recorder that is at work: one that has ended, if there is one, for its hook is called for ever."""
    try:
        recorder = _ended.pop()
    except IndexError:
        recorder = Recorder(path)
        recorder.install()
    else:
        recorder.begin_again(path)
    return recorder


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


def start() -> Recorder | None:
    """Record in this process, if the environment says where to."""
    path = os.environ.get(ENVIRONMENT)
    if not path or not hasattr(sys, "addaudithook"):
        return None
    recorder = Recorder(path)
    recorder.install()
    record_reaping(recorder)
    return recorder
