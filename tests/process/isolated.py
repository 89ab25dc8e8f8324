"""Tests that remove things, or count all there is, run in a /dev/shm of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from rig.forked import in_a_child
from shmlease.auditor.run.isolation import enter_isolation
from shmlease.errors import UnsupportedPlatformError


def isolated(test: Callable[[], None]) -> Callable[[], None]:
    """Run `test`, which takes no fixtures, in a forked child that has an empty /dev/shm of its own."""

    @in_a_child
    @functools.wraps(test)
    def alone() -> None:
        try:
            enter_isolation()
        except UnsupportedPlatformError as refusal:
            pytest.skip(f"this system has no private /dev/shm: {refusal}")
        test()

    return alone
