"""Each refusal of the registry as the exception it is to a caller."""

from __future__ import annotations

from typing import Final

from shmlease.core.messages import RefusalCode, Refused
from shmlease.errors import (
    CapacityError,
    LeaseClosedError,
    LeaseError,
    PermissionDeniedError,
    ProtocolError,
    RegistryFaultError,
    RegistryUnavailableError,
    SegmentExistsError,
    SegmentNotFoundError,
    TicketError,
)

__all__ = ["error_of"]

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
}


def error_of(refused: Refused) -> LeaseError:
    """The exception for `refused`, with its facts."""
    return _ERRORS[refused.code](refused.message, **refused.fields)
