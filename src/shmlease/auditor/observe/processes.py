"""Who holds what: the processes of the system, and the shared-memory files that they map or have open.

Read for each process, and for each thread that has a descriptor table of its own or outlives the leader of its process.
Processes that could not be read are counted: what they hold is unknown.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from shmlease.auditor.judge.evidence import Hold, Key, ProcessFacts, Root
from shmlease.auditor.judge.findings import Fact
from shmlease.auditor.observe.namespaces import mount_namespace
from shmlease.auditor.observe.procfs import (
    MapEntry,
    ProcessStat,
    device_number,
    parse_descriptor_info,
    parse_maps,
    parse_smaps_resident,
    parse_stat,
)
from shmlease.auditor.observe.statx import statx

__all__ = ["ProcessScan", "command_line", "descriptors_in_transit", "scan_processes"]

_KTHREAD: Final = 0x00200000  # PF_KTHREAD of linux/sched.h: a kernel thread holds no segment
_DEAD: Final = frozenset({"Z", "X"})
_KCMP_FILES: Final = 2
_KCMP: Final = {"x86_64": 312, "aarch64": 272, "riscv64": 272}.get(platform.machine())
_DELETED: Final = " (deleted)"
_COMMAND_BYTES: Final = 512  # enough to recognize a command by
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class ProcessScan:
    """The live processes, what each holds on the devices asked for, and those whose holdings could not be read."""

    processes: dict[int, ProcessFacts] = field(default_factory=dict)
    holds: dict[Key, list[Hold]] = field(default_factory=dict)
    unreadable: list[int] = field(default_factory=list)


class _Held(msgspec.Struct):
    """What one process holds of one file, gathered from its maps and descriptors."""

    how: list[str]
    source: str
    path: str
    unlinked: bool
    size_bytes: int
    resident_bytes: int | None = None
    is_exact: bool = False
    born_ns: int | None = None
    mapped_at: tuple[int, ...] = ()

    def hold_of(self, pid: int) -> Hold:
        return Hold(
            pid=pid,
            how=", ".join(self.how),
            source=self.source,
            path=self.path,
            unlinked=self.unlinked,
            size_bytes=self.size_bytes,
            resident_bytes=self.resident_bytes,
            is_exact=self.is_exact,
            born_ns=self.born_ns,
            mapped_at=self.mapped_at,
        )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The devices asked for, as they appear in maps, and where they are mounted in our mount namespace."""

    devices: Collection[int]
    numbers: tuple[bytes, ...]
    lines: re.Pattern[bytes]  # of maps, that map one of them
    prefixes: tuple[str, ...]
    namespace: int


def scan_processes(roots: Iterable[Root], proc: str = "/proc") -> ProcessScan:
    """Every live process, with its holds on the files of `roots`."""
    known = list(roots)
    devices = {root.device for root in known}
    numbers = tuple(device_number(device).encode() for device in devices)
    lines = re.compile(rb"^\S+ \S+ \S+ (?:%b) .*$" % b"|".join(numbers), re.MULTILINE)
    prefixes = tuple(f"{root.path}/" for root in known)
    wanted = _Wanted(devices, numbers, lines, prefixes, mount_namespace(proc, "self"))
    scan = ProcessScan()
    for name in os.listdir(proc):
        if name.isdigit():
            try:
                _scan_process(scan, proc, int(name), wanted)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended since it was listed
    return scan


def _scan_process(scan: ProcessScan, proc: str, pid: int, wanted: _Wanted) -> None:
    base = f"{proc}/{pid}"
    facts = parse_stat(_read(f"{base}/stat").decode("utf-8", "replace"))
    if facts.flags & _KTHREAD or (facts.state in _DEAD and facts.threads <= 1):
        return
    namespace, owner = mount_namespace(proc, pid), os.stat(base).st_uid
    held = _holdings(scan, proc, facts, wanted, is_at_home=namespace == wanted.namespace)
    command = (command_line(proc, pid) if held else "") or facts.command
    scan.processes[pid] = ProcessFacts(pid, facts.start_ticks, facts.parent, owner, command, namespace)
    for key, one in held.items():
        scan.holds.setdefault(key, []).append(one.hold_of(pid))


def _holdings(scan: ProcessScan, proc: str, facts: ProcessStat, wanted: _Wanted, *, is_at_home: bool) -> dict[Key, _Held]:
    """What a process holds. A thread that ends while it is read takes nothing away: the process counts as alive."""
    base = f"{proc}/{facts.pid}"
    held: dict[Key, _Held] = {}
    are_maps_read = False
    try:
        tasks = [base] if facts.threads <= 1 else list(_tasks(proc, facts.pid, facts.state in _DEAD))
        for task in tasks:
            try:
                thread = "" if task == base else task.rpartition("/")[2]
                _read_descriptors(task, held, wanted, thread, is_at_home=is_at_home)
                if not are_maps_read:  # threads share their mappings
                    _read_maps(task, held, wanted)
                    are_maps_read = True
            except (FileNotFoundError, ProcessLookupError):
                continue
    except PermissionError:
        scan.unreadable.append(facts.pid)
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended before its threads were listed
    return held


def _tasks(proc: str, pid: int, is_zombie: bool) -> Iterator[str]:
    """The process itself, and each thread with descriptors of its own; a dead leader is represented by its threads."""
    base = f"{proc}/{pid}"
    can_compare = _KCMP is not None and proc == "/proc"  # a copy of a /proc has no kernel to ask
    tables: list[int] = []
    if not is_zombie:
        tables.append(pid)
        yield base
    for name in os.listdir(f"{base}/task"):
        thread = int(name)
        if thread != pid and not (can_compare and any(_share_descriptors(known, thread) for known in tables)):
            tables.append(thread)
            yield f"{base}/task/{thread}"


