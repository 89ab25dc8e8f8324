"""A registry starts under any umask, and one start under a strange one locks nobody out."""

from __future__ import annotations

import os
import sys

import pytest

from rig.other_users import OWNER, among_other_users, as_user, run_as

UMASKS = (0o000, 0o022, 0o077, 0o177, 0o377, 0o777)
USE = """
import shmlease, numpy as np, os, stat
with shmlease.Registry("8MiB") as registry:
    with registry.share(np.arange(9), "a") as lease:
        ticket = lease.ticket()
        assert lease.segment
        directory = f"/dev/shm/shmlease-{registry.id}"
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        for name in os.listdir(directory):
            mode = stat.S_IMODE(os.stat(f"{directory}/{name}").st_mode)
            assert mode == 0o600 or name[0] == "t" and not mode & 0o077, (name, oct(mode))
    with registry.redeem(ticket) as lease:
        print("read", int(lease.array.sum()))
"""


@pytest.mark.parametrize("umask", UMASKS, ids="{:04o}".format)
@among_other_users
def test_registry_starts_and_ends_under_any_umask(umask: int) -> None:
    for mask in (umask, 0o022):
        done = run_as(OWNER, sys.executable, "-c", f"import os; os.umask({mask}){USE}")
        assert (done.returncode, done.stdout) == (0, "read 36\n"), done.stderr
    assert os.listdir("/dev/shm") == []


@pytest.mark.parametrize("umask", [0o177, 0o377, 0o777], ids="{:04o}".format)
@among_other_users
def test_what_an_earlier_version_left_closed_to_its_own_user_is_repaired(umask: int) -> None:
    """It made directory and lock with what the umask left of their modes, and then could not enter."""

    def leave_behind() -> None:
        os.umask(umask)
        os.mkdir("/dev/shm/shmlease-0a1b2c3d", 0o700)

    as_user(OWNER, leave_behind)
    lock = "/dev/shm/shmlease-0a1b2c3d/lock"
    os.close(os.open(lock, os.O_CREAT, 0o600 & ~umask))
    os.chown(lock, OWNER, OWNER)
    done = run_as(OWNER, sys.executable, "-c", USE)
    assert (done.returncode, done.stdout) == (0, "read 36\n"), done.stderr
    assert os.listdir("/dev/shm") == []


@among_other_users
def test_directory_that_others_may_enter_is_left_as_it_is() -> None:
    """No umask made it so: whoever did may have put into it what he likes."""
    os.mkdir("/dev/shm/shmlease-0a1b2c3d")
    os.chown("/dev/shm/shmlease-0a1b2c3d", OWNER, OWNER)
    os.chmod("/dev/shm/shmlease-0a1b2c3d", 0o755)
    done = run_as(OWNER, sys.executable, "-c", USE)
    assert (done.returncode, done.stdout) == (0, "read 36\n"), done.stderr
    assert os.stat("/dev/shm/shmlease-0a1b2c3d").st_mode & 0o777 == 0o755
