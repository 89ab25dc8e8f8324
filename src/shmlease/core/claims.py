"""Spares that a client has taken, or keeps: what it must hold until the registry knows of that."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from shmlease.core import messages as m

__all__ = ["Claim", "ClaimToken", "Kept", "Said"]

# Number of a claim whose notice is not written.
_NOT_WRITTEN: Final = 2**62
# Of a use: nbytes, layout, site, due_ns.
Said = tuple[int, bytes, str, int]
_NOTHING: Final[Said] = (0, b"", "", -1)


class ClaimToken(Protocol):
    """What keeps a spare from being revoked while it is open."""

    def close(self) -> None: ...


class Claim(msgspec.Struct):
    """A spare that was taken; `number` is that of the notice that says so, or of its release."""

    token: ClaimToken
    number: int = _NOT_WRITTEN


class Kept:
    """The spare that is taken and given back without notices: what is said of it stands in shared memory.

    Attributes
    ----------
    is_taken : bool
        Whether some call or lease has it. If not, it is not claimed, and can be revoked like any spare.
    said : tuple
        What its use was described as last.
    """

    __slots__ = ("is_taken", "said", "spare", "token")

    def __init__(self, spare: m.Spare, token: ClaimToken) -> None:
        self.spare = spare
        self.token = token
        self.is_taken = True
        self.said: Said = _NOTHING
