"""Where shared memory is mounted: in this process's mount namespace, and in those of the processes that can be seen.

A path means nothing across namespaces; the device number does. A foreign /dev/shm is reached through /proc/PID/root.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from shmlease.auditor.judge.evidence import ProcessFacts, Root
from shmlease.auditor.judge.findings import Gap
from shmlease.auditor.observe.procfs import Mount, parse_mounts
from shmlease.errors import UnsupportedPlatformError

__all__ = ["SHM", "foreign_roots", "hides_processes", "mount_namespace", "own_roots", "root_at"]

SHM: Final = "/dev/shm"
# What shm_open and its like use, and where huge pages are kept as files.
_HUGE: Final = "hugetlbfs"


def own_roots(proc: str = "/proc", paths: Iterable[str] | None = None) -> tuple[list[Root], list[Gap]]:
    """The roots to audit in this mount namespace: those at `paths`, or /dev/shm and every mounted hugetlbfs.

    Raises
    ------
    UnsupportedPlatformError
        A path given is not there.
    """
    mounts = _mounts(f"{proc}/self/mountinfo")
    covered = [mount for mount in mounts if mount.point == SHM][:-1]
    gaps = [
        Gap(f"the {filesystem} that another mount covers at {SHM}", "no path leads to it", blinding=False)
        for filesystem in dict.fromkeys(mount.filesystem for mount in covered)
    ]
    chosen = list(paths) if paths is not None else [SHM, *(m.point for m in mounts if m.filesystem == _HUGE)]
    roots: dict[str | int, Root] = {}
    for path in chosen:
        try:
            root = root_at(path, mounts)
        except PermissionError as error:
            gaps.append(Gap(path, str(error.strerror)))
            continue
        except OSError as error:
            if paths is None:  # what is elsewhere can be audited still
                gaps.append(Gap(path, f"{error.strerror}; no tmpfs is mounted there", source="stat"))
                continue
            raise UnsupportedPlatformError(
                f"{path} cannot be audited: {error.strerror}; shmlease audits shared memory on Linux, "
                "mounted at /dev/shm or at the paths it is given"
            ) from error
        # two mount points may show one filesystem; two directories of one that are asked for are two
        roots.setdefault(root.device if paths is None else path, root)
    return list(roots.values()), gaps


def root_at(path: str, mounts: Iterable[Mount] = ()) -> Root:
    """The root at `path`; `mounts` say what kind of filesystem it is.

    Raises
    ------
    OSError
        There is nothing, or it cannot be entered.
    """
    device = os.stat(path).st_dev
    # the last mount on a point covers the earlier ones
    found = next((m for m in reversed(list(mounts)) if m.point == path and m.device == device), None)
    if found is None:
        return Root(path, device, is_whole=False)  # a directory inside a filesystem
    return Root(path, device, found.filesystem, is_whole=found.root == "/")


def mount_namespace(proc: str, pid: int | str) -> int:
    """The mount namespace of a process; 0 when it cannot be seen."""
    try:
        return int(os.readlink(f"{proc}/{pid}/ns/mnt").removeprefix("mnt:[").removesuffix("]"))
    except (OSError, ValueError):
        return 0


def foreign_roots(proc: str, processes: Iterable[ProcessFacts], known: Iterable[Root]) -> tuple[list[Root], list[Gap]]:
    """The /dev/shm and hugetlbfs of other mount namespaces, one for each filesystem that is not among `known`."""
    own = mount_namespace(proc, "self")
    devices = {root.device for root in known}
    roots: list[Root] = []
    gaps: list[Gap] = []
    seen = {own, 0}
    for process in processes:
        if process.mount_namespace in seen:
            continue
        try:
            mounts = _mounts(f"{proc}/{process.pid}/mountinfo")
            for mount in mounts:
                if (mount.point == SHM and mount.filesystem == "tmpfs") or mount.filesystem == _HUGE:
                    path = f"{proc}/{process.pid}/root{mount.point}"
                    device = os.stat(path).st_dev
                    if device != mount.device or device in devices:
                        continue  # covered by a later mount, or shared with one that is listed already
                    devices.add(device)
                    roots.append(
                        Root(path, device, mount.filesystem, mount.root == "/", process.pid, process.mount_namespace)
                    )
            seen.add(process.mount_namespace)
        except FileNotFoundError:
            continue  # that process ended; another of its namespace may follow
        except OSError as error:
            gaps.append(Gap(f"/dev/shm as pid {process.pid} sees it", str(error.strerror), source="/proc/PID/root"))
            seen.add(process.mount_namespace)
    return roots, gaps


def hides_processes(proc: str = "/proc") -> bool:
    """Whether /proc is mounted so that the processes of other users are not listed."""
    own = [mount for mount in _mounts(f"{proc}/self/mountinfo") if mount.point == "/proc"]
    hiding = {"hidepid=1", "hidepid=2", "hidepid=4", "hidepid=noaccess", "hidepid=invisible", "hidepid=ptraceable"}
    return bool(own) and bool(own[-1].options & hiding)


def _mounts(path: str) -> list[Mount]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return list(parse_mounts(file.read()))
