"""What a program says to have shared memory on its nodes: a plugin, a preload, or a LocalCluster of ours."""

from __future__ import annotations

from typing import Any

import distributed
from distributed import Client, Worker, WorkerPlugin

from shmlease import Registry
from shmlease.integrations.dask import node, serialization

__all__ = ["LocalCluster", "NodeRegistry", "dask_setup", "dask_teardown", "join"]


async def dask_setup(server: object) -> None:
    """Where Dask preloads ``shmlease.dask``, into a worker or a client."""
    if isinstance(server, Worker | Client):
        serialization.register()
        await node.join(server)


async def dask_teardown(server: object) -> None:
    """Where a worker or a client that has preloaded ``shmlease.dask`` closes."""
    if isinstance(server, Worker | Client):
        _leave(server)


def join(client: Client) -> Any:
    """Let a client scatter and gather through shared memory, with workers that are on its node.

    For a client that has not preloaded ``shmlease.dask``. It talks to workers directly from now on, unless it was made with
    ``direct_to_workers=False``: what goes through the scheduler goes without shared memory.

    Returns
    -------
    None, or an awaitable if the client is asynchronous

    Raises
    ------
    RegistryUnavailableError
        The node's registry cannot be joined or started.
    """
    return client.sync(dask_setup, client)


class NodeRegistry(WorkerPlugin):
    """One registry for all workers on a node: ``client.register_plugin(NodeRegistry(capacity="8GiB"))``.

    It is started by the worker that comes first, and ends with the last. In tasks, ``shmlease.connect()`` finds it. From
    then on arrays travel between the workers of a node as leases. Connections that are in use at that moment stay as they
    are, so that a preload, which comes before the first connection, is better where it can be configured.

    Parameters
    ----------
    capacity : int or str, optional
        Bytes, or words such as ``"8GiB"`` or ``"25%"`` of /dev/shm, of all segments on a node together. If not given, the
        configuration ``shmlease.capacity``; else half of /dev/shm.
    """

    name = "shmlease"
    idempotent = True

    def __init__(self, capacity: int | str | None = None) -> None:
        self.capacity = capacity
        self._has_joined = False

    async def setup(self, worker: Worker) -> None:
        """See Dask."""
        serialization.register()
        self._has_joined = await node.join(worker, self.capacity)

    async def teardown(self, worker: Worker) -> None:
        """See Dask."""
        if self._has_joined:  # and not its preload
            _leave(worker)


class LocalCluster(distributed.LocalCluster):
    """Dask's LocalCluster, whose workers and clients have a registry, which ends with it.

    Parameters
    ----------
    capacity : int or str, optional
        Bytes, or words such as ``"8GiB"`` or ``"25%"``, of all segments together; half of /dev/shm if not given.
    args, kwargs
        As of `distributed.LocalCluster`.

    Attributes
    ----------
    registry : Registry
        The cluster's.
    """

    def __init__(self, *args: Any, capacity: int | str | None = None, **kwargs: Any) -> None:
        self.registry = Registry(node.DEFAULT_CAPACITY if capacity is None else capacity, warm_idle=node.WARM_IDLE_S)
        config = {**(kwargs.pop("config", None) or {}), "shmlease": {"registry": self.registry.id}}
        preload = [*_listed(kwargs.pop("preload", None)), "shmlease.dask"]
        try:
            super().__init__(*args, config=config, preload=preload, **kwargs)
        except BaseException:
            self.registry.close()
            raise

    def get_client(self) -> Client:
        """A client that scatters and gathers through shared memory; any other needs `join`."""
        client = super().get_client()
        return client if self.asynchronous else join(client) or client

    async def _close(self) -> None:
        await super()._close()
        node.nodes.pop(self.registry.id, None)
        self.registry.close()


def _listed(preload: Any) -> list[str]:
    return [preload] if isinstance(preload, str) else list(preload or ())


def _leave(server: Worker | Client) -> None:
    node.leave(server)
    if not node.nodes:
        serialization.buffers.clear()
