"""CPython's own tests of concurrent.futures' process pool, from this interpreter's test package, on shmlease's executor.

    python tests/rig/stdlib_process_pool.py [PATTERN ...]

Patterns choose tests as ``unittest -k`` does. Exit code 3 where this interpreter was installed without its tests.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import sys
import types
import unittest
from collections.abc import Iterator

import shmlease

__all__ = ["NO_TESTS", "SKIPPED", "main"]

NO_TESTS = 3
MODULES = ("process_pool", "shutdown", "wait", "as_completed", "deadlock", "init")

# By the end of the test's name: why it says nothing about shmlease's executor.
SKIPPED: dict[str, str] = {}


def main(patterns: list[str]) -> int:
    try:
        modules = list(stdlib_modules())
    except ModuleNotFoundError as error:
        print(f"this Python has no tests of concurrent.futures: {error}")
        return NO_TESTS
    loader = unittest.TestLoader()
    if patterns:
        loader.testNamePatterns = [f"*{pattern}*" for pattern in patterns]
    suite = unittest.TestSuite()
    for module in modules:
        for case in vars(module).values():
            if isinstance(case, type) and issubclass(case, unittest.TestCase) and case.__name__.startswith("ProcessPool"):
                suite.addTests(loader.loadTestsFromTestCase(case))
    for test in tests_in(suite):
        for name, reason in SKIPPED.items():
            if test.id().endswith(name):
                setattr(test, test._testMethodName, unittest.skip(reason)(getattr(test, test._testMethodName)))
    assert suite.countTestCases(), f"no test matches {patterns}"
    return not unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful()


def stdlib_modules() -> Iterator[types.ModuleType]:
    """The modules of tests, in which shmlease's executor stands for the standard library's."""
    concurrent.futures.ProcessPoolExecutor = shmlease.Executor  # type: ignore[misc] # what tests compare with
    package = importlib.import_module("test.test_concurrent_futures")
    for name in MODULES:
        module = importlib.import_module(f"{package.__name__}.test_{name}") if hasattr(package, "__path__") else package
        if hasattr(module, "assert_python_ok"):
            module.assert_python_ok = running_ours(module.assert_python_ok)
        yield module
        if module is package:
            return


def running_ours(assert_python_ok: types.FunctionType) -> object:
    """Programs that the tests write import the executor by its name."""

    def run(*args: str, **environment: str) -> object:
        ours = "from shmlease import Executor"
        replaced = [text.replace("from concurrent.futures import Executor", ours) for text in args]
        assert replaced != list(args) or not any("concurrent.futures" in text for text in args)
        return assert_python_ok(*replaced, **environment)

    return run


def tests_in(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_in(test)
        else:
            yield test


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
