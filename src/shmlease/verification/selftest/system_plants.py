"""Leaks outside of /dev/shm's own files, or hidden from this user, and their clean twins."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile

from shmlease.auditor.judge.findings import Report
from shmlease.system.interpreter import find_interpreter, module_command
from shmlease.verification.selftest.testbed import NotPermittedError, Testbed

__all__: list[str] = []

# a program that leaves its segment to the resource tracker, and one that does not
_FORGETFUL = "from multiprocessing.shared_memory import SharedMemory as S; s = S(create=True, size=4096); s.close()"
_ORDERLY = f"{_FORGETFUL}; s.unlink()"
_CGROUPS = "/sys/fs/cgroup"


def sysv_left(testbed: Testbed) -> None:
    """A System V segment that nobody is attached to, its maker ended."""
    maker = testbed.act("make_sysv")
    testbed.at_the_end(lambda: testbed.act("remove_sysv", maker.reply))
    testbed.mark_exactly(f"sysv:{maker.reply}")
    testbed.wait_until_ended(maker)


def sysv_attached(testbed: Testbed) -> None:
    """Its maker has ended, and another process is attached to it."""
    holder = testbed.act("make_sysv_held")
    testbed.at_the_end(lambda: testbed.act("remove_sysv", holder.reply))
    testbed.mark_exactly(f"sysv:{holder.reply}")


def charge_left(testbed: Testbed) -> None:
    """A segment was made in a control group whose processes have all ended."""
    testbed.wait_until_ended(testbed.act("charge", _cgroup(testbed), testbed.path(), "leave"))


def charge_in_use(testbed: Testbed) -> None:
    """A segment was made in a control group, and its maker lives there."""
    testbed.act("charge", _cgroup(testbed), testbed.path(), "stay")


def _cgroup(testbed: Testbed) -> str:
    """A new control group with a memory controller."""
    top = f"{_CGROUPS}/memory" if os.path.exists(f"{_CGROUPS}/memory/memory.stat") else _CGROUPS
    path = f"{top}/shmlease-selftest-{testbed.token}"
    try:
        os.mkdir(path)
    except OSError as error:
        raise NotPermittedError(f"no control group can be made in {top}: {error.strerror}") from error
    testbed.at_the_end(lambda: _remove_cgroup(testbed, path))
    if not os.path.exists(f"{path}/memory.stat"):
        raise NotPermittedError(f"control groups in {top} have no memory controller")
    return path


def _remove_cgroup(testbed: Testbed, path: str) -> None:
    def is_removed() -> bool:
        with contextlib.suppress(OSError):  # EBUSY until its last process has been reaped
            os.rmdir(path)
        return not os.path.exists(path)

    testbed.wait_for(is_removed, f"to remove {path}")


def hidden(testbed: Testbed) -> None:
    """Unlinked memory of a process that this user may not look into."""
    if os.geteuid() == 0:
        raise NotPermittedError("root may look into every process")
    testbed.require_count()
    testbed.act("unlink_secretly", testbed.path())


def left_to_tracker(testbed: Testbed) -> Report:
    """A program that only a resource tracker cleaned up after, under `shmlease run`."""
    return _run(testbed, _FORGETFUL)


def not_left_to_tracker(testbed: Testbed) -> Report:
    """The same program with an unlink."""
    return _run(testbed, _ORDERLY)


def _run(testbed: Testbed, program: str) -> Report:
    with tempfile.TemporaryDirectory(prefix="shmlease-selftest-") as directory:
        path = os.path.join(directory, "report.json")
        ignored = [word for rule in testbed.ignored for word in ("--ignore", rule)]
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