def _share_descriptors(one: int, other: int) -> bool:
    """Whether two threads share one descriptor table; assumed not to where the kernel refuses to say: reading twice is
    harmless.
    """
    return bool(_libc.syscall(_KCMP, one, other, _KCMP_FILES, 0, 0) == 0)


def _read_descriptors(task: str, held: dict[Key, _Held], wanted: _Wanted, thread: str, *, is_at_home: bool) -> None:
    for number in os.listdir(f"{task}/fd"):
        link = f"{task}/fd/{number}"
        try:
            path = _target(link)
            if not path.startswith("/"):
                continue  # a pipe, a socket, an anonymous inode
            # what a path means is known in our own mount namespace only; and a file elsewhere may be on a dead server
            is_elsewhere = is_at_home and path != link and not path.startswith(wanted.prefixes)
            if is_elsewhere and not path.endswith(_DELETED):
                continue
            status = os.stat(link)
            unlinked = status.st_nlink == 0
            born_ns = statx(link, flags=0).born_ns if unlinked else None
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed meanwhile
        if status.st_dev not in wanted.devices or not stat.S_ISREG(status.st_mode):
            continue
        how = f"descriptor {number} of thread {thread}" if thread else f"descriptor {number}"
        known = held.get((status.st_dev, status.st_ino))
        if known is not None:
            known.how.append(how)
            continue
        held[status.st_dev, status.st_ino] = _Held(
            how=[how],
            source=f"{task}/fd",
            path=path.removesuffix(_DELETED) if unlinked else path,
            unlinked=unlinked,
            size_bytes=status.st_size,
            resident_bytes=status.st_blocks * 512,
            is_exact=True,
            born_ns=born_ns,
        )


def _target(link: str) -> str:
    """Where a descriptor leads; the link itself if the path is too long for the kernel to report (very deep
    directories).
    """
    try:
        return os.readlink(link)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return link


def _read_maps(task: str, held: dict[Key, _Held], wanted: _Wanted) -> None:
    content = _read(f"{task}/maps")
    if not any(number in content for number in wanted.numbers):
        return  # nearly every process
    lines = wanted.lines.findall(content)
    entries: dict[Key, list[MapEntry]] = {}
    for entry in parse_maps(b"\n".join(lines).decode("utf-8", "surrogateescape"), wanted.devices):
        entries.setdefault((entry.device, entry.inode), []).append(entry)
    for key, mapped in entries.items():
        one = held.get(key)
        if one is not None:
            one.how.insert(0, "mapped")
        else:
            size_bytes = sum(entry.end - entry.start for entry in mapped)
            one = held[key] = _Held(["mapped"], f"{task}/maps", mapped[0].path, mapped[0].unlinked, size_bytes)
            if one.unlinked:
                _measure(one, task, mapped)
        one.mapped_at = tuple(entry.start for entry in mapped)


def _measure(one: _Held, task: str, mapped: list[MapEntry]) -> None:
    """Find out how much memory a file takes that has neither a name nor a descriptor.

    /proc/PID/map_files leads to the file itself, but needs CAP_CHECKPOINT_RESTORE. smaps says what this process has touched
    of it, which may be less than exists: pages that others wrote, or that came by write(), are not in its tables.
    """
    # the leader of the process may be dead, and /proc has an entry of this kind for each thread, though it lists none
    alive = f"{task.partition('/task/')[0].rpartition('/')[0]}/{task.rpartition('/')[2]}"
    try:
        status = statx(f"{alive}/map_files/{mapped[0].start:x}-{mapped[0].end:x}", flags=0)
        one.resident_bytes, one.is_exact, one.born_ns = status.resident_bytes, True, status.born_ns
    except OSError:
        try:
            resident = parse_smaps_resident(_read(f"{task}/smaps").decode("utf-8", "replace"))
            one.resident_bytes = sum(resident.get(entry.start, 0) for entry in mapped)
        except OSError:
            pass  # it ended, or will not be read: the memory stays unknown


def descriptors_in_transit(pids: Iterable[int], proc: str = "/proc") -> tuple[Fact, ...]:
    """Descriptors that are in no table: in a message that nobody has taken yet, or registered in an io_uring."""
    facts: list[Fact] = []
    for pid in pids:
        try:
            facts.extend(_in_transit(proc, pid))
        except OSError:
            continue  # it ended, or is not ours to read: counted as unreadable before
    return tuple(facts)


def _in_transit(proc: str, pid: int) -> Iterator[Fact]:
    for number in os.listdir(f"{proc}/{pid}/fd"):
        kind = _target(f"{proc}/{pid}/fd/{number}")
        if not kind.startswith(("socket:", "anon_inode:[io_uring]")):
            continue
        source = f"{proc}/{pid}/fdinfo/{number}"
        info = parse_descriptor_info(_read(source).decode("utf-8", "surrogateescape"))
        who = f"pid {pid} ({command_line(proc, pid)})"
        if info.in_flight:
            yield Fact(f"{who} has {info.in_flight} descriptors in messages that it has not received yet", source)
        if info.registered:
            yield Fact(f"{who} has registered in an io_uring: {', '.join(info.registered[:8])}", source)


def command_line(proc: str, pid: int) -> str:
    """The command line of a process, its arguments joined by blanks; empty if it is gone."""
    try:
        line = _read(f"{proc}/{pid}/cmdline")
    except OSError:
        return ""
    return line[:_COMMAND_BYTES].rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()
