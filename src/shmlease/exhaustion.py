"""What the system ran out of, or does not allow, in words: from an error number to the limit behind it and what to do."""

from __future__ import annotations

import errno
import functools
import os
import resource
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from shmlease.errors import CapacityError, LeaseError
from shmlease.interrupts import is_from_handler
from shmlease.units import format_bytes

__all__ = ["explained", "explains_shortage", "require_allocatable", "require_file_size", "shortage_behind"]

P = ParamSpec("P")
R = TypeVar("R")

# Not ENOSPC: which file system is full, only who writes there can say.
_SHORTAGES: Final = frozenset((errno.E2BIG, errno.EAGAIN, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM))


def explains_shortage(failure: str, kind: type[LeaseError] = CapacityError) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a function raise `kind` with the words "`failure`: what ran out" where memory, descriptors or processes run out.

    In `failure`, ``{path}`` stands for the function's argument `path`, and ``{self.path}`` for what a method's object has.

    Not for what is called often, nor where the caller must get the result at once, whatever a signal handler raises.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except (OSError, MemoryError, RuntimeError, BaseExceptionGroup) as error:
                shortage = shortage_behind(error)
                if shortage is None:
                    raise
                names = function.__code__.co_varnames
                named = {**dict(zip(names, args, strict=False)), **kwargs}
                raise kind(f"{failure.format(**named)}: {explained(shortage)}") from error

        return call

    return decorate


def shortage_behind(error: BaseException) -> OSError | None:
    """What ran out, if that is why Python raised `error`; None if it is an error of ours, of a signal handler or of another
    kind.
    """
    if isinstance(error, BaseExceptionGroup):  # the work failed, and what was to clean up after it
        shortages = [shortage_behind(one) for one in error.exceptions]
        return shortages[0] if all(shortages) else None
    if (
        not isinstance(error, OSError | MemoryError | RuntimeError)
        or isinstance(error, LeaseError)
        or is_from_handler(error)
    ):
        return None
    if isinstance(error, MemoryError) or "memory allocation failed" in str(error):  # HDF5's words, which h5py passes on
        return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, OSError):
        return error if error.errno in _SHORTAGES else None
    if "start new thread" in str(error):  # there was no room for its stack, or the user may have no more
        number = errno.ENOMEM if _set_memory_limits() else errno.EAGAIN
        return OSError(number, os.strerror(number))
    return None


def explained(error: OSError, who: str = "this process") -> str:
    """Why the system refused `error` to `who`, as far as can be told, and what to do about it.

    Parameters
    ----------
    error : OSError
        From a system call of this process. Of a full or read-only file system only who writes there can say more: of
        /dev/shm, `shmlease.system.shm_shortage`.
    who : str
        What the one who reads this calls this process.
    """
    match error.errno:
        case errno.EFBIG:
            return f"{who} may write files of {_bytes(resource.RLIMIT_FSIZE)} at most (RLIMIT_FSIZE); raise `ulimit -f`"
        case errno.EMFILE:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return f"{who} has all of its {limit} descriptors in use (RLIMIT_NOFILE); close some, or raise `ulimit -n`"
        case errno.ENFILE:
            return "the system's table of open files is full; close some, or raise the sysctl fs.file-max"
        case errno.ENOMEM:
            return f"{who} gets no more memory{_memory_limits()}"
        case errno.EAGAIN:
            limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
            if limit == resource.RLIM_INFINITY:
                return "the system or its control group (pids.max) allows no more processes and threads; end some"
            return (
                f"this user may have {limit} processes and threads at most (RLIMIT_NPROC); end some, or raise `ulimit -u`"
            )
        case errno.E2BIG:
            limit = os.sysconf("SC_ARG_MAX")
            return (
                f"the arguments and environment of a program may have {format_bytes(limit)} together, and 128 KiB each; "
                "shorten an environment variable or the arguments, or raise `ulimit -s`"
            )
        case _:
            return error.strerror or str(error)


def require_file_size(size_bytes: int) -> None:
    """Refuse to write into a file beyond RLIMIT_FSIZE: where SIGXFSZ is not ignored, it would end the process.

    Raises
    ------
    OSError
        EFBIG: the limit is below `size_bytes`.
    """
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if 0 <= limit < size_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def require_allocatable(size_bytes: int) -> None:
    """Refuse to begin what ends the process if memory runs out in the middle of it.

    Raises
    ------
    MemoryError
        There are no `size_bytes` now.
    """
    bytes(size_bytes)


def _bytes(number: int) -> str:
    limit = resource.getrlimit(number)[0]
    return "unlimited size" if limit == resource.RLIM_INFINITY else format_bytes(limit)


def _set_memory_limits() -> list[str]:
    limits = {
        name: resource.getrlimit(number)[0]
        for name, number in (("RLIMIT_AS", resource.RLIMIT_AS), ("RLIMIT_DATA", resource.RLIMIT_DATA))
    }
    return [f"{name} is {format_bytes(limit)}" for name, limit in limits.items() if limit != resource.RLIM_INFINITY]


def _memory_limits() -> str:
    finite = _set_memory_limits()
    if finite:
        return f": {', '.join(finite)}; raise `ulimit -v` or `ulimit -d`"
    return "; neither RLIMIT_AS nor RLIMIT_DATA is set, so the system, its control group or vm.max_map_count is the limit"
