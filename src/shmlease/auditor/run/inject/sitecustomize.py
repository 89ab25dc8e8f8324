"""Starts the recorder in a Python program, then hands over to the sitecustomize that the program would have had.

`shmlease run` puts this directory first in PYTHONPATH. It stays there for the program's own children, and is taken out of
`sys.path`, so that the program imports what it would have imported.
"""

import os
import sys


def _start() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        import shmlease_recorder  # type: ignore[import-not-found] # noqa: PLC0415 - only while this directory is in the path

        recorder = shmlease_recorder.start()
        if recorder is not None:
            import shmlease_adopter  # type: ignore[import-not-found] # noqa: PLC0415

            shmlease_adopter.start(recorder)
    except Exception:  # noqa: S110 - a program must not fail because it is being watched
        pass
    finally:
        for name in ("shmlease_recorder", "shmlease_record_file", "shmlease_adopter"):
            sys.modules.pop(name, None)
        sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]


def _hand_over() -> None:
    from importlib.machinery import PathFinder  # noqa: PLC0415 - after the path was put right
    from importlib.util import module_from_spec  # noqa: PLC0415

    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_start()
_hand_over()
