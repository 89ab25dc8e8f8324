"""What a type checker knows of leases: never run, only checked by `test_typing`."""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import shmlease


def taken(registry: shmlease.Registry) -> None:
    assert_type(registry.lease(shape=3), shmlease.Lease[np.float64])
    assert_type(registry.lease("name", shape=(2, 3), dtype=np.int32), shmlease.Lease[np.int32])
    assert_type(registry.lease(shape=3, dtype=np.dtype(np.uint8), order="F"), shmlease.Lease[np.uint8])
    assert_type(registry.lease(shape=3, dtype="f4"), shmlease.Lease[Any])
    assert_type(registry.lease(shape=3, dtype=[("position", "i8"), ("score", "f4")]), shmlease.Lease[Any])


def used(registry: shmlease.Registry) -> None:
    with registry.lease("counts", shape=10, dtype=np.int64, timeout="5s") as lease:
        assert_type(lease, shmlease.Lease[np.int64])
        assert_type(lease.array, np.ndarray[Any, np.dtype[np.int64]])
        assert_type(lease.dtype, np.dtype[np.int64])
        assert_type(lease.name, str | None)
        lease.array[:] = 7
        lease.publish(readers=2, ttl=60)
        assert_type(lease.ticket(ttl="1min"), shmlease.Ticket)


def shared(registry: shmlease.RegistryHandle, array: npt.NDArray[np.float32]) -> None:
    assert_type(registry.share(array), shmlease.Lease[np.float32])
    assert_type(registry.share([1, 2, 3], "list"), shmlease.Lease[Any])


def read(ticket: shmlease.Ticket) -> npt.NDArray[np.float64]:
    registry = shmlease.connect()
    assert_type(registry.redeem(ticket), shmlease.Lease[Any])
    attached: shmlease.Lease[np.float64] = registry.attach("name", timeout=1)
    return attached.array.copy()


def any_lease(lease: shmlease.Lease) -> int:
    """Of an array of any dtype."""
    assert_type(lease, shmlease.Lease[Any])
    return lease.nbytes


def covariant(lease: shmlease.Lease[np.float64]) -> shmlease.Lease[np.floating[Any]]:
    return lease
