"""Real processes that do what a test tells them, one statement at a time, and are then killed.

An actor is a Python interpreter of its own with a handle on the registry. It reads code from its standard input, runs it,
and answers with the value of the last expression or with the exception. What it prints and warns goes to `actor.said()`.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import IO, Any, Self

__all__ = ["Actor"]

_HEADER = struct.Struct("<I")


class Actor:
    """One process; a context manager that kills it at its end.

    Parameters
    ----------
    registry : str
        What it connects to; the empty string for none.
    before : str
        Code that it runs before it connects.
    command : sequence of str
        What to put before the interpreter, such as ``unshare``.
    """

    def __init__(self, registry: str = "", *, before: str = "", command: tuple[str, ...] = (), **environment: str) -> None:
        self._words: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the actor
        self._process = subprocess.Popen(
            [*command, sys.executable, os.path.abspath(__file__), registry, before],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
        self.pid: int = 0
        self.start(before)

    def start(self, code: str) -> None:
        """Wait until it is there."""
        self.pid = self._answer()

    def __call__(self, code: str, **values: Any) -> Any:
        """Run `code` there, with `values` as variables: the value of its last expression, or its exception raised here."""
        self.begin(code, **values)
        return self.result()

    def begin(self, code: str, **values: Any) -> None:
        """Run `code` there, and do not wait for it."""
        assert self._process.stdin is not None
        data = pickle.dumps((code, values))
        self._process.stdin.write(_HEADER.pack(len(data)) + data)
        self._process.stdin.flush()

    def result(self) -> Any:
        """What came of what was begun."""
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        header = self._process.stdout.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise EOFError(f"the actor ended with {self._process.wait()}: {self.said()}")
        is_error, value = pickle.loads(self._process.stdout.read(_HEADER.unpack(header)[0]))
        if is_error:
            raise value
        return value

    def said(self) -> str:
        """What it has written to its standard error."""
        self._words.flush()
        self._words.seek(0)
        return self._words.read()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill it, and wait until it is dead and buried."""
        os.kill(self.pid, number)
        self._process.wait()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def leave(self) -> int:
        """Let it end as a program ends; its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._words):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass


def _run(code: str, namespace: dict[str, Any]) -> Any:
    import ast

    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<actor>", "exec"), namespace)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "<actor>", "eval"), namespace)


def _serve() -> None:
    """The actor's side."""
    commands, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what it prints is no answer

    def answer(is_error: bool, value: Any) -> None:
        data = pickle.dumps((is_error, value))
        answers.write(_HEADER.pack(len(data)) + data)
        answers.flush()

    import numpy as np

    import shmlease

    namespace: dict[str, Any] = {"np": np, "shmlease": shmlease, "os": os, "sys": sys}
    registry, before = sys.argv[1:3]
    try:
        _run(before, namespace)
        if registry:
            namespace["registry"] = shmlease.connect(registry)
        answer(False, os.getpid())
    except BaseException as error:
        answer(True, error)
        return
    while header := commands.read(_HEADER.size):
        code, values = pickle.loads(commands.read(_HEADER.unpack(header)[0]))
        namespace.update(values)
        try:
            value = _run(code, namespace)
            answer(False, value)
        except BaseException as error:
            error.__traceback__ = None
            answer(True, error)
        del code, values
    commands.close()
    answers.close()


if __name__ == "__main__":
    sys.path.pop(0)  # its own directory: the modules there are the tests'
    _serve()
