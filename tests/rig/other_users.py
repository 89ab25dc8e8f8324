"""Other users of the machine: a /dev/shm that they share with us, and what they do there.

In the private mount namespace, directories that keep other users from the interpreter and the packages (a home directory of
mode 0700) are opened, so that they can run what we run.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import shmlease
from rig import private_shm
from rig.forked import in_a_child

__all__ = ["NEIGHBOUR", "OWNER", "among_other_users", "as_user", "run_as", "start_as"]

# Nobody's numbers, so that no program of theirs runs.
OWNER, NEIGHBOUR = 61001, 61002
_MS_BIND, _MS_REC, _MS_MOVE = 0x1000, 0x4000, 0x2000


def among_other_users(test: Callable[..., None]) -> Callable[..., None]:
    """Run `test` as root in a forked child whose /dev/shm and mounts are its own."""

    @in_a_child
    @functools.wraps(test)
    def alone(*arguments: Any, **named: Any) -> None:
        if os.geteuid() != 0:
            pytest.skip("NOT TESTED: only root can become other users")
        try:
            private_shm.enter()
        except OSError as refusal:
            pytest.skip(f"NOT TESTED: this system has no private /dev/shm: {refusal}")
        paths = [
            sys.executable,
            os.path.realpath(sys.executable),
            sys.prefix,
            sys.base_prefix,
            *sys.path,
            shmlease.__file__,
        ]
        for path in paths:
            _let_others_reach(path)
        test(*arguments, **named)

    return alone


def as_user(uid: int, act: Callable[[], None]) -> None:
    """Let user `uid` do something, in a forked child; its failure is raised here."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        words = ""
        try:
            _become(uid)
            act()
        except BaseException:
            words = traceback.format_exc()
        os.write(writing, words.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        words = pipe.read().decode()
    os.waitpid(child, 0)
    assert not words, words


def run_as(uid: int, *command: str, timeout_s: float = 280.0, **popen: Any) -> subprocess.CompletedProcess[str]:
    """Run `command` as user `uid`, bounded in time."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s, **_options(uid), **popen)


def start_as(uid: int, command: Sequence[str], **popen: Any) -> subprocess.Popen[str]:
    """Start `command` as user `uid`."""
    return subprocess.Popen(command, text=True, **_options(uid), **popen)


def _options(uid: int) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if name != "SHMLEASE_REGISTRY"}
    return {"preexec_fn": functools.partial(_become, uid), "env": {**kept, "HOME": "/tmp"}, "cwd": "/"}


def _become(uid: int) -> None:
    if uid:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)


def _let_others_reach(path: str) -> None:
    parts = os.path.abspath(path).split("/")
    for length in range(2, len(parts)):
        parent = "/".join(parts[:length])
        if os.path.isdir(parent) and not os.stat(parent).st_mode & 0o001:
            _open_up(parent)


def _open_up(directory: str) -> None:
    """Put in the place of `directory` one of mode 0755 with the same in it."""
    stage = tempfile.mkdtemp(dir="/dev/shm")
    private_shm.mount("tmpfs", stage, "tmpfs", 0, "mode=0755")
    for entry in os.scandir(directory):
        beside = f"{stage}/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), beside)
        elif entry.is_dir():
            os.mkdir(beside)
            private_shm.mount(entry.path, beside, "", _MS_BIND | _MS_REC)
        elif entry.is_file():
            open(beside, "x").close()
            private_shm.mount(entry.path, beside, "", _MS_BIND)
    private_shm.mount(stage, directory, "", _MS_MOVE)
    os.rmdir(stage)
