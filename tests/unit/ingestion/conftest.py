"""Tables of methylation calls, a registry, and a pool that works in this process."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmlease
from shmlease.client.handle import RegistryHandle
from shmlease.ingestion.pool_protocol import Work
from shmlease.ingestion.worker import Worker


@pytest.fixture(scope="session")
def text() -> Callable[[int], str]:
    """So many lines, by a seed."""

    def write(rows: int, seed: int = 0) -> str:
        dice = random.Random(seed)
        lines = (
            f"chr{dice.randrange(1, 23)}\t{dice.randrange(10**8)}\t{dice.randrange(10**6) / 10**4:.6g}" for _ in range(rows)
        )
        return "".join(line + "\n" for line in lines)

    return write


@pytest.fixture
def table(tmp_path: Path, text: Callable[..., str]) -> Callable[..., Path]:
    """A file of so many lines."""

    def make(rows: int, name: str = "calls.tsv", seed: int = 0) -> Path:
        path = tmp_path / name
        path.write_text(text(rows, seed))
        return path

    return make


@pytest.fixture
def registry() -> Iterator[shmlease.Registry]:
    with shmlease.Registry("32MiB", on_lingering="ignore") as registry:
        yield registry


class ShuffledCrew:
    """Works in this process, one piece for each `wait`, and in no order: what is done first is a matter of chance."""

    def __init__(self, registry: RegistryHandle, seed: int, most: int = 4) -> None:
        self._worker = Worker(registry)
        self._dice = random.Random(seed)
        self._waiting: list[Work] = []
        self._delivered: list[tuple[Any, Any]] = []
        self._most = most
        self.replaced = 0
        self.most_waiting = 0

    @property
    def wants_work(self) -> bool:
        return len(self._waiting) < self._most

    def submit(self, work: Work, *, first: bool = False) -> None:
        self._waiting.append(work)
        self.most_waiting = max(self.most_waiting, len(self._waiting))

    def deliver(self, work: Any, outcome: Any) -> None:
        self._delivered.append((work, outcome))

    def wait(self, timeout_s: float) -> list[tuple[Any, Any]]:
        done, self._delivered = self._delivered, []
        if self._waiting:
            work = self._waiting.pop(self._dice.randrange(len(self._waiting)))
            done.append((work, self._worker.run(work.task())))
        return done

    def close(self, *, orderly: bool = True) -> None:
        pass


@pytest.fixture
def pool(registry: shmlease.Registry) -> Callable[..., ShuffledCrew]:
    """A pool that works in an order by a seed."""
    return lambda seed, most=4: ShuffledCrew(registry, seed, most)
