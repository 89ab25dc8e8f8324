"""Puts leases behind `multiprocessing.shared_memory` in any Python program, as soon as that imports it.

This runs in other people's programs, so it never raises: a program that cannot be adopted goes on as it was, and the
recorder notes why.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # importing typing would cost every program some milliseconds
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

ENVIRONMENT = "SHMLEASE_ADOPTION"
_MODULE = "multiprocessing.shared_memory"


class Adopter:
    """A finder that lets the module be found as ever, and has it adopted once it has been executed.

    Parameters
    ----------
    recorder : shmlease_recorder.Recorder
        Where to note that it could not be.
    where : str
        The module whose function `adopt` does it, the tag of a version of Python, and the directories that programs of that
        version can import the module from, if theirs have none.
    """

    def __init__(self, recorder: Any, where: str) -> None:
        self._recorder = recorder
        self._adoption, self._tag, *self._directories = where.split(os.pathsep)

    def install(self) -> None:
        """Wait for the import."""
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The specification of the module, with a loader that has it adopted; None for any other."""
        if name != _MODULE:
            return None
        from importlib.machinery import PathFinder  # noqa: PLC0415 - most programs never come here

        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
        return spec

    def adopt(self, module: ModuleType) -> None:
        """Put shmlease's classes into `module`."""
        try:
            self._import().adopt(module)
        except Exception as error:
            self._recorder.write("refusal", 0, 0, f"{type(error).__name__}: {error}")

    def _import(self) -> Any:
        from importlib import import_module  # noqa: PLC0415

        try:
            return import_module(self._adoption)
        except ImportError:
            if self._tag != sys.implementation.cache_tag:
                raise
            sys.path += self._directories  # at the end: the program imports what it would have imported
            return import_module(self._adoption)


class _Loader:
    """The module's own loader, and what is to be done after it."""

    def __init__(self, loader: Any, adopter: Adopter) -> None:
        self._loader = loader
        self._adopter = adopter

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._adopter.adopt(module)


def start(recorder: Any) -> None:
    """Adopt this program, if the environment says so."""
    where = os.environ.get(ENVIRONMENT)
    if where:
        Adopter(recorder, where).install()
