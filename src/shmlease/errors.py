"""The error tree: every error shmlease raises, each also a builtin that a caller would expect.

An error keeps the facts it names as attributes and survives pickling, so that a worker's error arrives whole in its
parent. `fields` is what travels; the message is made from it again on the other side.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AbandonedError",
    "CapacityError",
    "DTypeError",
    "IngestError",
    "LeaseClosedError",
    "LeaseError",
    "LeaseWarning",
    "LingeringViewError",
    "LingeringViewWarning",
    "ModeError",
    "ObjectError",
    "PermissionDeniedError",
    "ProtocolError",
    "ReentrantCallError",
    "RegistryFaultError",
    "RegistryUnavailableError",
    "SegmentExistsError",
    "SegmentNotFoundError",
    "SinkError",
    "TicketError",
    "UnreleasedLeaseWarning",
    "UnsupportedPlatformError",
]


class LeaseError(Exception):
    """Base of every error of shmlease.

    Parameters
    ----------
    message : str
        What happened: the subject, what was seen, what was expected, what to do next.
    **fields
        The facts in the message, kept as attributes of the error.
    """

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.fields)

    def __str__(self) -> str:
        return self.message


def _rebuild(cls: type[LeaseError], message: str, fields: dict[str, Any]) -> LeaseError:
    return cls(message, **fields)


class SegmentNotFoundError(LeaseError, LookupError):
    """No published segment of that name appeared within the time allowed."""


class AbandonedError(LeaseError, RuntimeError):
    """The writer of a name died or gave up before it published.

    `pid` and `site` say who it was and where in its code, `at_ns` when, of CLOCK_MONOTONIC.
    """


class SegmentExistsError(LeaseError, FileExistsError):
    """The name is taken by a live segment."""


class CapacityError(LeaseError, MemoryError):
    """Neither the registry's capacity nor /dev/shm had room within the time allowed, or this process has met a limit of its
    own.

    The figures of a capacity are attributes.
    """


class LeaseClosedError(LeaseError, ValueError):
    """The lease was used after its release, or in a way that its state does not allow."""


class ModeError(LeaseError, ValueError):
    """A segment that is not mutable was to be written in place, or one that is to be copied on write."""


class ObjectError(LeaseError, ValueError):
    """A segment holds no object that can be loaded: it is cut short, something else, or needs a missing `library`."""


class TicketError(LeaseError, ValueError):
    """A ticket that is malformed, expired, already redeemed, or of another registry."""


class RegistryUnavailableError(LeaseError, ConnectionError):
    """No registry answers: none was started, it was closed, or its successor could not be started in time."""


class RegistryFaultError(LeaseError, RuntimeError):
    """Two processes of the registry have died of this request, through a fault of the registry's own; others are served."""


class ReentrantCallError(LeaseError, RuntimeError):
    """A signal handler or finalizer used shmlease while its own thread was in the middle of a call of shmlease."""


class ProtocolError(LeaseError, ValueError):
    """A message that does not follow the protocol, or a ledger or notice log that cannot be read."""


class PermissionDeniedError(LeaseError, PermissionError):
    """The peer or the runtime directory belongs to another user."""


class DTypeError(LeaseError, TypeError):
    """A dtype that cannot live in shared memory: it holds Python objects, or cannot be described exactly."""


class LingeringViewError(LeaseError, BufferError):
    """A release found numpy views still alive, and the caller asked for an error."""


class SinkError(LeaseError, OSError):
    """The sink could not write what it was given; `errno` is the system's reason, where it was the system."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.errno: int | None = fields.get("errno")  # OSError has its own, which is not looked up in the fields


class IngestError(LeaseError, ValueError):
    """Input that cannot be ingested; `path`, `line` and `field` say where."""


class UnsupportedPlatformError(LeaseError, ImportError):
    """shmlease needs Linux with /dev/shm."""


class LeaseWarning(UserWarning):
    """Base of the warnings of shmlease; shown by default."""


class UnreleasedLeaseWarning(LeaseWarning, ResourceWarning):
    """A lease or registry was collected, or a process ended, without a release; hidden by default, as
    ResourceWarnings are.
    """


class LingeringViewWarning(LeaseWarning):
    """A numpy view outlives its lease; the segment stays held until the view dies."""
