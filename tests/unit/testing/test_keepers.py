"""A library's own process keeps the files that it will remove, as long as it runs beside the process that shares them."""

from __future__ import annotations

import os
import subprocess

from rig.until import until
from shmlease.auditor.judge.findings import Finding, Process
from shmlease.auditor.run.process_tree import descendants_of
from shmlease.testing.keepers import Keepers


def orphan(name: str, *holders: Process) -> Finding:
    return Finding.of("LH001", "has no holder", name=name, path=f"/dev/shm/{name}", holders=holders)


def test_what_torchs_manager_will_remove_is_set_aside_while_it_runs() -> None:
    me, of_me = os.getpid(), orphan(f"torch_{os.getpid()}_2311485325_0")
    manager = subprocess.Popen(["torch_shm_manager"], executable="/bin/cat", stdin=subprocess.PIPE)
    try:
        until(lambda: any(one.command == "torch_shm_manager" for one in descendants_of(me)))
        keeper_of = Keepers().look({me})
        keeper = keeper_of(of_me)
        assert keeper is not None
        assert "torch_shm_manager" in keeper.reason
        held = Process(manager.pid, command="torch_shm_manager")
        assert Keepers().look({me, manager.pid})(orphan("psm_1", held)) == keeper, "it has inherited the descriptor"
        for other in (f"torch_{me}", f"psm_{me}_1_0", "torch_1_2311485325_0"):
            assert keeper_of(orphan(other)) is None
    finally:
        manager.communicate()
    assert Keepers().look({me})(of_me) is None
