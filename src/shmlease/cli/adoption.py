"""The registry of a run whose programs are adopted: from before the command starts until all its descendants have ended."""

from __future__ import annotations

import os
import select
import sys
import warnings
from types import TracebackType
from typing import Final, Self

import msgspec
import numpy as np

import shmlease
from shmlease.auditor.run.command import LeftName
from shmlease.auditor.run.inject.shmlease_adopter import ENVIRONMENT
from shmlease.client.owned_registry import ENVIRONMENT as REGISTRY
from shmlease.client.registry import Registry
from shmlease.integrations import adoption
from shmlease.system.directory import RegistryDirectory
from shmlease.system.identity import watch

__all__ = ["Adoption"]

_ENDS_WITHIN_S: Final = 5.0


class Adoption:
    """A registry that the command's Python programs use; a context manager that ends it.

    Attributes
    ----------
    environment : dict
        What the command's environment is to have.
    """

    environment: dict[str, str]

    def __enter__(self) -> Self:
        # what would fit without a registry is to fit with it: pages are reserved, so that a full /dev/shm is no bus error
        self._registry = Registry("100%")
        roots = {os.path.dirname(os.path.dirname(module.__file__ or "")) for module in (shmlease, np, msgspec)}
        where = os.pathsep.join([adoption.__name__, str(sys.implementation.cache_tag), *sorted(roots)])
        self.environment = {REGISTRY: self._registry.id, ENVIRONMENT: where}
        return self

    def left(self) -> tuple[LeftName, ...]:
        """The names that nobody has unlinked."""
        segments = RegistryDirectory(self._registry.id).read_ledger().segments.values()
        return tuple(LeftName(row.name, row.nbytes) for row in segments if row.name is not None and row.alias == row.name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        row = RegistryDirectory(self._registry.id).read_ledger().registry
        pidfd = None if row is None else watch(row.identity)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", shmlease.LeaseWarning)  # the report names who still runs
                self._registry.close()
            if pidfd is not None and pidfd >= 0:  # a process that is ending cannot be looked into
                select.select([pidfd], [], [], _ENDS_WITHIN_S)
        finally:
            if pidfd is not None and pidfd >= 0:
                os.close(pidfd)
