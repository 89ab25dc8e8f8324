"""A process in a control group with little memory is refused what does not fit, and lives; one without /proc is told so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import shmlease
from rig.actor import Actor

StartActor = Callable[..., Actor]
LIMIT_BYTES = 160 << 20


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with little memory."""
    name = f"shmlease-test-{os.getpid()}"
    for top, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        path = Path(top, name)
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            (path / limit).write_text(str(LIMIT_BYTES))
            yield path
        except OSError:
            continue
        finally:
            path.rmdir()
        return
    pytest.skip("no control group can be made here")


def test_lease_larger_than_the_control_group_is_refused_and_nobody_is_killed(
    registry: shmlease.Registry, actor: StartActor, group: Path
) -> None:
    del registry
    with shmlease.Registry("512MiB") as roomy, Actor(roomy.id) as member:
        member("open(path + '/cgroup.procs', 'w').write(str(os.getpid()))", path=str(group))
        with pytest.raises(shmlease.CapacityError, match=f"control group /{group.name}") as refused:
            member("registry.lease(shape=256 << 20, dtype='u1', timeout=0)")
        assert refused.value.group_limit_bytes == LIMIT_BYTES
        assert member("registry.share(np.arange(10)).array.sum()") == 45
        assert roomy.statistics().segments.get("filling", 0) == 0
        member.kill()


WITHOUT_PROC = """
import subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"], check=True)
import shmlease
for what in (shmlease.Registry, shmlease.audit, lambda: shmlease.ingest("x", "x.h5")):
    try:
        what()
    except shmlease.LeaseError as error:
        print(error)
with shmlease.connect().share([1, 2, 3]) as lease:
    print(lease.array.sum())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
def test_system_without_proc_is_reported_of_in_words(registry: shmlease.Registry) -> None:
    command = ["unshare", "--mount", sys.executable, "-c", WITHOUT_PROC]
    environment = {**os.environ, "SHMLEASE_REGISTRY": registry.id}
    with registry.share(np.arange(10)):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    *told, last = done.stdout.splitlines()
    assert len(told) == 3, done.stderr
    assert all("there is no /proc" in line for line in told)
    assert last == "6"
