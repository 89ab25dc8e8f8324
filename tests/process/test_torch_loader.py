"""PyTorch's DataLoader with `LeasedCollate`: batches on leases, and nothing left, whoever stops reading or is killed."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shmlease
from rig.leased_arrays import in_use
from rig.until import until

try:
    import torch
    from torch.utils.data import DataLoader, default_collate
except ImportError as error:
    pytest.skip(f"NOT TESTED: PyTorch cannot be imported ({error}); pip install torch", allow_module_level=True)

from torch.utils.data._utils import signal_handling

from shmlease.integrations.torch import LeasedCollate


@pytest.fixture(autouse=True)
def _no_handler_of_torch() -> Iterator[None]:
    """Torch handles SIGCHLD from its first loader on."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)
    signal_handling._SIGCHLD_handler_set = False


class Images:
    """Samples whose pixels are their number; one kills the worker that loads it."""

    def __init__(self, deadly: int = -1) -> None:
        self._deadly = deadly

    def __len__(self) -> int:
        return 32

    def __getitem__(self, number: int) -> tuple[Any, int]:
        if number == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full((64, 64), float(number)), number


def loader(registry: shmlease.Registry, **options: Any) -> Any:
    collate = pickle.loads(pickle.dumps(LeasedCollate(registry, default_collate)))  # as it reaches a spawned worker
    dataset: Any = options.pop("dataset", Images())
    return DataLoader(dataset, batch_size=8, num_workers=2, collate_fn=collate, multiprocessing_context="fork", **options)


def test_batches_arrive_on_leases_and_can_be_written_to(registry: shmlease.Registry) -> None:
    seen = []
    for images, numbers in loader(registry):
        assert images.dtype is torch.float64
        images.add_(1)
        seen += [(int(number), float(image[3, 3])) for image, number in zip(images, numbers, strict=True)]
    assert seen == [(number, number + 1.0) for number in range(32)]
    assert registry.statistics().counters["tickets"] == 4
    del images, numbers
    until(lambda: in_use(registry) == 0)


def test_loop_that_is_left_leaves_nothing(registry: shmlease.Registry) -> None:
    for _ in range(3):
        images, _ = next(iter(loader(registry)))
        assert images.shape == (8, 64, 64)
    kept = images[3]
    del images
    until(lambda: in_use(registry) == 1)
    assert (kept == 3).all()
    del kept
    until(lambda: in_use(registry) == 0)


def test_killed_worker_leaves_nothing_and_batches_of_before_stay_valid(registry: shmlease.Registry) -> None:
    batches = iter(loader(registry, dataset=Images(deadly=30), prefetch_factor=1))
    first = next(batches)[0]  # with one batch ahead, the last is not begun before this is read
    with pytest.raises(RuntimeError, match="worker"):
        list(batches)
    assert float(first[7, 0, 0]) == 7
    del first, batches
    until(lambda: in_use(registry) == 0)


def test_without_workers_batches_are_as_ever(registry: shmlease.Registry) -> None:
    dataset: Any = Images()
    (first, _), *_ = DataLoader(dataset, batch_size=32, collate_fn=LeasedCollate(registry))
    assert first.shape == (32, 64, 64)
    assert registry.statistics().counters.get("leases", 0) == 0
