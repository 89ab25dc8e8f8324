"""What lies in a registry's directory, on the heap of one process instead: the twin of `shmlease.system.directory`."""

from __future__ import annotations

import ctypes
import errno
import threading
from collections.abc import Iterator
from typing import Final

from shmlease.core.messages import Notice
from shmlease.core.sizes import PAGE_BYTES
from shmlease.core.uses import DESCRIPTION_BYTES, RECORD_BYTES, Use, UseWriter, parse_use
from shmlease.system.mapping import Mapping

__all__ = ["MemoryNoticeLog", "MemoryStore"]

# A client that writes more notices than this unread waits until they are read, as one whose notice log is full.
_MOST_NOTICES: Final = 256


class _Memory:
    """The memory of a segment, on a page boundary."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._bytes = (ctypes.c_char * (size_bytes + PAGE_BYTES))()
        self.address = -(-ctypes.addressof(self._bytes) // PAGE_BYTES) * PAGE_BYTES

    def copy(self) -> _Memory:
        """Other memory of the same content."""
        copied = _Memory(self.size_bytes)
        ctypes.memmove(copied.address, self.address, self.size_bytes)
        return copied

    def clear(self) -> None:
        """Fill with zeros: what whoever still maps an unlinked segment sees."""
        ctypes.memset(self.address, 0, self.size_bytes)


class _HeapMapping(Mapping):
    """Keeps the memory of a segment alive; there is nothing to unmap."""

    __slots__ = ("_memory",)

    def __init__(self, memory: _Memory, size_bytes: int, *, writable: bool, private: bool) -> None:
        super().__init__(memory.address, size_bytes, writable=writable, private=private)
        self._memory: _Memory | None = memory

    def close(self) -> None:
        self.address, self._memory = 0, None


class MemoryClaim:
    """Keeps a spare from being revoked while it is open; made closed."""

    def __init__(self, claims: set[MemoryClaim]) -> None:
        self._claims = claims
        self.grant = (0, 0)  # segment, generation

    def close(self) -> None:
        """End the claim."""
        self._claims.discard(self)


class MemoryNoticeLog(UseWriter):
    """A client's notices that the registry has not read, and what it says of the spare that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.unread: list[Notice] = []
        self.last = 0
        self._use = bytearray(DESCRIPTION_BYTES + RECORD_BYTES)
        self._told = bytes(RECORD_BYTES)

    def append(self, notice: Notice) -> bool:
        """Write `notice`; False if there is no room before the registry has read."""
        if len(self.unread) >= _MOST_NOTICES:
            return False
        self.last = notice.seq
        self.unread.append(notice)
        return True

    def restart(self) -> None:
        """Nothing to do: what is read makes room."""

    def store(self, place: slice, content: bytes) -> None:
        """Write down what is said of the spare."""
        self._use[place] = content

    def use(self) -> Use | None:
        """What its client has recorded about the spare; None if that has not changed since the last call."""
        record = bytes(self._use[self.record_place])
        if record == self._told:
            return None
        self._told = record
        return parse_use(record, bytes(self._use[:DESCRIPTION_BYTES]))


