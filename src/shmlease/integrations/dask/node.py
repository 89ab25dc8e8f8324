"""The registry of a node, as a worker or a client on it uses it, and which other processes use the same one.

* Workers and clients of one cluster that see the same /dev/shm share a registry. Its id follows from the scheduler's,
  unless the configuration ``shmlease.registry`` names one. Whoever comes first starts it; it ends with the last process.
* Whoever joins announces itself in the registry, under a random name, and a worker also under its address. That somebody
  is on this node is known by nothing else: addresses of containers, or of namespaces in a test, prove nothing. An
  announcement is a lease, so it ends with its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
from typing import Any, Final

import dask
import numpy as np
from distributed import Client, Worker

from shmlease import LeaseError, RegistryHandle, SegmentExistsError, SegmentNotFoundError, connect

__all__ = [
    "DEFAULT_CAPACITY",
    "HANDSHAKE",
    "WARM_IDLE_S",
    "Node",
    "Server",
    "join",
    "leave",
    "node_on",
    "nodes",
]

Server = Worker | Client

# What a process says of itself when it connects to another: the name under which it is announced.
HANDSHAKE: Final = "shmlease"
DEFAULT_CAPACITY: Final = "50%"  # of /dev/shm: the other half is left to programs that reserve nothing
# Tasks take seconds, and arrays of one size come again and again. To copy one into memory that was used before takes a half
# to a fifth of the time that it takes with fresh memory, which the kernel zeroes and maps first.
WARM_IDLE_S: Final = 30.0
_REGISTRY_OF_TASKS: Final = "SHMLEASE_REGISTRY"  # what `shmlease.connect()` joins
# Of peers that are elsewhere; every connection of a client that is not on this node has an address of its own.
_MOST_REMEMBERED: Final = 10_000


class Node:
    """This process's part of a node.

    Attributes
    ----------
    registry : RegistryHandle
        The node's.
    name : str
        What peers on this node know this process by.
    """

    def __init__(self, registry: RegistryHandle) -> None:
        self.registry = registry
        self.name = os.urandom(8).hex()
        self._users: list[Server] = []
        self._announcements: dict[str, Any] = {}
        self._pids: dict[str, int | None] = {}
        self.announce(self.name)

    def announce(self, name: str) -> None:
        """Let peers on this node find this process by `name`, until it leaves."""
        pid = np.array([os.getpid()])
        try:
            lease = self.registry.share(pid, f"dask/{name}")
        except SegmentExistsError:  # a worker that was at this address, and is just being missed
            with contextlib.suppress(SegmentNotFoundError):
                self.registry.withdraw(f"dask/{name}")
            lease = self.registry.share(pid, f"dask/{name}")
        self._announcements[name] = lease.detach()

    def pid_of(self, name: str) -> int | None:
        """The process that is announced under `name`; None if none is, which is then on another node.

        Raises
        ------
        LeaseError
            The registry could not be asked.
        """
        if name not in self._pids:
            if len(self._pids) >= _MOST_REMEMBERED:
                self._pids.clear()
            try:
                with self.registry.attach(f"dask/{name}", timeout=0) as lease:
                    self._pids[name] = int(lease.array[0])
            except LookupError:
                self._pids[name] = None
        return self._pids[name]

    def is_used_by(self, server: Server) -> bool:
        """Whether `server` has begun, and not ended."""
        return server in self._users

    def begin(self, server: Server) -> None:
        """From now on `server` sends and receives by reference on this node."""
        self._users.append(server)
        # Connections that are open already go on as they began; those that nobody uses are closed.
        overrides = {"handshake_overrides": {HANDSHAKE: self.name}}
        server.rpc.connection_args = {**server.rpc.connection_args, **overrides}
        server.rpc.collect()
        if isinstance(server, Worker):
            self.announce(_address(server))
        elif server.direct_to_workers is None:
            server.direct_to_workers = True  # what goes through the scheduler goes without shared memory

    def end(self, server: Server) -> bool:
        """`server` closes; whether it was the last one in this process."""
        if server in self._users:
            self._users.remove(server)
            server.rpc.connection_args = {
                key: value for key, value in server.rpc.connection_args.items() if key != "handshake_overrides"
            }
        if isinstance(server, Worker):
            self._announcements.pop(_address(server), None)
        if not self._users:
            self._announcements.clear()
        return not self._users


nodes: Final[dict[str, Node]] = {}
_joining: Final = threading.Lock()
os.register_at_fork(after_in_child=_joining._at_fork_reinit)  # type: ignore[attr-defined] # its holder may be no more


def node_on(registry: RegistryHandle) -> Node:
    """This process's part of the node whose registry that is."""
    with _joining:
        node = nodes.get(registry.id)
        if node is None:
            node = nodes[registry.id] = Node(registry)
        return node


async def join(server: Server, capacity: int | str | None = None) -> bool:
    """Let a worker or a client use its node's registry, which is started if it does not run; whether that is new.

    Raises
    ------
    RegistryUnavailableError
        It cannot be joined or started.
    """
    if any(node.is_used_by(server) for node in nodes.values()):
        return False
    id = await _registry_id(server)
    if capacity is None:
        capacity = dask.config.get("shmlease.capacity", None) or DEFAULT_CAPACITY
    registry = await asyncio.to_thread(connect, id, start=True, capacity=capacity, warm_idle=WARM_IDLE_S)
    node = await asyncio.to_thread(node_on, registry)
    node.begin(server)
    if isinstance(server, Worker):
        os.environ[_REGISTRY_OF_TASKS] = id
    return True


async def _registry_id(server: Server) -> str:
    own = getattr(getattr(server, "cluster", None), "registry", None)
    if isinstance(own, RegistryHandle):
        return own.id
    configured = dask.config.get("shmlease.registry", None)
    if configured is not None:
        return str(configured)
    assert server.scheduler is not None
    scheduler = await server.scheduler.identity(n_workers=0)
    return f"dask{hashlib.sha256(scheduler['id'].encode()).hexdigest()[:16]}"


def _address(worker: Worker) -> str:
    """What others connect to; Dask fills the first in when the second is to be used."""
    return str(worker.contact_address or worker.address)


def leave(server: Server) -> None:
    """The worker or client closes. What arrays of this process refer to stays valid."""
    for id, node in list(nodes.items()):
        if node.end(server):
            nodes.pop(id, None)
            if isinstance(server, Worker) and os.environ.get(_REGISTRY_OF_TASKS) == id:
                del os.environ[_REGISTRY_OF_TASKS]


def receiver_of(context: dict[str, Any] | None) -> tuple[Node, int] | None:
    """The node that the receiver of a message shares with this process, and its pid; None if there is none.

    Parameters
    ----------
    context : dict
        What Dask tells a serializer of both ends. Whoever has connected to this process has said its name. To whom this
        process has connected could not, and is known by the address that was called, which is a worker's.
    """
    if not nodes or not context:
        return None
    recipient, sender = context.get("recipient") or {}, context.get("sender") or {}
    name = recipient.get(HANDSHAKE) or (recipient.get("address") if HANDSHAKE in sender else None)
    if not isinstance(name, str):
        return None
    for node in list(nodes.values()):
        try:
            pid = node.pid_of(name)
        except LeaseError:
            continue
        if pid is not None:
            return node, pid
    return None
