"""Leaks outside of /dev/shm's own files, or hidden from this user, and their clean twins."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile

from shmlease.auditor.judge.findings import Report
from shmlease.system.interpreter import find_interpreter, module_command
from shmlease.verification.selftest.ground import Ground, NotPermittedError

__all__: list[str] = []

# a program that leaves its segment to the resource tracker, and one that does not
_FORGETFUL = "from multiprocessing.shared_memory import SharedMemory as S; s = S(create=True, size=4096); s.close()"
_ORDERLY = f"{_FORGETFUL}; s.unlink()"
_CGROUPS = "/sys/fs/cgroup"


def sysv_left(ground: Ground) -> None:
    """A System V segment that nobody is attached to, its maker ended."""
    maker = ground.act("make_sysv")
    ground.at_the_end(lambda: ground.act("remove_sysv", maker.told))
    ground.mark_exactly(f"sysv:{maker.told}")
    ground.wait_until_ended(maker)


def sysv_attached(ground: Ground) -> None:
    """Its maker has ended, and another process is attached to it."""
    holder = ground.act("make_sysv_held")
    ground.at_the_end(lambda: ground.act("remove_sysv", holder.told))
    ground.mark_exactly(f"sysv:{holder.told}")


def charge_left(ground: Ground) -> None:
    """A segment was made in a control group whose processes have all ended."""
    ground.wait_until_ended(ground.act("charge", _cgroup(ground), ground.path(), "leave"))


def charge_in_use(ground: Ground) -> None:
    """A segment was made in a control group, and its maker lives there."""
    ground.act("charge", _cgroup(ground), ground.path(), "stay")


def _cgroup(ground: Ground) -> str:
    """A new control group with a memory controller."""
    top = f"{_CGROUPS}/memory" if os.path.exists(f"{_CGROUPS}/memory/memory.stat") else _CGROUPS
    path = f"{top}/shmlease-selftest-{ground.token}"
    try:
        os.mkdir(path)
    except OSError as error:
        raise NotPermittedError(f"no control group can be made in {top}: {error.strerror}") from error
    ground.at_the_end(lambda: _remove_cgroup(ground, path))
    if not os.path.exists(f"{path}/memory.stat"):
        raise NotPermittedError(f"control groups in {top} have no memory controller")
    return path


def _remove_cgroup(ground: Ground, path: str) -> None:
    def is_removed() -> bool:
        with contextlib.suppress(OSError):  # EBUSY until its last process has been reaped
            os.rmdir(path)
        return not os.path.exists(path)

    ground.wait_for(is_removed, f"to remove {path}")


def hidden(ground: Ground) -> None:
    """Unlinked memory of a process that this user may not look into."""
    if os.geteuid() == 0:
        raise NotPermittedError("root may look into every process")
    ground.require_count()
    ground.act("unlink_secretly", ground.path())


def left_to_tracker(ground: Ground) -> Report:
    """A program that only a resource tracker cleaned up after, under `shmlease run`."""
    return _run(ground, _FORGETFUL)


def not_left_to_tracker(ground: Ground) -> Report:
    """The same program with an unlink."""
    return _run(ground, _ORDERLY)


def _run(ground: Ground, program: str) -> Report:
    with tempfile.TemporaryDirectory(prefix="shmlease-selftest-") as directory:
        path = os.path.join(directory, "report.json")
        ignored = [word for rule in ground.ignored for word in ("--ignore", rule)]
        command = [
            *module_command("shmlease", "run", "--quiet", "-o", path, *ignored, "--"),
            find_interpreter(),
            "-P",
            "-c",
            program,
        ]
        finished = subprocess.run(command, capture_output=True, text=True, cwd=directory, check=False)
        if not os.path.exists(path):
            raise NotPermittedError(f"shmlease run ended with {finished.returncode}: {finished.stderr.strip()[-200:]}")
        with open(path, "rb") as file:
            return Report.from_json(file.read())
