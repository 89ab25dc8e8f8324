"""What a client does with a registry, in the one vocabulary of all that drive clients: a call each, on leases kept by key.

A client writes what a stamp stands for into every array that it makes, and can check every array that it has
(`shmlease.verification.contents`). Whoever drives it may take note of each call: before it, so that it shows in which call
a process was killed, and after it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import pickle
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from shmlease import Address, Lease, LeaseClosedError, Ticket, TicketError
from shmlease.client.handle import Mode, RegistryHandle
from shmlease.client.objects import pack
from shmlease.verification import contents

__all__ = ["Call", "Client", "Note", "Noting", "WrongReadError", "packed_bytes"]


class Call(enum.StrEnum):
    """What is noted: calls of the public interface, reads of arrays, and the lives of forked children."""

    LEASE = "lease"
    SHARE = "share"
    PUBLISH = "publish"
    ATTACH = "attach"
    WITHDRAW = "withdraw"
    TICKET = "ticket"
    REVOKE = "revoke"
    REDEEM = "redeem"
    READ = "read"
    RELEASE = "release"
    DETACH = "detach"
    STATISTICS = "statistics"
    CHILD = "child"


class WrongReadError(Exception):
    """An array did not hold what its writer wrote."""


@dataclasses.dataclass(slots=True)
class Note:
    """A call that is about to be made: on the content of which stamp, name or ticket, until when, for how many readers.

    What was attached shows only afterwards: its `stamp` is set during the call.
    """

    call: Call
    stamp: int = 0
    subject: str = ""
    limit_ns: int = 0
    readers: int = 0


Noting = Callable[[Note], AbstractContextManager[None]]


def packed_bytes(stamp: int, layout: Mapping[str, Any]) -> int:
    """How large an object `Client.put` puts."""
    return pack(_object(stamp, layout)).nbytes


def _object(stamp: int, layout: Mapping[str, Any]) -> dict[str, Any]:
    return {"stamp": stamp, "array": np.empty(**layout)}


class Client:
    """One process's leases, and views that outlive them, by key.

    Parameters
    ----------
    registry : RegistryHandle
        Whom it asks.
    noting : callable
        Gives the context in which a call is made. What a call raises passes through it.
    """

    def __init__(self, registry: RegistryHandle, noting: Noting = lambda _: contextlib.nullcontext()) -> None:
        self.registry = registry
        self.noting = noting
        self.leases: dict[int, Lease] = {}
        self.views: dict[int, np.ndarray[Any, Any]] = {}
        self.stamps: dict[int, int] = {}  # what was written there
        self.names: dict[int, str] = {}  # of leases that were taken by name, to write
        self.inherited: set[int] = set()  # leases of the parent process that were not used here yet

    # --- taking ------------------------------------------------------------------------------------------------------

    def lease(self, key: int, stamp: int, name: str | None, timeout_s: float, layout: Mapping[str, Any]) -> None:
        """Lease a new segment, and write."""
        self._lease(key, stamp, name, timeout_s, **layout)
        self.write(key, stamp)

    def lease_mutable(self, key: int, stamp: int, name: str | None, timeout_s: float, layout: Mapping[str, Any]) -> None:
        """Lease a new segment that stays mutable, and write.

        Raises
        ------
        WrongReadError
            It was not zeroed.
        """
        self._lease(key, stamp, name, timeout_s, mutable=True, **layout)
        if self.leases[key].array.any():
            raise WrongReadError("a mutable segment was not zeroed")
        self.write(key, stamp)

    def share(self, key: int, stamp: int, name: str | None, timeout_s: float, layout: Mapping[str, Any]) -> None:
        """Share an array."""
        array = np.empty(**layout)
        contents.write(array, stamp)
        with self.noting(Note(Call.SHARE, stamp, name or "")):
            self.leases[key] = self.registry.share(array, name, timeout=timeout_s)
        self.stamps[key], self.names[key] = stamp, name or ""

    def put(self, key: int, stamp: int, name: str | None, timeout_s: float, layout: Mapping[str, Any]) -> None:
        """Put an object that holds an array."""
        value = _object(stamp, layout)
        contents.write(value["array"], stamp)
        with self.noting(Note(Call.SHARE, stamp, name or "")):
            self.leases[key] = self.registry.put(value, name, timeout=timeout_s)
        self.stamps[key], self.names[key] = stamp, name or ""

    def attach(self, key: int, name: str, timeout_s: float, mode: Mode = "r") -> None:
        """Attach by name."""
        note = Note(Call.ATTACH, subject=name)
        with self.noting(note):
            self.leases[key] = self.registry.attach(name, mode=mode, timeout=timeout_s)
            self.stamps[key] = note.stamp = contents.stamp_of(self.leases[key].array)

    def attach_at(self, key: int, address: Address) -> None:
        """Attach by address."""
        self.leases[key] = self.registry.attach(address)
        self.stamps[key] = contents.stamp_of(self.leases[key].array)

    def redeem(self, key: int, text: str, stamp: int) -> None:
        """Redeem a ticket for what `stamp` stands for."""
        ticket = Ticket.parse(text)
        with self.noting(Note(Call.REDEEM, stamp, str(ticket.id), ticket.deadline_ns)):
            self.leases[key] = self.registry.redeem(ticket)
        self.stamps[key] = stamp

    def use_inherited(self, key: int) -> None:
        """Take a lease of its own on what the parent process holds."""
        try:
            self.leases[key].array  # noqa: B018 - using it is what takes the lease
        except LeaseClosedError:
            del self.leases[key]
            raise
        finally:
            self.inherited.discard(key)

    # --- using -------------------------------------------------------------------------------------------------------

    def write(self, key: int, stamp: int) -> None:
        """Overwrite."""
        self.stamps[key] = stamp
        contents.write(self.leases[key].array, stamp)

    def read(self, key: int) -> None:
        """Check an array, or a view that outlived its lease.

        Raises
        ------
        WrongReadError
            It does not hold what was written.
        """
        stamp = self.stamps[key]
        with self.noting(Note(Call.READ, stamp)):
            wrong = contents.flaw(self.leases[key].array if key in self.leases else self.views[key], stamp)
            if wrong:
                raise WrongReadError(wrong)

    def load(self, key: int) -> None:
        """Check the object that was put.

        Raises
        ------
        WrongReadError
            It is not what was put.
        """
        with self.noting(Note(Call.READ, self.stamps[key])):
            loaded = self.leases[key].load()
            if wrong := contents.flaw(loaded["array"], loaded["stamp"]):
                raise WrongReadError(wrong)

    def write_as_a_reader(self, key: int) -> None:
        """Try what a reader must not be able to do."""
        target = self.leases[key].array
        target.flags.writeable = True
        target[...] = target

    def publish(self, key: int, readers: int, ttl_s: float) -> None:
        """Publish, for so many readers to come."""
        limit_ns = time.monotonic_ns() + int(ttl_s * 1e9) if readers else 0
        with self.noting(Note(Call.PUBLISH, self.stamps[key], self.names[key], limit_ns, readers)):
            self.leases[key].publish(readers=readers, ttl=ttl_s)

    def ticket(self, key: int, ttl_s: float, to: int | None = None) -> str:
        """Make a ticket, as text."""
        with self.noting(Note(Call.TICKET, self.stamps[key])):
            made = self.leases[key].ticket(ttl=ttl_s, to=to)
        assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - of our own making
        return str(made)

    def revoke(self, text: str, stamp: int) -> None:
        """Take back a ticket for what `stamp` stands for.

        Raises
        ------
        TicketError
            It was not out any more.
        """
        ticket = Ticket.parse(text)
        with self.noting(Note(Call.REVOKE, stamp, str(ticket.id), ticket.deadline_ns)):
            if not self.registry.revoke(ticket):
                raise TicketError("it was redeemed, taken back, or over")

    def withdraw(self, name: str, stamp: int) -> None:
        """Make the name of what `stamp` stands for free."""
        with self.noting(Note(Call.WITHDRAW, stamp, name)):
            self.registry.withdraw(name)

    def address(self, key: int) -> Address:
        """Where the segment is."""
        return self.leases[key].address()

    def expose(self, key: int) -> str:
        """Give the segment a name in /dev/shm."""
        return self.leases[key].segment

    # --- letting go --------------------------------------------------------------------------------------------------

    def release(self, key: int) -> None:
        """Release in order."""
        lease = self.leases.pop(key)
        note = Note(Call.RELEASE, self.stamps[key], self.names.get(key, ""))
        self._ended(key)
        with self.noting(note):
            lease.release()

    def forget(self, key: int) -> None:
        """Lose a lease: the collector finds it."""
        del self.leases[key]
        self._ended(key)

    def detach(self, key: int) -> None:
        """Let the array carry the lease."""
        lease = self.leases[key]
        with self.noting(Note(Call.DETACH, self.stamps[key], self.names.get(key, ""))):
            self.views[key] = lease.detach()
        del self.leases[key]

    def keep_view(self, key: int) -> None:
        """Keep a view that will outlive the lease."""
        self.views[key] = self.leases[key].array[...]

    def drop_view(self, key: int) -> None:
        """Let the view die."""
        del self.views[key]
        self._ended(key)

    def _lease(self, key: int, stamp: int, name: str | None, timeout_s: float, **options: Any) -> None:
        with self.noting(Note(Call.LEASE, stamp, name or "")):
            self.leases[key] = self.registry.lease(name, timeout=timeout_s, **options)
        self.names[key] = name or ""

    def _ended(self, key: int) -> None:
        self.names.pop(key, None)
        if key not in self.views:
            self.stamps.pop(key, None)
