"""A loader of the user's own, as a value that reaches every worker, and what it raised, as a value that comes back.

It travels as pickle does: by the name of its module, which a worker imports along the same search path. One that is
defined in ``__main__`` is found as by multiprocessing: the script is run again, under another name. What pickle refuses (a
lambda, a function within another) goes by value if cloudpickle is installed.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import spawn
from typing import Any, Final

from shmlease.errors import IngestError

__all__ = ["Failure", "Reader", "StepLimit", "failure_of", "pack_reader", "unpack_reader"]

_PACKAGE: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep
_MAIN_KEYS = ("init_main_from_name", "init_main_from_path")


@dataclass(frozen=True, slots=True)
class Reader:
    """A function from a path to arrays.

    Attributes
    ----------
    name : str
        For messages, and to know it again.
    content : bytes
        The function, pickled.
    surroundings : dict
        What `multiprocessing.spawn.prepare` needs to import its module.
    """

    name: str
    content: bytes
    surroundings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepLimit:
    """How much one step of a reader gives: so many bytes, or what it yields within so many seconds."""

    size_bytes: int
    time_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Failure:
    """What a reader raised for a path.

    Attributes
    ----------
    reason : str
        In one line: the error, and the line of code.
    traceback : str
        As Python prints it.
    """

    reason: str
    traceback: str


def pack_reader(function: Callable[..., Any] | Reader, *, runs_main: bool = True) -> Reader:
    """`function` as a worker can have it.

    Parameters
    ----------
    function : callable or Reader
        The loader, or what this gave for it before.
    runs_main : bool
        Whether a worker may run the script of this program again to find a function of ``__main__``. If not, such a
        function goes by value; this needs cloudpickle.

    Raises
    ------
    IngestError
        It cannot be sent to another process.
    """
    if isinstance(function, Reader):
        return function
    if not callable(function):
        raise TypeError(f"reader={function!r} is no function")
    inner = function.func if isinstance(function, functools.partial) else function
    name = f"{getattr(inner, '__module__', '')}:{getattr(inner, '__qualname__', type(inner).__qualname__)}"
    surroundings: dict[str, Any] = {"sys_path": [path or os.getcwd() for path in sys.path]}
    try:
        if not runs_main:
            return Reader(name, _by_value(function), surroundings)
        content = pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if not runs_main or importlib.util.find_spec("cloudpickle") is None:
            raise IngestError(
                f"reader {name} cannot be sent to a worker: {error}; define it at the top level of a module"
                + ", or install cloudpickle" * runs_main
            ) from error
        content = _by_value(function)
    if b"__main__" in content:
        found = spawn.get_preparation_data("shmlease-worker")
        surroundings |= {key: found[key] for key in _MAIN_KEYS if key in found}
        if len(surroundings) == 1:  # a session: there is no script to run again
            content = _by_value(function) if importlib.util.find_spec("cloudpickle") else content
    return Reader(name, content, surroundings)


def _by_value(function: Callable[..., Any]) -> bytes:
    import cloudpickle  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - only where it is needed

    content: bytes = cloudpickle.dumps(function)
    return content


@functools.lru_cache(maxsize=4)
def _unpacked(content: bytes) -> Callable[..., Any]:
    function: Callable[..., Any] = pickle.loads(content)  # noqa: S301 - of our own coordinator
    return function


def unpack_reader(reader: Reader) -> tuple[Callable[..., Any], bool]:
    """The function, and whether it takes an `out` to fill beside the path.

    Raises
    ------
    IngestError
        It cannot be imported here.
    """
    known = set(sys.path)
    main = {key: value for key, value in reader.surroundings.items() if key in _MAIN_KEYS}
    sys.path += [path for path in reader.surroundings.get("sys_path", ()) if path not in known]
    if main and not hasattr(sys.modules.get("__main__"), "__shmlease_prepared__"):
        spawn.prepare(main)
        sys.modules["__main__"].__dict__["__shmlease_prepared__"] = True
    try:
        function = _unpacked(reader.content)
    except Exception as error:  # whatever its module does when it is imported
        raise IngestError(
            f"reader {reader.name} cannot be imported by a worker: {type(error).__name__}: {error}; a worker looks where "
            "it finds its own modules, and then in the directories of sys.path of the program that called ingest"
        ) from error
    return function, _takes_out(function)


def _takes_out(function: Callable[..., Any]) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some built-in functions have none
        return False
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 and positional[1].name == "out"


def failure_of(error: BaseException) -> Failure:
    """What is to be said of an error that the user's code raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if not each.filename.startswith(_PACKAGE)]
    where = f" ({os.path.basename(own[0].filename)}:{own[0].lineno})" if own else ""
    text = " ".join(str(error).split())
    return Failure(f"{type(error).__name__}{': ' * bool(text)}{text}{where}", "".join(traceback.format_exception(error)))
