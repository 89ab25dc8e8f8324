"""`SharedMemory` and `ShareableList` of the standard library, with leases behind them.

Names, sizes, methods and errors are the standard library's. What differs is who ends a segment:

* The registry does: the one that ``SHMLEASE_REGISTRY`` names, or the user's default one, which is started at first use and
  ends with its last user. No resource tracker knows of the segment, so no exit of an attacher ends it.
* A name lasts until `unlink`, or until the process that made it has ended, and its multiprocessing parent, which a tracker
  would have served too. With ``track=False`` it lasts until `unlink` or the end of the registry.
* The memory lasts until the name has gone and whoever has it open has closed it, or died. A view that is alive after
  `close` stays valid.
* Pages are reserved: where there is no room, creating raises MemoryError, and nothing is a SIGBUS later.

A name that no registry knows is opened as the standard library would, so that segments of other programs can be used.
"""

from __future__ import annotations

import atexit
import errno
import functools
import mmap
import multiprocessing
import operator
import os
import sys
import types
import weakref
from collections.abc import Callable
from multiprocessing import shared_memory
from typing import Any, Final

import numpy as np

from shmlease import (
    AbandonedError,
    Address,
    Lease,
    RegistryHandle,
    RegistryUnavailableError,
    SegmentExistsError,
    SegmentNotFoundError,
    TicketError,
    connect,
)

__all__ = ["ShareableList", "SharedMemory"]

# Its private parts are as they have been since Python 3.8; the tests of the standard library itself look at them.
standard: Final[Any] = shared_memory
# Long enough for what others are just letting go of, and for warm segments to be given back; the standard library's
# callers expect an answer at once.
_ROOM_WITHIN_S: Final = 1.0
# NAME_MAX of tmpfs, which shm_open(3) of glibc allows as well.
_NAME_MAX: Final = 255
# Addresses of a process, on every processor that Linux runs on, are fewer: it is mmap(2) that refuses a size from here on.
_TOO_LARGE: Final = 1 << 56


