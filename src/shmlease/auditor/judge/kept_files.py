"""Whether a file in shared memory looks like a file that somebody keeps there, and not like a segment.

The kernel does not distinguish them: shm_open(3) creates a file like any other. The name and the mode do. A segment has a
name without directory or ending and belongs to its owner alone (as Python's SharedMemory creates it), or a name that only a
shared-memory library gives. A file kept by hand has an ending, lies in a directory, or may be read by others, as the umask
allows. This is a guess, so it only ever spares a file.
"""

from __future__ import annotations

import re
from typing import Final

from shmlease.auditor.judge.evidence import File

__all__ = ["looks_kept"]

# Names that libraries give to segments: multiprocessing, PyTorch, joblib and loky, MPI and its transports, CUDA, NCCL,
# iceoryx, POSIX semaphores, lttng, PulseAudio, Chromium, PostgreSQL, Ray, and shmlease itself.
_SEGMENT_NAME: Final = re.compile(
    r"(psm_|wnsm_|pym-|sem\.|torch_|joblib_memmapping_folder_|loky|ompi|vader_segment|sm_segment|mpich|psm2_|psm3_|ucx_shm|"
    r"cuda\.shm|nccl-|iox|lttng-ust-|pulse-shm-|\.?org\.chromium\.|PostgreSQL\.|plasma|ray_|shmlease-)"
)
_ENDING: Final = re.compile(r"[^.]\.[A-Za-z][A-Za-z0-9]{0,7}\Z")


def looks_kept(file: File) -> str:
    """Why `file` looks like one that somebody keeps; empty if it looks like a segment."""
    if file.root.filesystem == "hugetlbfs":  # which can only be mapped
        return ""
    if _SEGMENT_NAME.match(file.name):
        return ""
    if "/" in file.name:
        return "it lies in a directory"
    if _ENDING.search(file.name):
        return f"its name ends in .{file.name.rpartition('.')[2]}"
    if file.mode & 0o077:
        return f"others may use it (mode {file.mode & 0o777:04o})"
    return ""