class MemoryStore:
    """Segments, tokens and notice logs of one registry; each method is atomic, as the system call is that it stands for."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        # reentrant: the garbage collector may release a lease in the middle of anything
        self._lock = threading.RLock()
        self._segments: dict[int, _Memory] = {}
        self._claims: set[MemoryClaim] = set()
        self._tokens: dict[int, int | None] = {}  # ticket -> who redeemed it
        self._notice_logs: dict[int, MemoryNoticeLog] = {}

    # --- segments ------------------------------------------------------------------------------------------------

    def create_segment(self, number: int, size_bytes: int) -> None:
        """Make a segment; it has its memory at once."""
        with self._lock:
            if number in self._segments:
                raise FileExistsError(errno.EEXIST, f"segment {number} exists")
            self._segments[number] = _Memory(size_bytes)

    def unreserved_bytes(self, number: int) -> int:
        """None: memory of the heap need not be reserved."""
        del number
        return 0

    def retire_segment(self, number: int, alias: str, *, punch: bool) -> None:
        """Forget a segment; whoever maps it keeps the memory, cleared if `punch`."""
        del alias
        with self._lock:
            memory = self._segments.pop(number, None)
            if memory is not None and punch:
                memory.clear()

    def recycle_segment(self, number: int, alias: str, size_bytes: int, into: int) -> bool:
        """False: nobody can say who maps it."""
        del number, alias, size_bytes, into
        return False

    def unlink_alias(self, number: int, alias: str) -> None:
        """Nothing to do: nothing has an alias here."""

    def link_alias(self, number: int, alias: str, nbytes: int = 0) -> None:
        """Refused: there is no file that could be given a name.

        Raises
        ------
        OSError
            Always.
        """
        del nbytes
        raise OSError(errno.EOPNOTSUPP, f"a registry in memory has no files: segment {number} cannot be named {alias}")

    def free_bytes(self) -> int:
        """What the segments leave of the capacity: this heap is never short of room."""
        with self._lock:
            return self._capacity_bytes - sum(memory.size_bytes for memory in self._segments.values())

    def map(self, number: int, size_bytes: int, *, writable: bool, private: bool = False) -> Mapping:
        """The memory of a segment; a copy of it, if that is to be `private`.

        Raises
        ------
        FileNotFoundError
            There is no such segment, or it is smaller.
        """
        with self._lock:
            memory = self._segments.get(number)
            if memory is None or memory.size_bytes < size_bytes:
                raise FileNotFoundError(errno.ENOENT, f"segment {number} has no {size_bytes} bytes")
            return _HeapMapping(memory.copy() if private else memory, size_bytes, writable=writable, private=private)

    # --- spares --------------------------------------------------------------------------------------------------

    def new_claim(self) -> MemoryClaim:
        """A claim for `claim_spare`."""
        return MemoryClaim(self._claims)

    def claim_spare(self, number: int, generation: int, claim: MemoryClaim) -> bool:
        """Keep a spare from being revoked while `claim` is open; False if it was revoked before."""
        with self._lock:
            if number not in self._segments or self._is_claimed(number, generation):
                return False
            claim.grant = (number, generation)
            self._claims.add(claim)
            return True

    def claim_again(self, generation: int, claim: MemoryClaim) -> bool:
        """Claim once more what `let_go` has let go; False if it was revoked since."""
        return self.claim_spare(claim.grant[0], generation, claim)

    def let_go(self, generation: int, claim: MemoryClaim) -> bool:
        """Let a claimed spare be revoked again."""
        del generation
        claim.close()
        return True

    def _is_claimed(self, number: int, generation: int) -> bool:
        return any(claim.grant == (number, generation) for claim in list(self._claims))

    def revoke_spare(self, number: int, generation: int) -> bool:
        """Forget a spare, unless its client has claimed it: then False."""
        with self._lock:
            if self._is_claimed(number, generation):
                return False
            self.retire_segment(number, "", punch=True)
            return True

    # --- tickets -------------------------------------------------------------------------------------------------

    def mint_token(self, ticket: int, minted: list[None] | None = None) -> None:
        """Make the token of a ticket; `minted` has an entry as soon as there is one."""
        with self._lock:
            if ticket in self._tokens:
                raise FileExistsError(errno.EEXIST, f"token {ticket:#x} exists")
            self._tokens[ticket] = None
            if minted is not None:
                minted.append(None)

    def claim_token(self, ticket: int, client: int, claimed: list[None] | None = None) -> bool:
        """Redeem a ticket for `client`, and note it in `claimed`; False if it was redeemed before, has expired, or never
        was.
        """
        with self._lock:
            if self._tokens.get(ticket, client) is not None:
                return False
            self._tokens[ticket] = client
            if claimed is not None:
                claimed.append(None)
            return True

    def has_token(self, ticket: int) -> bool:
        """Whether a ticket can be redeemed at this moment."""
        with self._lock:
            return self._tokens.get(ticket, ticket) is None

    def void_token(self, ticket: int) -> int | None:
        """Make a ticket unredeemable: None; or the client that has redeemed it already."""
        with self._lock:
            redeemer = self._tokens.get(ticket)
            if redeemer is None:
                self._tokens.pop(ticket, None)
            return redeemer

    def drop_token(self, ticket: int, client: int) -> None:
        """Remove the token that `client` redeemed."""
        with self._lock:
            if self._tokens.get(ticket) == client:
                del self._tokens[ticket]

    # --- notice logs ------------------------------------------------------------------------------------------------

    def create_notice_log(self, client: int) -> None:
        """Make the notice log of a client."""
        self._notice_logs.setdefault(client, MemoryNoticeLog())

    def open_notice_log(self, client: int) -> MemoryNoticeLog:
        """The notice log of a client, to be written."""
        return self._notice_logs[client]

    def read_notice_log(self, client: int, applied: int) -> list[Notice]:
        """What `client` wrote after notice number `applied` and was not read before."""
        notice_log = self._notice_logs.get(client)
        if notice_log is None:
            return []
        count = len(notice_log.unread)
        notices, notice_log.unread[:count] = notice_log.unread[:count], []
        return [notice for notice in notices if notice.seq > applied]

    def read_use(self, client: int) -> Use | None:
        """What `client` did with the spare that it keeps; None if that was read before."""
        notice_log = self._notice_logs.get(client)
        return None if notice_log is None else notice_log.use()

    def drop_notice_log(self, client: int) -> None:
        """Remove the notice log of a client."""
        self._notice_logs.pop(client, None)

    # --- the whole -----------------------------------------------------------------------------------------------

    def entries(self) -> Iterator[tuple[str, int, int | None]]:
        """Kind (``s``, ``t`` or ``j``), number, and the redeeming client of each entry."""
        with self._lock:
            yield from [("s", number, None) for number in self._segments]
            yield from [("t", ticket, redeemer) for ticket, redeemer in self._tokens.items()]
            yield from [("j", client, None) for client in self._notice_logs]

    def remove_entry(self, kind: str, number: int, client: int | None) -> None:
        """Remove one entry that `entries` named."""
        with self._lock:
            if kind == "s":
                self._segments.pop(number, None)
            elif kind == "j":
                self._notice_logs.pop(number, None)
            elif number in self._tokens and self._tokens[number] == client:
                del self._tokens[number]

    def remove(self) -> None:
        """Forget everything: the registry has ended; what is mapped stays mapped."""
        for kind, number, client in list(self.entries()):
            self.remove_entry(kind, number, client)
