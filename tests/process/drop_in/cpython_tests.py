"""CPython's own tests of multiprocessing.shared_memory, of whatever Python runs this, with shmlease's classes in place.

Usage: ``python cpython_tests.py START_METHOD``, with this directory in PYTHONPATH.
"""

import multiprocessing.shared_memory
import sys
import unittest
from typing import Any

from test import _test_multiprocessing

# What is not run, and why.
SKIPPED = {
    "test_shared_memory_cleaned_after_process_termination": "asserts that the tracker warns of a leak; its "
    "program runs with -E, so with the standard library's classes",
    "test_shared_memory_tracking": "asserts that the tracker of an attacher warns of a leak, and removes the segment",
}

_test_multiprocessing.install_tests_in_module_dict(globals(), sys.argv[1])  # at the top: spawned children look there


def main() -> int:
    """Run them; 0 if all pass."""
    assert multiprocessing.shared_memory.SharedMemory.__module__.startswith("shmlease."), "the classes are not in place"
    module: Any = sys.modules[__name__]
    module.setUpModule()
    try:
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(module.WithProcessesTestSharedMemory)
        tests = [test for test in suite if test._testMethodName not in SKIPPED]
        result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(tests))
    finally:
        module.tearDownModule()
    return 0 if result.wasSuccessful() and result.testsRun == len(tests) >= 12 else 1


if __name__ == "__main__":
    sys.exit(main())
