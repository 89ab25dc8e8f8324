"""The texts of /proc, parsed: pure functions, one for each kind of file.

Formats are those of proc(5) and of fs/proc in the kernel. Paths may hold blanks, and newlines as octal escapes; the
kernel's ` (deleted)` is a suffix of the path and may be part of a name as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

import msgspec

from shmlease.auditor.judge.evidence import SysVSegment

__all__ = [
    "DescriptorInfo",
    "MapEntry",
    "Mount",
    "ProcessStat",
    "device_number",
    "parse_descriptor_info",
    "parse_maps",
    "parse_mounts",
    "parse_smaps_resident",
    "parse_stat",
    "parse_sysv",
    "parse_table",
]

_DELETED: Final = " (deleted)"
_SHM_DEST: Final = 0o1000  # of linux/shm.h: IPC_RMID was called, the last detach removes it
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
# "    0: /dev/shm/x" of io_uring; a slot without a file has no such line, or "<none>"
_SLOT: Final = re.compile(r"^\s*\d+: (?!<none>)(.+)$", re.MULTILINE)


class MapEntry(msgspec.Struct, frozen=True):
    """One line of /proc/PID/maps that maps a file."""

    start: int
    end: int
    device: int
    inode: int
    path: str
    unlinked: bool


class ProcessStat(NamedTuple):
    """Facts about a process from /proc/PID/stat."""

    pid: int
    command: str
    state: str
    parent: int
    flags: int
    threads: int
    start_ticks: int


class Mount(NamedTuple):
    """One line of /proc/PID/mountinfo; `root` is the part of the filesystem that is mounted at `point`."""

    device: int
    root: str
    point: str
    filesystem: str
    options: frozenset[str]


class DescriptorInfo(NamedTuple):
    """Files that are not in the descriptor table itself, from /proc/PID/fdinfo/N."""

    in_flight: int  # descriptors in messages that the socket has received and nobody has taken
    registered: tuple[str, ...]  # paths of the files registered in an io_uring


def parse_maps(text: str, devices: Collection[int] | None = None) -> Iterator[MapEntry]:
    """The mappings of files in `text` (/proc/PID/maps), of all devices or of those given."""
    known = {device_number(device): device for device in devices or ()}
    for line in text.split("\n"):  # of all that breaks lines, the kernel escapes this one alone
        fields = line.split(None, 5)
        if len(fields) < 6 or fields[4] == "0":
            continue
        device = known.get(fields[3])
        if device is None:
            if devices is not None:
                continue
            major, _, minor = fields[3].partition(":")
            device = known[fields[3]] = os.makedev(int(major, 16), int(minor, 16))
        start, _, end = fields[0].partition("-")
        path = _unescape(fields[5])
        name = path.removesuffix(_DELETED)
        yield MapEntry(int(start, 16), int(end, 16), device, int(fields[4]), name, name != path)


def device_number(device: int) -> str:
    """A device as /proc/PID/maps writes it."""
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def parse_stat(text: str) -> ProcessStat:
    """The facts in `text` (/proc/PID/stat); the command may hold blanks and parentheses, so the last one closes it."""
    pid, _, rest = text.partition(" (")
    command, _, rest = rest.rpartition(") ")
    fields = rest.split()  # field 3, the state, is the first
    return ProcessStat(int(pid), command, fields[0], int(fields[1]), int(fields[6]), int(fields[17]), int(fields[19]))


def parse_mounts(text: str) -> Iterator[Mount]:
    """The mounts in `text` (/proc/PID/mountinfo), in order: a later one covers an earlier one at the same point."""
    for line in text.splitlines():
        mounted, separator, source = line.partition(" - ")
        if not separator:
            continue
        fields, origin = mounted.split(" "), source.split(" ")
        major, _, minor = fields[2].partition(":")
        options = frozenset((*fields[5].split(","), *origin[-1].split(",")))
        device = os.makedev(int(major), int(minor))
        yield Mount(device, _unescape(fields[3]), _unescape(fields[4]), origin[0], options)


def parse_descriptor_info(text: str) -> DescriptorInfo:
    """The files in `text` (/proc/PID/fdinfo/N) that the descriptor keeps alive besides its own."""
    in_flight = re.search(r"^scm_fds:\s*(\d+)$", text, re.MULTILINE)
    _, separator, files = text.partition("UserFiles:")
    slots = _SLOT.findall(files.partition("UserBufs:")[0]) if separator else []
    return DescriptorInfo(int(in_flight[1]) if in_flight else 0, tuple(_unescape(path) for path in slots))


def parse_sysv(text: str) -> Iterator[SysVSegment]:
    """The segments in `text` (/proc/sysvipc/shm), whose columns have names; older kernels have fewer."""
    header, *lines = text.splitlines()
    columns = header.split()
    for line in lines:
        row = dict(zip(columns, line.split(), strict=False))
        yield SysVSegment(
            id=int(row["shmid"]),
            key=int(row["key"]),
            size_bytes=int(row["size"]),
            resident_bytes=int(row.get("rss", row["size"])) + int(row.get("swap", "0")),
            creator_pid=int(row["cpid"]),
            attachments=int(row["nattch"]),
            uid=int(row["uid"]),
            changed_s=int(row["ctime"]),
            is_condemned=bool(int(row["perms"], 8) & _SHM_DEST),
        )


def parse_smaps_resident(text: str) -> dict[int, int]:
    """Resident and swapped bytes by the start address of each mapping in `text` (/proc/PID/smaps)."""
    resident: dict[int, int] = {}
    start = 0
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word in {"Rss:", "Swap:"}:
            resident[start] = resident.get(start, 0) + int(rest.split()[0]) * 1024
        elif not word.endswith(":") and "-" in word:
            start = int(word.partition("-")[0], 16)
    return resident


def parse_table(text: str) -> dict[str, int]:
    """The counters in a text of one name and number a line, such as a control group's memory.stat."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].lstrip("-").isdigit()}


def _unescape(path: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), path) if "\\" in path else path
