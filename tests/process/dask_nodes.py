"""Workers on a node of their own: processes in a mount namespace with an empty /dev/shm, and with a network if need be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from running import environment

from rig.mount_namespace import mount_namespace
from rig.until import until

__all__ = ["Node", "names_of_workers", "started_node", "total", "total_of_copy", "total_of_lease"]

_SCRIPT = """
mount -t tmpfs -o size=1g,mode=1777 tmpfs /dev/shm
if [ -n "$LINK" ]; then
    read moved
    ip link set lo up
    ip address add $ADDRESS/24 dev $LINK
    ip link set $LINK up
    set -- "$@" --host $ADDRESS
fi
workers=""
for name in $NAMES; do
    "$@" --name $name --local-directory "$DIRECTORY/$name" > "$DIRECTORY/$name.log" 2>&1 &
    workers="$workers $!"
done
cat > /dev/null
kill $workers 2> /dev/null || true
wait
"""


class Node:
    """A node that runs; `shm` is its /dev/shm as seen from here."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def shm(self) -> Path:
        return Path(f"/proc/{self._process.pid}/root/dev/shm")

    def registries(self) -> list[str]:
        return [name.removeprefix("shmlease-") for name in os.listdir(self.shm) if name.startswith("shmlease-")]


def names_of_workers(client: Client) -> set[str | int]:
    return {worker["name"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()}


@contextmanager
def started_node(
    client: Client, directory: Path, *names: str, options: tuple[str, ...] = (), link: str = "", address: str = ""
) -> Iterator[Node]:
    """A node with the workers `names`; they have ended when the block has. With `link`, that is all of its network."""
    scheduler = client.scheduler.address
    worker = (sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--no-nanny", "--nthreads", "1", *options)
    process = subprocess.Popen(
        mount_namespace(_SCRIPT, *worker, "--no-dashboard", network=bool(link)),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(
            NAMES=" ".join(names),
            DIRECTORY=str(directory),
            PYTHONPATH=os.pathsep.join(sys.path),
            LINK=link,
            ADDRESS=address,
        ),
    )
    try:
        if link:
            ours = os.readlink("/proc/self/ns/net")
            until(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != ours, what="a network of its own")
            subprocess.run(["ip", "link", "set", link, "netns", str(process.pid)], check=True)
            assert process.stdin is not None
            process.stdin.write(b"moved\n")
            process.stdin.flush()
        until(lambda: names_of_workers(client).issuperset(names), what=f"the start of {names}")
        yield Node(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
        until(lambda: names_of_workers(client).isdisjoint(names), what=f"the end of {names}")


def total(array: np.ndarray[Any, Any]) -> float:
    return float(array.sum())


def total_of_lease(array: np.ndarray[Any, Any]) -> float:
    """The total of what lies in leased memory."""
    root: Any = array
    while isinstance(root, np.ndarray | memoryview):
        root = root.base if isinstance(root, np.ndarray) else root.obj
    assert type(root).__module__.startswith("shmlease."), f"it lies in memory of {type(root)}"
    return total(array)


def total_of_copy(array: np.ndarray[Any, Any]) -> float:
    """The total of what does not."""
    with pytest.raises(AssertionError, match="it lies in memory of"):
        total_of_lease(array)
    return total(array)
