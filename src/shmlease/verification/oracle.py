"""A second pair of eyes: what /dev/shm and /proc say, read without a line of shmlease's table, ledger or auditor.

It knows three facts about shmlease: a registry's files lie in ``/dev/shm/shmlease-<id>/``, those named ``s<number>`` are
segments and ``t<number>`` tickets in flight, and names given out lie beside the directory as
``/dev/shm/shmlease-<id>-<number>``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import psutil

__all__ = ["Oracle", "Sample"]

_BLOCK_BYTES: Final = 512
_ENTRY: Final = re.compile(r"([stj])\d+(\.\d+)?")


class Sample(NamedTuple):
    """What lies in the registry's directory at one moment."""

    segments: int
    segment_bytes: int
    tickets: int


class Oracle:
    """Looks at one registry's traces from outside.

    Parameters
    ----------
    registry : str
        Its id.
    is_private : bool
        Whether nobody else uses this /dev/shm, so that its free space can be accounted for to the byte.
    root, proc : str
        Where shared memory and process files are.
    """

    def __init__(self, registry: str, *, is_private: bool, root: str = "/dev/shm", proc: str = "/proc") -> None:
        self._registry = registry
        self._directory = f"{root}/shmlease-{registry}"
        self._prefix = f"shmlease-{registry}"
        self._root = root
        self._proc = proc
        self._is_private = is_private

    def sample(self) -> Sample:
        """What is in use now."""
        segments = segment_bytes = tickets = 0
        for kind, status in self._entries():
            if kind == "s":
                segments += 1
                segment_bytes += status.st_blocks * _BLOCK_BYTES
            tickets += kind == "t"
        return Sample(segments, segment_bytes, tickets)

    def names(self) -> list[str]:
        """The names that were given out and not taken back."""
        return [name for name in _listed(self._root) if name.startswith(f"{self._prefix}-")]

    def sizes_by_inode(self) -> dict[int, int]:
        """Bytes of each segment's file."""
        return {status.st_ino: status.st_size for kind, status in self._entries() if kind == "s"}

    def has_inode(self, inode: int) -> bool:
        """Whether that file is still a segment."""
        try:
            with os.scandir(self._directory) as entries:
                return any(entry.inode() == inode for entry in entries)
        except FileNotFoundError:
            return False

    def leaks_at_rest(self, processes: int) -> list[str]:
        """What is there although nobody holds anything, `processes` are connected, and nothing is kept warm."""
        found = []
        notice_logs = 0
        for name in _listed(self._directory):
            kind = _ENTRY.fullmatch(name)
            if kind is not None and kind[1] in "st":
                holders = ", ".join(str(pid) for pid, _ in self._mappers(f"{self._directory}/{name}"))
                found.append(f"{self._directory}/{name} is still there, mapped by {holders or 'nobody'}")
            notice_logs += kind is not None and kind[1] == "j"
        if notice_logs > processes:
            found.append(f"{notice_logs} notice logs of clients, {processes} clients")
        found += [f"{self._root}/{name} is still there" for name in self.names()]
        for pid, resident_bytes in self._mappers(f"{self._directory}/s", unlinked=True):
            if resident_bytes:
                found.append(f"pid {pid} keeps {resident_bytes} bytes of unlinked segments in memory")
        if self._is_private and (dark := self.dark_bytes()) > 0:
            found.append(f"{dark} bytes of {self._root} are in use by no file")
        return found

    def leaks_after_end(self, registry_pids: set[int]) -> list[str]:
        """What is there although the registry has ended."""
        found = [f"{self._root}/{name} is still there" for name in _listed(self._root) if name.startswith(self._prefix)]
        found += [f"registry process {pid} is still there" for pid in registry_pids if os.path.isdir(f"{self._proc}/{pid}")]
        found += [
            f"pid {pid} still maps its segments" for pid, _ in self._mappers(f"{self._directory}/s") if pid != os.getpid()
        ]
        if self._is_private and (dark := self.dark_bytes()) > 0:
            found.append(f"{dark} bytes of {self._root} are in use by no file")
        return found

    def dark_bytes(self) -> int:
        """Memory of this /dev/shm that no visible file accounts for; only where nobody else uses it."""
        status = os.statvfs(self._root)
        used_bytes = (status.f_blocks - status.f_bfree) * status.f_frsize
        seen = {}
        for directory, _, names in os.walk(self._root):
            for name in names:
                try:
                    file = os.lstat(f"{directory}/{name}")
                except FileNotFoundError:
                    continue
                seen[file.st_ino] = file.st_blocks * _BLOCK_BYTES
        return used_bytes - sum(seen.values())

    def registry_pids(self) -> set[int]:
        """The processes that serve this registry, by their command lines."""
        found = set()
        for process in psutil.process_iter(["cmdline"]):
            command = " ".join(process.info["cmdline"] or ())
            if "shmlease.registry" in command and f'"{self._registry}"' in command:
                found.add(process.pid)
        return found

    def resident_bytes(self, pid: int) -> int:
        """Memory of a process that is in no file and not shared; 0 if it has ended."""
        try:
            memory = psutil.Process(pid).memory_info()
        except psutil.NoSuchProcess:
            return 0
        return int(memory.rss - memory.shared)

    def _entries(self) -> Iterator[tuple[str, os.stat_result]]:
        for name in _listed(self._directory):
            kind = _ENTRY.fullmatch(name)
            try:
                if kind is not None:
                    yield kind[1], os.lstat(f"{self._directory}/{name}")
            except FileNotFoundError:
                continue

    def _mappers(self, path: str, *, unlinked: bool = False) -> Iterator[tuple[int, int]]:
        """Who maps files whose path begins so, and how much of them is in memory."""
        for pid in filter(str.isdigit, os.listdir(self._proc)):
            try:
                with open(f"{self._proc}/{pid}/maps") as file:  # quick; for smaps the kernel counts pages
                    if path not in file.read():
                        continue
                with open(f"{self._proc}/{pid}/smaps") as file:
                    resident = _resident_of(file, path, unlinked=unlinked)
            except OSError:  # it has ended, or is another user's
                continue
            if resident is not None:
                yield int(pid), resident


def _resident_of(lines: Iterable[str], path: str, *, unlinked: bool) -> int | None:
    """Resident bytes of the mappings of such files in a text like /proc/PID/smaps; None if there are none."""
    total, is_ours = None, False
    for line in lines:
        fields = line.split(maxsplit=5)
        if "-" in fields[0]:
            name = fields[5].rstrip("\n") if len(fields) == 6 else ""
            is_ours = name.startswith(path) and (name.endswith(" (deleted)") or not unlinked)
            total = (total or 0) if is_ours else total
        elif is_ours and fields[0] == "Rss:":
            total = (total or 0) + int(fields[1]) * 1024
    return total


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
