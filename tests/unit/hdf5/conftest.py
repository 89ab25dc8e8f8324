"""Rows to store: methylation calls, made the same way each time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

CALLS = np.dtype([("chr", "S10"), ("pos", "<i4"), ("pct", "<f4"), ("m", "<i4"), ("u", "<i4")])


@pytest.fixture(scope="session")
def calls() -> Callable[..., np.ndarray]:
    """`calls(n)`: n rows of methylation calls; `calls(n, seed)`: others."""

    def make(count: int, seed: int = 0) -> np.ndarray:
        random = np.random.default_rng(seed)
        rows = np.empty(count, CALLS)
        rows["chr"] = np.repeat([b"chr%d" % number for number in range(1, 21)], -(-count // 20))[:count]
        rows["pos"] = np.cumsum(random.integers(1, 60, count))
        rows["m"], rows["u"] = random.poisson(6, count), random.poisson(3, count)
        rows["pct"] = 100 * rows["m"] / np.maximum(rows["m"] + rows["u"], 1)
        return rows

    return make