class SharedMemory(shared_memory.SharedMemory):
    """A block of shared memory, made or attached by name; see `multiprocessing.shared_memory.SharedMemory`.

    Parameters
    ----------
    name : str, optional
        What it is called in /dev/shm; one is chosen if it is created without.
    create : bool
        Make it, rather than attach to it.
    size : int
        Bytes, of a new one: exactly so many, all zero.
    track : bool
        Whether the name ends with the process that has made it, as on Python 3.13. Attaching never ends a name.

    Raises
    ------
    FileExistsError, FileNotFoundError, ValueError, OSError
        As the standard library does.
    MemoryError
        There is no room for it (a `CapacityError`, with the figures).
    """

    #: Names last until the registry ends, whatever `track` says: for programs that leave it to the next one to unlink.
    _outlives_processes = False
    _buf: memoryview | None
    _mode: int
    _prepend_leading_slash: bool
    _registry: RegistryHandle | None = None
    _address: Address | None = None

    def __init__(self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool = True) -> None:
        if not size >= 0:
            raise ValueError("'size' must be a positive integer")
        if create:
            self._flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
            if size == 0:
                raise ValueError("'size' must be a positive number different from zero")
        if name is None and not self._flags & os.O_EXCL:
            raise ValueError("'name' can only be None if create=True")
        self._track = track
        if name is not None:
            self._name = "/" + name if self._prepend_leading_slash else name
            self._create(size) if create else self._attach()
            return
        while self._buf is None:
            self._name = standard._make_filename()
            try:
                self._create(size)
            except FileExistsError:
                continue

    def _create(self, size: int) -> None:
        name, size = _os_name(self._name, self._flags), operator.index(size)
        if size > sys.maxsize:
            raise OverflowError("Python int too large to convert to C long")
        if size >= _TOO_LARGE:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        try:
            registry, lease = _on_registry(
                lambda registry: registry.lease(name, shape=size, dtype=np.uint8, mutable=True, timeout=_ROOM_WITHIN_S),
                start=True,
            )
        except SegmentExistsError:
            raise _os_error(errno.EEXIST, self._name) from None
        try:
            _link(lease, is_tracked=self._track and not self._outlives_processes)
        except SegmentExistsError:
            lease.release()
            raise _os_error(errno.EEXIST, self._name) from None
        except BaseException:
            lease.release()
            raise
        self._hold(registry, lease)

    def _attach(self) -> None:
        name = _os_name(self._name)
        try:
            registry, lease = _on_registry(lambda registry: registry.attach(name, mode="r+", timeout=0), start=False)
        except (SegmentNotFoundError, AbandonedError, RegistryUnavailableError):
            self._open_unknown()
        else:
            self._hold(registry, lease)

    def _hold(self, registry: RegistryHandle, lease: Lease) -> None:
        self._registry, self._address = registry, lease.address()
        self._size = lease.nbytes
        self._buf = lease.array.ravel("K").view(np.uint8).data
        # not an attribute: collected in a cycle together with this object, the lease would warn that it was not released
        _open[id(self)] = weakref.ref(self), lease

    def _open_unknown(self) -> None:
        """Map what no registry has made."""
        fd = standard._posixshmem.shm_open(self._name, os.O_RDWR, mode=self._mode)
        try:
            self._size = os.fstat(fd).st_size
            self._buf = memoryview(mmap.mmap(fd, self._size))
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close access to the memory from this instance; views that are alive stay valid, and hold it until they die."""
        self._buf = None
        _, lease = _open.pop(id(self), (None, None))
        if lease is not None:
            lease.release()

    def unlink(self) -> None:
        """Make the name free; the memory goes when nobody has it open any more."""
        if not self._name:
            return
        name = _os_name(self._name)
        if self._registry is None or self._address is None:
            standard._posixshmem.shm_unlink(self._name)
            return
        try:
            self._registry.withdraw(self._address)
        except (SegmentNotFoundError, RegistryUnavailableError):
            raise _os_error(errno.ENOENT, f"/{name}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        """Keeps `track`, which the standard library forgets."""
        make = self.__class__ if self._track else functools.partial(self.__class__, track=False)
        return make, (self.name, False, self.size)


class ShareableList(shared_memory.ShareableList[Any]):
    """A list of fixed length in shared memory; see `multiprocessing.shared_memory.ShareableList`."""

    # the standard library's own, which finds `SharedMemory` here
    __init__ = types.FunctionType(
        standard.ShareableList.__init__.__code__, {**vars(standard), "SharedMemory": SharedMemory}, "__init__"
    )
    __init__.__kwdefaults__ = standard.ShareableList.__init__.__kwdefaults__
    __init__.__defaults__ = standard.ShareableList.__init__.__defaults__


_joined: Final[dict[str | None, RegistryHandle]] = {}
_open: Final[dict[int, tuple[weakref.ref[SharedMemory], Lease]]] = {}


def _close_all() -> None:
    """At exit: close what is open, as the end of the interpreter closes the standard library's."""
    for reference, _ in list(_open.values()):
        if (memory := reference()) is not None:
            memory.close()


atexit.register(_close_all)


def _os_name(name: str, flags: int = os.O_RDWR) -> str:
    """What the file in /dev/shm is called that `shm_open` opens by `name`.

    Raises
    ------
    OSError, ValueError
        It opens none by that name.
    """
    if "\0" in name:
        raise ValueError("embedded null character")
    encoded = name.encode().lstrip(b"/")
    if b"/" in encoded or encoded in (b".", b"..") or not 1 <= len(encoded) <= _NAME_MAX:
        os.close(standard._posixshmem.shm_open(name, flags, mode=0o600))  # raises; what exactly depends on the C library
        raise _os_error(errno.EINVAL, name)
    return encoded.decode()


def _os_error(code: int, name: str) -> OSError:
    return OSError(code, os.strerror(code), name)


def _on_registry(use: Callable[[RegistryHandle], Lease], *, start: bool) -> tuple[RegistryHandle, Lease]:
    """The registry, and the lease that `use` takes there; one that has ended since it was joined is joined anew."""
    named = os.environ.get("SHMLEASE_REGISTRY")
    joined = _joined.get(named)
    if joined is not None:
        try:
            return joined, use(joined)
        except RegistryUnavailableError:
            _joined.pop(named, None)
    joined = connect(on_lingering="detach", start=start)
    _joined[named] = joined
    return joined, use(joined)


def _link(lease: Lease, *, is_tracked: bool) -> None:
    if not is_tracked:
        lease.link()
        return
    parent = multiprocessing.parent_process()  # with which a worker would have had its tracker in common
    parents = [parent.pid or 0] if parent is not None and parent.is_alive() else []
    try:
        lease.link(while_alive=[os.getpid(), *parents])
    except TicketError:
        lease.link(while_alive=[os.getpid()])  # it has ended just now
