"""The lease probe: asks the kernel whether anyone at all has a file open or mapped; see `shmlease.system.file_lease`."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from shmlease.auditor.judge.evidence import File, Key, Probe
from shmlease.compiled import load_compiled
from shmlease.errors import PermissionDeniedError
from shmlease.system.file_lease import give_back_lease, take_lease
from shmlease.system.safe_open import directory_of, open_regular, reason_of

__all__ = ["FileLease", "compiled_probe", "holding_lease", "probe", "probe_files"]

# A probe takes some 5 us; on a busy machine it may lose the processor meanwhile, for some tens of milliseconds.
_PAUSES_S: Final = (0.0005, 0.002, 0.008, 0.032)
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})
_SOURCE: Final = os.path.join(os.path.dirname(__file__), "lease_probe.c")
_ANSWERS: Final = ((Probe.FREE, ""), (Probe.HELD, ""), None)  # as lease_probe.c numbers them; about the last, ask here


@functools.cache
def compiled_probe() -> Callable[..., None] | None:
    """`shmlease_probe` of lease_probe.c; None if it was not compiled."""
    library = load_compiled(_SOURCE)
    if library is None:
        return None
    library.shmlease_probe.restype = None
    library.shmlease_probe.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    return library.shmlease_probe


def probe(path: str, key: Key, *, directory: int | None = None) -> tuple[Probe, str]:
    """Whether anybody holds the file of that device and inode at `path`, relative to the open `directory` if given.

    The lease is given back at once, so that an opener who meets it waits for some microseconds.

    Returns
    -------
    tuple of Probe and str
        The verdict, and the reason where it is unknown.
    """
    verdict, reason, descriptor = _acquire(path, key, directory)
    if descriptor >= 0:
        _give_back(descriptor)
    return verdict, reason


def _probe_each(files: Iterable[File]) -> dict[Key, tuple[Probe, str]]:
    """The answer about each file, which was found below its root; no link on the way is followed.

    A directory is opened once for all files in it that follow each other, which are asked about together.
    """
    probes: dict[Key, tuple[Probe, str]] = {}
    for (root, _), listed in itertools.groupby(files, _directory_of):
        beside = list(listed)
        try:
            with directory_of(root, beside[0].name) as (directory, _):
                for file, answer in zip(beside, _ask_about(beside, directory), strict=True):
                    probes[file.key] = answer or probe(_name_of(file), file.key, directory=directory)
        except (FileNotFoundError, PermissionDeniedError):
            probes |= {file.key: (Probe.GONE, "") for file in beside if file.key not in probes}
        except OSError as error:
            unknown = Probe.UNKNOWN, f"open: {reason_of(error)}"
            probes |= {file.key: unknown for file in beside if file.key not in probes}
    return probes


def _ask_about(files: Sequence[File], directory: int) -> Iterable[tuple[Probe, str] | None]:
    """The answers about files of an open directory that need no second look; None for each that does."""
    ask = compiled_probe()
    if ask is None:
        return [None] * len(files)
    names = b"".join(b"%b\0" % os.fsencode(_name_of(file)) for file in files)
    keys = array.array("Q", itertools.chain.from_iterable(file.key for file in files))
    answers = (ctypes.c_uint8 * len(files))()
    ask(directory, names, keys.buffer_info()[0], len(files), answers)
    return [_ANSWERS[answer] for answer in answers]


def _name_of(file: File) -> str:
    return file.name.rpartition("/")[2]


def _directory_of(file: File) -> tuple[str, str]:
    return file.root.path, file.name.rpartition("/")[0]


def probe_files(files: Iterable[File], wait: Callable[[float], object] = time.sleep) -> dict[Key, tuple[Probe, str]]:
    """What the kernel says of each of `files`, asked again, after a wait, where the answer was that somebody holds it.

    Ask about files without a holder that can be seen. One that cannot is the probe of another audit, which has the file
    open for some microseconds: two pytest workers that audit side by side meet like that.
    """
    asked = {file.key: file for file in files}
    probes = _probe_each(asked.values())
    for pause_s in _PAUSES_S:
        held = [key for key, (verdict, _) in probes.items() if verdict is Probe.HELD]
        if not held:
            break
        wait(pause_s)
        probes.update(_probe_each(asked[key] for key in held))
    return probes


class FileLease:
    """A lease being held on an open file that nobody else had open when it was granted."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def is_unbroken(self) -> bool:
        """Whether nobody has begun to open the file since."""
        return fcntl.fcntl(self.descriptor, fcntl.F_GETLEASE) == fcntl.F_WRLCK


@contextmanager
def holding_lease(
    path: str, key: Key, *, directory: int | None = None, wait: Callable[[float], object] = time.sleep
) -> Iterator[tuple[FileLease | None, Probe, str]]:
    """The lease, or None with the verdict and its reason; openers wait until the block ends, so keep it short.

    It is asked for again, after a wait, where somebody holds the file: see `probe_files`.
    """
    verdict, reason, descriptor = _acquire(path, key, directory)
    for pause_s in _PAUSES_S:
        if verdict is not Probe.HELD:
            break
        wait(pause_s)
        verdict, reason, descriptor = _acquire(path, key, directory)
    try:
        yield (FileLease(descriptor) if descriptor >= 0 else None), verdict, reason
    finally:
        if descriptor >= 0:
            _give_back(descriptor)


def _acquire(path: str, key: Key, directory: int | None) -> tuple[Probe, str, int]:
    """The verdict, its reason, and the descriptor that holds the lease, or -1."""
    try:
        descriptor = open_regular(path, directory=directory, file=key)
    except PermissionDeniedError:  # a link, a FIFO, anything else has taken its name
        return Probe.GONE, "", -1
    except OSError as error:
        if error.errno in _GONE:
            return Probe.GONE, "", -1
        # EAGAIN: another probe, or another program, holds a lease of its own on it right now
        held = error.errno == errno.EAGAIN
        return (Probe.HELD, "", -1) if held else (Probe.UNKNOWN, f"open: {error.strerror}", -1)
    is_leased = False
    try:
        take_lease(descriptor)
        is_leased = True
    except OSError as error:
        held = error.errno == errno.EAGAIN
        return (Probe.HELD, "", -1) if held else (Probe.UNKNOWN, f"F_SETLEASE: {error.strerror}", -1)
    finally:
        if not is_leased:
            os.close(descriptor)
    return Probe.FREE, "", descriptor


def _give_back(descriptor: int) -> None:
    try:
        give_back_lease(descriptor)
    finally:
        os.close(descriptor)
