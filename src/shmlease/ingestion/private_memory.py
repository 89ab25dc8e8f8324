"""Memory of this process alone, with the calls of a registry: for rows that no other process needs.

Work that one thread does from text to chunks needs no segments, no tickets that can run out, and no registry process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeAlias, Union

import numpy as np

if TYPE_CHECKING:
    from shmlease.client.handle import RegistryHandle

__all__ = ["Memory", "PrivateArray", "PrivateMemory"]

Memory: TypeAlias = Union["RegistryHandle", "PrivateMemory"]


class PrivateArray:
    """An array in place of a lease; its ticket is itself."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array
        self.nbytes = array.nbytes

    def ticket(self, ttl: float | None = None) -> Any:  # noqa: ARG002 - nothing runs out
        """What `PrivateMemory.redeem` takes."""
        return self

    def release(self) -> None:
        """The memory is free once nothing refers to the array."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class PrivateMemory:
    """As much of the interface of `RegistryHandle` as the work of an ingest uses."""

    def lease(self, *, shape: int | tuple[int, ...], dtype: Any, timeout: float | None = None) -> Any:  # noqa: ARG002
        """An array, uninitialized; it is not waited for."""
        return PrivateArray(np.empty(shape, dtype))

    def redeem(self, ticket: Any) -> Any:
        """What a ticket is of."""
        return ticket
