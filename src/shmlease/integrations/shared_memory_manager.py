"""`SharedMemoryManager` of the standard library, with leases behind its segments."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing import managers
from multiprocessing import shared_memory as standard
from typing import Any, Final

from shmlease.integrations.shared_memory import ShareableList, SharedMemory

__all__ = ["SharedMemoryManager"]

# The parts that typeshed does not know.
_managers: Final[Any] = managers


class _Tracker(_managers._SharedMemoryTracker):  # type: ignore[misc]
    """The segments that a manager is to unlink."""

    def destroy_segment(self, segment_name: str) -> None:
        self.segment_names.remove(segment_name)
        with contextlib.suppress(FileNotFoundError):  # unlinked by its user, or its maker has ended
            segment = SharedMemory(segment_name)
            segment.close()
            segment.unlink()


class _Server(managers.SharedMemoryServer):
    """A manager's server, which ends with its parent, however that ends."""

    stop_event: threading.Event

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        standard_tracker: Any = self.shared_memory_context  # type: ignore[has-type]
        self.shared_memory_context = _Tracker(standard_tracker.shared_memory_context_name, [])

    def serve_forever(self) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            threading.Thread(target=self._end_with, args=(parent,), daemon=True).start()
        super().serve_forever()

    def _end_with(self, parent: Any) -> None:
        parent.join()
        try:
            self.shared_memory_context.unlink()
        finally:
            self.stop_event.set()


class SharedMemoryManager(managers.SharedMemoryManager):
    """Makes segments that end with it; see `multiprocessing.managers.SharedMemoryManager`."""

    _Server = _Server
    # what typeshed does not know of
    _Client: Any
    _address: Any
    _authkey: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        managers.BaseManager.__init__(self, *args, **options)  # without a resource tracker

    def SharedMemory(self, size: int) -> SharedMemory:  # noqa: N802 - the standard library's name
        """A new segment of `size` bytes, which the manager unlinks at its end."""
        made: SharedMemory = self._tracked(lambda: SharedMemory(None, create=True, size=size), lambda made: made)
        return made

    def ShareableList(self, sequence: Any) -> ShareableList:  # noqa: N802
        """A new list of the values of `sequence`, which the manager unlinks at its end."""
        made: ShareableList = self._tracked(lambda: ShareableList(sequence), lambda made: made.shm)
        return made

    def _tracked(self, make: Callable[[], Any], memory_of: Callable[[Any], standard.SharedMemory]) -> Any:
        with self._Client(self._address, authkey=self._authkey) as connection:
            made = make()
            try:
                _managers.dispatch(connection, None, "track_segment", (memory_of(made).name,))
            except BaseException:
                memory_of(made).unlink()
                raise
            return made
