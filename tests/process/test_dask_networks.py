"""A cluster of two nodes that share neither /dev/shm nor network, but for a link between the two."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import environment

from rig.mount_namespace import mount_namespace

_NO_LINK = 77
_SCRIPT = f"""
mount -t tmpfs -o size=1g,mode=1777 tmpfs /dev/shm
ip link set lo up
ip link add name here type veth peer name there || exit {_NO_LINK}
ip address add 10.213.0.1/32 dev lo  # stays when the link goes, with the other node
ip address add 10.213.0.3/24 dev here
ip link set here up
exec "$@"
"""


@pytest.mark.stress
@pytest.mark.timeout(400)
def test_nodes_with_networks_of_their_own_share_arrays_within_and_files_between(tmp_path: Path) -> None:
    if shutil.which("ip") is None:
        pytest.skip("NOT TESTED: two networks: ip (iproute2) is not installed")
    program = Path(__file__).with_name("dask_networks.py")
    done = subprocess.run(
        mount_namespace(_SCRIPT, sys.executable, str(program), str(tmp_path), network=True),
        env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if done.returncode == _NO_LINK:
        pytest.skip(f"NOT TESTED: two networks: {done.stderr}")
    assert done.returncode == 0, done.stderr
