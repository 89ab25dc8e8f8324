"""The two registries that the same behaviour is asked of, behind the few verbs that a test needs.

Not in a conftest: there is more than one of that name.
"""

from __future__ import annotations

import abc
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Protocol, Self, TypeVar

import numpy as np

import shmlease
from rig.actor import Actor, _run
from rig.until import until
from shmlease.client.directory_endpoint import DirectoryEndpoint
from shmlease.client.link import Link
from shmlease.system.clock import SystemClock
from shmlease.system.directory import RegistryDirectory
from shmlease.testing import MemoryRegistry, memory_registry

T = TypeVar("T")

CAPACITY = 1 << 20

__all__ = ["CAPACITY", "MemoryWorld", "RealWorld", "World", "live"]


def live(registry: shmlease.RegistryHandle) -> int:
    """How many segments are in use."""
    segments = registry.statistics().segments
    return segments.get("filling", 0) + segments.get("published", 0)


class Process(Protocol):
    """A client that does what it is told, and can be killed."""

    def __call__(self, code: str, **values: Any) -> Any:
        """Run `code` there: the value of its last expression, or its exception."""

    def begin(self, code: str, **values: Any) -> None:
        """The same, and do not wait for it."""

    def kill(self) -> Any:
        """Let it die."""


class World(abc.ABC):
    """A registry and its clients, this process first.

    Parameters
    ----------
    waiting : bool
        Calls may have to wait for each other, not only for time to pass.
    **options
        As of `shmlease.Registry`.
    """

    registry: shmlease.Registry

    def __init__(self, *, waiting: bool = False, **options: Any) -> None:
        self._clients = ExitStack()
        self._threads = ThreadPoolExecutor()
        self._open(waiting, {"capacity": CAPACITY, **options})

    def meanwhile(self, call: Callable[[], T]) -> Future[T]:
        """Let a thread make a call."""
        return self._threads.submit(call)

    @abc.abstractmethod
    def _open(self, waiting: bool, options: dict[str, Any]) -> None: ...

    @abc.abstractmethod
    def peer(self) -> shmlease.RegistryHandle:
        """Another client, with leases of its own."""

    @abc.abstractmethod
    def process(self) -> Process:
        """Another client that can be killed."""

    @abc.abstractmethod
    def pass_time(self, seconds: float) -> None:
        """Let time pass, or be content that it does; what comes of it is to be waited for."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
        self._clients.close()
        if not self.registry._owned.is_ended:
            until(lambda: self.registry.statistics().clients == 1, what="the end of the clients")
            self.registry.close()


class MemoryWorld(World):
    """`shmlease.testing.memory_registry`: clients are of this process, and die when it says so."""

    registry: MemoryRegistry

    def _open(self, waiting: bool, options: dict[str, Any]) -> None:
        self.registry = memory_registry(clock=SystemClock() if waiting else None, **options)

    def peer(self) -> shmlease.RegistryHandle:
        peer = self.registry.peer()
        self._clients.callback(peer._link.close)
        return peer

    def process(self) -> Process:
        process = _PlayedProcess(self.registry)
        self._clients.callback(process.kill)
        return process

    def pass_time(self, seconds: float) -> None:
        self.registry.advance(seconds)


class _PlayedProcess:
    """Runs code in threads of this process, on a client of its own."""

    def __init__(self, registry: MemoryRegistry) -> None:
        peer = registry.peer()
        self._names = {"np": np, "shmlease": shmlease, "os": os, "sys": sys, "registry": peer}
        self._threads = ThreadPoolExecutor()
        self.kill = lambda: registry.kill(peer)

    def __call__(self, code: str, **values: Any) -> Any:
        self._names.update(values)
        return _run(code, self._names)

    def begin(self, code: str, **values: Any) -> None:
        self._threads.submit(self, code, **values)


class RealWorld(World):
    """`shmlease.Registry`: peers are second clients of this process, and who is to be killed is a process."""

    def _open(self, waiting: bool, options: dict[str, Any]) -> None:
        del waiting
        self.registry = shmlease.Registry(**options)

    def peer(self) -> shmlease.RegistryHandle:
        link = Link(DirectoryEndpoint(RegistryDirectory(self.registry.id)))
        self._clients.callback(link.close)
        return shmlease.RegistryHandle(link, self.registry._on_lingering)

    def process(self) -> Process:
        return self._clients.enter_context(Actor(self.registry.id))

    def pass_time(self, seconds: float) -> None:
        del seconds
