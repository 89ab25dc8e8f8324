"""How results come from the workers of an executor.

A worker that was not forked imports this with its first task, and nothing beside it until a result is not seen to be small:
numpy and the client would keep it for four times as long as it takes to start.
"""

from __future__ import annotations

import pickle
from multiprocessing.context import BaseContext
from multiprocessing.queues import SimpleQueue
from typing import Any

from shmlease.integrations.plain import is_plain

__all__ = ["ResultQueue"]


class ResultQueue(SimpleQueue[Any]):
    """A queue that sends what is large in a result by lease.

    Parameters
    ----------
    pool : tuple
        What `as_result` takes.
    """

    def __init__(self, pool: tuple[Any, ...], min_nbytes: int, context: BaseContext) -> None:
        super().__init__(ctx=context)
        self._pool: tuple[Any, ...] | bytes = pool
        self._min_nbytes = min_nbytes

    def put(self, item: Any) -> None:
        """Send a result, or the pid of a worker that leaves."""
        if type(item) is not int and item.exception is None and not is_plain(item.result, self._min_nbytes):
            from shmlease.integrations.calls import as_result  # noqa: PLC0415 - see above

            pool = self._pool
            if isinstance(pool, bytes):
                pool = self._pool = pickle.loads(pool)  # noqa: S301 - the parent's
            item.result = as_result(item.result, pool)
        super().put(item)

    def __getstate__(self) -> Any:
        pool = self._pool if isinstance(self._pool, bytes) else pickle.dumps(self._pool)
        return pool, self._min_nbytes, super().__getstate__()

    def __setstate__(self, state: Any) -> None:
        self._pool, self._min_nbytes, inherited = state
        super().__setstate__(inherited)
