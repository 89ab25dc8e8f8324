"""The Python interpreter that processes of ours are started with, and what they import from.

`sys.executable` is no interpreter where Python is embedded: it is uWSGI's binary there, or empty, or a frozen program that
would start itself again. So what is found is proved to be an interpreter of this version before it is used, unless it is
the very program that runs now. Each way of starting one keeps the current directory out of the import path: what lies there
is not ours to run.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Final

from shmlease.errors import UnsupportedPlatformError

__all__ = ["find_interpreter", "import_path", "module_command", "places_of"]

# Set for a program that is asked whether it is an interpreter: a frozen one that starts itself again must not ask in turn.
_ASKED: Final = "SHMLEASE_IS_INTERPRETER"
_QUESTION: Final = "import sys; print(sys.implementation.cache_tag, sys.abiflags)"
_ANSWER: Final = f"{sys.implementation.cache_tag} {sys.abiflags}".strip()
# An interpreter answers in 15 ms; a program that is none may wait for something.
_ANSWER_WITHIN_S: Final = 10.0
_RUN_MODULE: Final = (
    "import sys; count = int(sys.argv[2]); sys.path[:] = sys.argv[3:3 + count]; module = sys.argv[1]; "
    "del sys.argv[1:3 + count]; import runpy; runpy.run_module(module, run_name='__main__', alter_sys=True)"
)
_PYTHON_NAME: Final = re.compile(r"(python|pypy)[\d.]*[a-z]?")


def find_interpreter() -> str:
    """The path of an interpreter of this Python's version.

    Raises
    ------
    UnsupportedPlatformError
        There is none; the message has what was tried.
    """
    if os.environ.get(_ASKED):
        raise UnsupportedPlatformError("this program is no Python interpreter, and starts shmlease when it is run as one")
    tried: dict[str, str] = {}
    for candidate in _candidates():
        if candidate in tried:
            continue
        refusal = _refusal(candidate)
        if not refusal:
            return candidate
        tried[candidate] = refusal
    version = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    raise UnsupportedPlatformError(
        f"no interpreter of {version} was found: sys.executable is {sys.executable!r}; tried "
        + "; ".join(f"{path}: {why}" for path, why in tried.items())
        + f"; set sys.executable to an interpreter of {version}"
    )


def _candidates() -> Iterator[str]:
    """Where it may be: the likeliest first."""
    names = (f"python{sys.version_info.major}.{sys.version_info.minor}", "python3", "python")
    if not getattr(sys, "frozen", False):
        if sys.executable:
            yield sys.executable
        yield from filter(None, (getattr(sys, "_base_executable", None),))
    yield from (f"{prefix}/bin/{name}" for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix) for name in names)
    import shutil  # noqa: PLC0415 - most are found before

    yield from filter(None, map(shutil.which, names))


def _refusal(path: str) -> str:
    """Why the program at `path` is no interpreter of this version; empty if it is one."""
    if not os.path.isabs(path):
        return "not an absolute path"
    real = os.path.realpath(path)
    if not os.path.isfile(real):
        return "no such file"
    if not os.access(real, os.X_OK):
        return "not executable"
    if _PYTHON_NAME.fullmatch(os.path.basename(real)) and real == _own_program():
        return ""
    return _asked(path)


def _own_program() -> str:
    try:
        return os.readlink("/proc/self/exe")
    except OSError:
        return ""


@functools.cache
def _asked(path: str) -> str:
    """The same, found out by running it."""
    import subprocess  # noqa: PLC0415 - an ordinary Python has nothing to be asked, and would load it at each start

    try:
        done = subprocess.run(
            [path, "-I", "-S", "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={**os.environ, _ASKED: "1"},
            timeout=_ANSWER_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no Python: it did not answer within {_ANSWER_WITHIN_S:.0f} s"
    except OSError as error:
        return f"cannot be run: {error.strerror}"
    answer = done.stdout.decode(errors="replace").strip()
    if answer == _ANSWER:
        return ""
    return f"{answer[:40]}, where {_ANSWER} is needed" if answer else "no Python: it answered nothing"


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs `module` as ``python -m`` does, with the import path of this process and nothing else in it.

    Raises
    ------
    UnsupportedPlatformError
        There is no interpreter.
    """
    path = import_path()
    return [find_interpreter(), "-P", "-c", _RUN_MODULE, module, str(len(path)), *path, *arguments]


def import_path() -> list[str]:
    """Where this process imports from, with the places of shmlease and msgspec, however they were found.

    Entries that are relative are those of the current directory now; where that has been removed, they lead nowhere.
    """
    path = []
    for entry in sys.path:
        try:
            path.append(os.path.abspath(entry))
        except FileNotFoundError:  # there is no current directory
            continue
    return path + [place for place in places_of("shmlease", "msgspec") if place not in path]


def places_of(*packages: str) -> list[str]:
    """Where these packages lie: what must be in the import path to import them."""
    places: dict[str, None] = {}
    for package in packages:
        file = importlib.import_module(package).__file__
        assert file is not None
        places[os.path.dirname(os.path.dirname(file))] = None
    return list(places)
