"""What a type checker refuses: never run. Lines that end in ``# wrong`` are errors to both checkers, and no other is."""

from __future__ import annotations

import numpy as np

import shmlease


def mistaken(registry: shmlease.Registry) -> None:
    registry.lease("name")  # wrong
    registry.lease("name", 3)  # wrong
    registry.lease(shape="3")  # wrong
    registry.attach(3)  # wrong
    registry.redeem(3)  # wrong
    shmlease.Registry(capacity=[])  # wrong
    shmlease.connect(on_lingering="raise")  # wrong
    registry.lease(shape=3).publish(2)  # wrong
    lease: shmlease.Lease[np.int32] = registry.lease(shape=3)  # wrong
    lease.array.no_such_method()  # wrong
    shmlease.Lease[str]  # wrong
