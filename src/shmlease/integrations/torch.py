"""Batches of a PyTorch DataLoader on leases: `LeasedCollate` is a ``collate_fn``.

The batch that a worker has collated is copied into a segment, and arrives as tensors on copy-on-write memory. Its ticket
ends with the worker, and workers end with the loop: a batch that is never read, because the loop was left or a worker was
killed, leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import default_collate, get_worker_info

from shmlease import RegistryHandle
from shmlease.integrations.calls import as_result, pool_of_one_way
from shmlease.integrations.messages import MIN_NBYTES
from shmlease.units import parse_bytes

__all__ = ["LeasedCollate"]


class LeasedCollate:
    """What `torch.utils.data.DataLoader` takes as ``collate_fn``; batches of at least `min_nbytes` travel as leases.

    Parameters
    ----------
    registry : RegistryHandle
        Whose memory is used; it must outlive the loader.
    collate_fn : callable
        What makes a batch of samples.
    min_nbytes : int or str
        Bytes that a tensor or an array has at least to travel as a lease.
    """

    def __init__(
        self,
        registry: RegistryHandle,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
        *,
        min_nbytes: int | str = MIN_NBYTES,
    ) -> None:
        self._collate = collate_fn
        self._pool = pool_of_one_way(registry, parse_bytes(min_nbytes))

    def __call__(self, samples: list[Any]) -> Any:
        batch = self._collate(samples)
        return batch if get_worker_info() is None else as_result(batch, self._pool)
