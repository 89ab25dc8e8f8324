"""From an error number to what ran out, how much of it there was, and what to do."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator

import pytest

from shmlease.errors import CapacityError, LeaseError, RegistryUnavailableError
from shmlease.exhaustion import explained, explains_shortage, require_allocatable, require_file_size, shortage_behind


@pytest.fixture
def limit() -> Iterator[None]:
    """Soft limits that are put back."""
    kept = {number: resource.getrlimit(number) for number in (resource.RLIMIT_FSIZE, resource.RLIMIT_AS)}
    yield
    for number, limits in kept.items():
        resource.setrlimit(number, limits)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            errno.EMFILE,
            "the registry has all of its {nofile} descriptors in use (RLIMIT_NOFILE); close some, or raise `ulimit -n`",
        ),
        (errno.ENFILE, "raise the sysctl fs.file-max"),
        (errno.EAGAIN, "processes and threads"),
        (errno.E2BIG, "the arguments and environment of a program may have"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_each_shortage_has_its_words(number: int, words: str) -> None:
    nofile = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert words.format(nofile=nofile) in explained(OSError(number, os.strerror(number)), "the registry")


def test_memory_that_is_not_to_be_had_names_the_limit_that_is_set(limit: None) -> None:
    error = OSError(errno.ENOMEM, "")
    assert "neither RLIMIT_AS nor RLIMIT_DATA is set" in explained(error)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.getrlimit(resource.RLIMIT_AS)[1]))
    assert "RLIMIT_AS is 1 TiB; raise `ulimit -v`" in explained(error)


def test_memory_that_is_to_be_had_is_given_back_and_more_is_refused(limit: None) -> None:
    require_allocatable(1 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with pytest.raises(MemoryError):
        require_allocatable(1 << 41)


def test_file_beyond_the_limit_is_refused_before_a_signal_could_end_the_process(limit: None) -> None:
    require_file_size(1 << 50)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    require_file_size(4096)
    with pytest.raises(OSError, match="File too large") as refused:
        require_file_size(4097)
    assert "files of 4 KiB at most (RLIMIT_FSIZE); raise `ulimit -f`" in explained(refused.value)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (MemoryError(), errno.ENOMEM),
        (RuntimeError("can't start new thread"), errno.EAGAIN),
        (OSError(errno.EMFILE, ""), errno.EMFILE),
        (BlockingIOError(errno.EAGAIN, ""), errno.EAGAIN),
        (OSError(errno.E2BIG, ""), errno.E2BIG),
        (OSError(errno.EFBIG, ""), errno.EFBIG),
        (FileNotFoundError(errno.ENOENT, ""), None),
        (RuntimeError("Can't decrement id ref count (memory allocation failed for on disk image buffer)"), errno.ENOMEM),
        (RuntimeError("another"), None),
        (ValueError(), None),
        (CapacityError("ours"), None),
        (ExceptionGroup("both", [MemoryError(), OSError(errno.EMFILE, "")]), errno.ENOMEM),
        (ExceptionGroup("both", [MemoryError(), ValueError()]), None),
    ],
)
def test_shortage_is_told_from_other_errors(error: Exception, number: int | None) -> None:
    shortage = shortage_behind(error)
    assert (shortage.errno if shortage else None) == number


def test_thread_that_has_no_room_for_its_stack_is_a_shortage_of_memory(limit: None) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.getrlimit(resource.RLIMIT_AS)[1]))
    shortage = shortage_behind(RuntimeError("can't start new thread"))
    assert shortage is not None
    assert "RLIMIT_AS is 1 TiB" in explained(shortage)


def test_function_whose_shortages_are_explained_raises_nothing_else_anew() -> None:
    @explains_shortage("the tea cannot be made ({error!r})", RegistryUnavailableError)
    def make(error: Exception | None) -> str:
        if error is not None:
            raise error
        return "tea"

    assert make(None) == "tea"
    with pytest.raises(
        RegistryUnavailableError,
        match=r"the tea cannot be made \(MemoryError\(\)\): this process gets no more memory.*RLIMIT",
    ) as raised:
        make(MemoryError())
    assert isinstance(raised.value.__cause__, MemoryError)
    for other in (KeyError("k"), FileNotFoundError(errno.ENOENT, "gone"), RuntimeError("another"), LeaseError("ours")):
        with pytest.raises(type(other)) as passed:
            make(other)
        assert passed.value is other


def test_error_of_a_signal_handler_is_not_explained() -> None:
    def handler(number: int, frame: object) -> None:
        raise MemoryError("of the handler")

    @explains_shortage("it cannot be done")
    def interrupted() -> None:
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(MemoryError, match="of the handler"):
            interrupted()
    finally:
        signal.signal(signal.SIGUSR1, before)
