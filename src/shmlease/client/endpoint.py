"""What a link needs of the world: a registry to talk to, its notice log, and the few files a client touches itself.

Each has a real form, `directory_endpoint`, and one in memory, `shmlease.testing.memory_transport`, held to the same tests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from shmlease.core.claims import ClaimToken
from shmlease.core.limits import Limits
from shmlease.core.messages import Claim, Notice
from shmlease.core.snapshot import Snapshot
from shmlease.system.clock import Clock
from shmlease.system.mapping import Mapping

__all__ = ["Connection", "Endpoint", "NoticeWriter", "Spawn"]

# Starts a thread; None where everything runs in this one.
Spawn = Callable[[Callable[..., object], tuple[Any, ...]], object] | None


class Connection(Protocol):
    """A connection to the registry that keeps the bounds of packets; made closed.

    Attributes
    ----------
    inbox : deque
        Packets received and not taken in; an empty one if the registry has hung up.
    """

    inbox: deque[bytes]

    def open(self) -> None:
        """Connect; a ConnectionError or FileNotFoundError means that nobody listens."""
        ...

    def send(self, packet: bytes) -> None:
        """Send; an OSError means that the registry is gone."""
        ...

    def receive(self, *, wait: bool) -> None:
        """Put the next packet into the inbox, in one call of a function written in C: no interrupt can lose it.

        If none comes in time, nothing is.
        """
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class NoticeWriter(Protocol):
    """Where notices are kept for a successor: see `shmlease.system.notice_log.NoticeLog`."""

    last: int

    @property
    def record_place(self) -> slice: ...

    def append(self, notice: Notice) -> bool: ...
    def restart(self) -> None: ...
    def describe(self, claim: Claim) -> bool: ...
    def use_begun(self, lease: int) -> bytes: ...
    def use_ended(self, lease: int) -> bytes: ...
    def store(self, place: slice, content: bytes) -> None: ...


class Endpoint(Protocol):
    """One registry, as a client reaches it."""

    id: str
    clock: Clock
    spawn: Spawn

    def exists(self) -> bool:
        """Whether the registry has not ended, dead or alive."""
        ...

    def connection(self) -> Connection:
        """A new connection, to be opened."""
        ...

    def succeed(self) -> None:
        """Start a successor if the registry is dead and nobody else is at it."""
        ...

    def snapshot(self) -> Snapshot | None:
        """The table as it is now, without asking the registry; None if it cannot be read."""
        ...

    def limits(self) -> Limits | None:
        """What a registry may use that this process starts; None if it cannot start one."""
        ...

    def open_notice_log(self, client: int) -> NoticeWriter:
        """The notice log that the registry made for `client`."""
        ...

    def map(self, segment: int, size_bytes: int, *, writable: bool, private: bool, reserve: bool) -> Mapping:
        """Map a segment; with `reserve`, give all its pages memory first (OSError ENOSPC if there is not enough)."""
        ...

    def link_alias(self, segment: int, alias: str, nbytes: int, /) -> None:
        """See `RegistryDirectory.link_alias`."""
        ...

    def has_alias(self, segment: int, alias: str, /) -> bool:
        """See `RegistryDirectory.has_alias`."""
        ...

    def unlink_alias(self, segment: int, alias: str, /) -> None:
        """See `RegistryDirectory.unlink_alias`."""
        ...

    def new_claim(self) -> ClaimToken:
        """A claim for `claim_spare`, which is closed when it is not needed any more."""
        ...

    def claim_spare(self, segment: int, generation: int, claim: Any, /) -> bool:
        """See `RegistryDirectory.claim_spare`."""
        ...

    def claim_again(self, generation: int, claim: Any, /) -> bool:
        """See `RegistryDirectory.claim_again`."""
        ...

    def let_go(self, generation: int, claim: Any, /) -> bool:
        """See `RegistryDirectory.let_go`."""
        ...

    def mint_token(self, ticket: int, minted: list[None], /) -> None:
        """See `RegistryDirectory.mint_token`."""
        ...

    def void_token(self, ticket: int, /) -> int | None:
        """See `RegistryDirectory.void_token`."""
        ...

    def has_token(self, ticket: int, /) -> bool:
        """See `RegistryDirectory.has_token`."""
        ...

    def claim_token(self, ticket: int, client: int, claimed: list[None], /) -> bool:
        """See `RegistryDirectory.claim_token`."""
        ...

    def close(self) -> None:
        """Let go of what is kept open between calls; it is opened again when it is needed."""
        ...
