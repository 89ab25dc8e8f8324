"""System V shared memory, as /proc/sysvipc/shm lists it: every segment of this IPC namespace, whoever owns it."""

from __future__ import annotations

from typing import Final

from shmlease.auditor.judge.evidence import SysVSegment
from shmlease.auditor.judge.findings import Gap
from shmlease.auditor.observe.procfs import parse_sysv

__all__ = ["list_sysv"]

_SHM_DEST: Final = 0o1000  # IPC_RMID was called, the last detach removes it


def list_sysv(proc: str = "/proc") -> tuple[tuple[SysVSegment, ...], list[Gap]]:
    """The System V segments, and a gap where the kernel would not list them (it may be built without them)."""
    path = f"{proc}/sysvipc/shm"
    try:
        with open(path, encoding="ascii") as file:
            lines = list(parse_sysv(file.read()))
    except FileNotFoundError:
        return (), []
    except OSError as error:
        return (), [Gap("System V segments", f"{path}: {error.strerror}", source=path)]
    segments = tuple(
        SysVSegment(
            id=line.id,
            key=line.key,
            size_bytes=line.size_bytes,
            resident_bytes=line.resident_bytes + line.swapped_bytes,
            creator_pid=line.creator_pid,
            attachments=line.attachments,
            uid=line.uid,
            changed_s=line.changed_s,
            is_condemned=bool(line.mode & _SHM_DEST),
        )
        for line in lines
    )
    return segments, []
