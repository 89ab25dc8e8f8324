"""Each refusal of the registry as the exception it is to a caller, or as a line in the log where the caller has gone on.

Also what a call raises where this process itself ran out of something.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Final

from shmlease.core.messages import RefusalCode, Refused
from shmlease.errors import (
    AbandonedError,
    CapacityError,
    LeaseClosedError,
    LeaseError,
    ModeError,
    PermissionDeniedError,
    ProtocolError,
    RegistryFaultError,
    RegistryUnavailableError,
    SegmentExistsError,
    SegmentNotFoundError,
    TicketError,
)
from shmlease.exhaustion import shortage_behind
from shmlease.system.shm_shortage import explained

__all__ = ["error_of", "explain_shortage", "log_refusals"]

_ERRORS: Final[dict[RefusalCode, type[LeaseError]]] = {
    RefusalCode.CAPACITY: CapacityError,
    RefusalCode.NOT_FOUND: SegmentNotFoundError,
    RefusalCode.EXISTS: SegmentExistsError,
    RefusalCode.NOT_HELD: LeaseClosedError,
    RefusalCode.TICKET: TicketError,
    RefusalCode.CLOSING: RegistryUnavailableError,
    RefusalCode.PROTOCOL: ProtocolError,
    RefusalCode.PERMISSION: PermissionDeniedError,
    RefusalCode.RESUME: RegistryUnavailableError,
    RefusalCode.FAULT: RegistryFaultError,
    RefusalCode.ABANDONED: AbandonedError,
    RefusalCode.MODE: ModeError,
}


def error_of(refused: Refused) -> LeaseError:
    """The exception for `refused`, with its facts."""
    return _ERRORS[refused.code](refused.message, **refused.fields)


def explain_shortage(error: BaseException, what: str) -> None:
    """Raise an error that says so if `error`, which has ended a call, means that memory or the like ran out.

    `what` was not possible.

    Raises
    ------
    CapacityError
        It did.
    """
    shortage = shortage_behind(error)
    if shortage is not None:
        raise CapacityError(f"{what}: {explained(shortage)}") from error


def log_refusals(registry: str, refusals: deque[str]) -> None:
    """Log refusals of notices, whose senders did not wait for an answer, and take them from `refusals`."""
    import logging  # noqa: PLC0415 - few processes ever have anything to log

    log = logging.getLogger("shmlease")
    with contextlib.suppress(IndexError):  # another thread logs them as well
        while True:
            refusal = refusals.popleft()  # first: a handler of logging's may use the link, and come here again
            log.error("registry %s refused a notice: %s", registry, refusal)
