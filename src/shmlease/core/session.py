"""The client's side of the protocol: a state machine without I/O, clock, locks or threads.

It knows what was asked and not answered, what was granted ahead, what is yet to be said to the registry, and what to ask
again of a successor. A shell (`shmlease.client.link`) moves the bytes: it sends requests, writes notices into the notice
log, hands over every message that arrives to `receive`, and carries out what that leaves to be done: segments to forget,
claims to close, complaints.

Rules:

* Numbers only go up. An answer to request number n confirms that every notice before n has been applied.
* Whatever was granted to a call that is not there any more is released.
* An exception may end any method early, wherever Python runs signal handlers: where a function begins, where a loop jumps
  back, and after a call of a function written in C. So every method can be called again. Changes that belong together stand
  together, with no call between them, or one at their end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.claims import Claim, ClaimToken, Kept, Said
from shmlease.core.limits import Limits
from shmlease.core.model import NUMBER_BITS, Identity

__all__ = ["GRANTS", "Build", "Session"]

# Answers that grant a lease, and requests that are answered by one after a while.
GRANTS: Final = (m.Granted, m.Attached)
# Notices that say what becomes of a claimed spare.
_OF_CLAIMS: Final = (m.Claim, m.Release)
# More spares are asked for when half are left, or when sixteen have been taken: what the registry has to read first is
# little then. They are looked for when half of those that were left are, so that they seldom run out: a call that waits for
# one waits some 10 ms, until the registry has read all that was written.
_LOW_SHARE: Final = 2
_MOST_TAKEN: Final = 16

Build = Callable[[int], m.Notice]


class NoticeWriter(Protocol):
    """Where notices are written; `last` is the number of the last that was."""

    last: int

    def append(self, notice: m.Notice) -> bool: ...
    def restart(self) -> None: ...


class Session:
    """One client of one registry, over all its connections and through every takeover.

    Attributes
    ----------
    client, epoch : int
        Who this is to the registry, 0 before it has said so; and which registry process serves.
    welcome : Welcome or Refused, optional
        The answer to the last `hello`.
    outstanding, answers : dict
        Requests by number that somebody waits for, and the answers that have come.
    abandoned : dict
        Requests that nobody waits for any more.
    spares : dict
        By lease: segments granted ahead.
    claims : dict
        By lease: spares taken, until the registry is known to have read it.
    kept : Kept, optional
        The spare that is used without notices.
    spares_taken : int
        How many spares this client has taken so far, leaving out what it kept.
    outbox : deque
        Notices to be written, each a function of its number. Anybody may append at any moment, a signal handler and the
        garbage collector as well.
    confirmed : int
        All notices before this number have been applied.
    forgotten, complaints : deque
        What is left to the shell: segments that are gone, and refusals of notices, whose senders have gone on.
    """

    def __init__(self, secret: bytes) -> None:
        self.client = 0
        self.epoch = 0
        self.welcome: m.Welcome | m.Refused | None = None
        self.outstanding: dict[int, m.Request] = {}
        self.answers: dict[int, m.RegistryMessage] = {}
        self.abandoned: dict[int, m.Request] = {}
        self.spares: dict[int, m.Spare] = {}
        self.claims: dict[int, Claim] = {}
        self.kept: Kept | None = None
        self.outbox: deque[Build] = deque()
        self.confirmed = 0
        self.forgotten: deque[int] = deque()
        self.complaints: deque[str] = deque()
        self.spares_taken = 0
        self._secret = secret
        self._seq = 0
        self._greeting = 0
        self._few_spares = 0
        self._notice: m.Notice | None = None  # the first of the outbox, with its number
        self._unsure: set[int] = set()  # notices whose refusal says nothing new

    def next_seq(self) -> int:
        """A number for the next message."""
        self._seq += 1
        return self._seq

    def id_of(self, seq: int) -> int:
        """The id of the lease or ticket that message number `seq` is about; no other client can choose it."""
        return self.client << NUMBER_BITS | seq

    def new_id(self) -> int:
        """An id for a lease or ticket that no message asks for."""
        self._seq += 1
        return self.client << NUMBER_BITS | self._seq

    # --- connecting --------------------------------------------------------------------------------------------------

    def hello(self, limits: Limits | None) -> m.Hello:
        """The first message of a new connection; `welcome` will be the answer.

        Parameters
        ----------
        limits : Limits or None
            What a registry may use that this client starts; None if it cannot start one.
        """
        self.welcome = None
        self._greeting = self.next_seq()
        return m.Hello(self._greeting, m.PROTOCOL, self._secret, self.client, limits)

    def unanswered(self) -> list[m.Request]:
        """What to ask again over a new connection, in the order of before.

        What was granted to nobody is known then before the answer that a caller may leave with. It must be known, to be
        released, but nobody waits for it.
        """
        self.abandoned = {seq: request for seq, request in self.abandoned.items() if isinstance(request, m.GRANTING)}
        again = {seq: request for seq, request in self.outstanding.items() if seq not in self.answers}
        for seq, request in self.abandoned.items():
            waits = "timeout_ns" in request.__struct_fields__
            again[seq] = replace(request, timeout_ns=0) if waits else request
        return [again[seq] for seq in sorted(again)]

    # --- requests ------------------------------------------------------------------------------------------------------

    def abandon(self, seq: int) -> bool:
        """Nobody waits for the answer to request `seq` any more; whether something may yet be granted to it."""
        request, answer = self.outstanding.get(seq), self.answers.get(seq)
        if request is None:
            return False
        if answer is None:
            self.abandoned[seq] = request
            del self.outstanding[seq]
            return isinstance(request, m.GRANTING)
        releases = [self.release_of(answer.lease)] if isinstance(answer, GRANTS) else []
        self._unsure.add(seq)  # the packet may be taken in once more
        del self.outstanding[seq], self.answers[seq]
        self.outbox.extend(releases)
        return False

    # --- spares --------------------------------------------------------------------------------------------------------

    def fitting_spare(self, size_bytes: int, most_bytes: int) -> m.Spare | None:
        """A spare of at least `size_bytes` and at most `most_bytes`."""
        for spare in self.spares.values():
            if size_bytes <= spare.size_bytes <= most_bytes:
                return spare
        return None

    def claim(self, spare: m.Spare, token: ClaimToken) -> None:
        """Take `spare`; it stays claimed until the registry has read what becomes of it."""
        claim = Claim(token)
        self.claims[spare.lease] = claim
        del self.spares[spare.lease]

    def give_up_kept(self) -> None:
        """Keep no spare any more: the registry gets back the one that was, which is not in use."""
        kept = self.kept
        if kept is not None and not kept.is_taken:
            lease, claim = kept.spare.lease, Claim(kept.token)  # closed when the registry has read the release
            release = self.release_of(lease, reserved=True, unsure=True, was_kept=True)
            self.claims[lease] = claim  # no call between these: it is kept or released
            self.kept = None
            self.outbox.append(release)

    def needs_spares(self) -> bool:
        """Whether it is time to ask for more."""
        return len(self.spares) in (0, self._few_spares)

    def has_spares_coming(self) -> bool:
        """Whether it is time to look for those that were asked for."""
        return len(self.spares) in (0, self._few_spares // _LOW_SHARE)

    def confirmed_claims(self) -> list[tuple[int, Claim]]:
        """Claims, by lease, that the registry has read: to be closed, and dropped from `claims`."""
        return [(lease, claim) for lease, claim in self.claims.items() if claim.number < self.confirmed]

    # --- notices -------------------------------------------------------------------------------------------------------

    def release_of(self, lease: int, *, reserved: bool = False, unsure: bool = False, was_kept: bool = False) -> Build:
        """The notice that ends `lease`, its pages `reserved` or not; `unsure` if the registry may have ended it before,
        `was_kept` if it is that of a spare that was kept.
        """

        release = partial(m.Release, lease=lease, reserved=reserved, was_kept=was_kept)
        if not unsure:
            return release

        def build(seq: int) -> m.Release:
            self._unsure.add(seq)
            return release(seq)

        return build

    def claim_of(self, lease: int, said: Said, *, again: bool, unsure: bool = False) -> Build:
        """The notice that the spare `lease` is in use, as `said`: `again` if shared memory says so, `unsure` if it may have
        been revoked.
        """

        def build(seq: int) -> m.Claim:
            if unsure:
                self._unsure.add(seq)
            return m.Claim(seq, lease, *said, False, again)

        return build

    def linger_of(self, lease: int) -> Build:
        """The notice that views of `lease` are alive after its end; refused if it was a spare, not claimed yet."""

        def build(seq: int) -> m.Linger:
            self._unsure.add(seq)
            return m.Linger(seq, lease)

        return build

    def detach_of(self, lease: int) -> Build:
        """The notice that arrays carry `lease` on: it ends with the last of them."""
        return lambda seq: m.Detach(seq, lease)

    def link_of(self, lease: int, processes: Sequence[Identity | None]) -> Build:
        """The notice that the segment of `lease` has its own name in /dev/shm, kept by `processes`."""

        def build(seq: int) -> m.Link:
            self._unsure.add(seq)
            numbers = [seq, *(self.next_seq() for _ in processes[1:])][: len(processes)]
            return m.Link(seq, lease, tuple(zip(map(self.id_of, numbers), processes, strict=True)))

        return build

    def write_into(self, notice_log: NoticeWriter) -> bool:
        """Write the outbox into `notice_log`; False if that is full before all is written.

        If the last notice in it is the first of the outbox, an exception came just after it was written.
        """
        outbox = self.outbox
        while outbox:
            notice = self._notice
            if notice is None or notice.seq != notice_log.last:
                # one that was not written gets a new number: requests may have been sent since that do not confirm it
                self._seq += 1
                notice = self._notice = outbox[0](self._seq)
                if notice_log.last < self.confirmed:
                    notice_log.restart()
                if not notice_log.append(notice):
                    return False
            if isinstance(notice, _OF_CLAIMS):
                claim = self.claims.get(notice.lease)
                if claim is not None:
                    claim.number = notice.seq
            self._notice = None
            outbox.popleft()
        return True

    def drop(self) -> None:
        """The registry has ended, or was left: nothing is claimed, and nothing is to be said."""
        self.spares.clear()
        for claim in self.claims.values():
            claim.token.close()
        self.claims.clear()
        if self.kept is not None:
            self.kept.token.close()
            self.kept = None
        self.outbox.clear()

    # --- messages from the registry --------------------------------------------------------------------------------------

    def receive(self, message: m.RegistryMessage) -> None:
        """Take in one message; one that has been taken in before changes nothing."""
        if isinstance(message, m.Spare):
            self._confirm(message.applied + 1)
            if message.lease not in self.claims and (self.kept is None or self.kept.spare.lease != message.lease):
                self.spares[message.lease] = message
                count = len(self.spares)
                self._few_spares = max(count // _LOW_SHARE, count - _MOST_TAKEN)
        elif isinstance(message, m.Forget):
            self.forgotten.append(message.segment)
        elif isinstance(message, m.Welcome):
            self._welcomed(message)
        elif isinstance(message, m.Refused) and self.welcome is None and message.seq in (0, self._greeting):
            self.welcome = message
        else:
            self._answered(message)

    def _welcomed(self, welcome: m.Welcome) -> None:
        if welcome.seq != self._greeting:
            return
        self.spares.clear()  # those that are still there are told again
        self._confirm(welcome.applied + 1)
        self.epoch = welcome.epoch
        self.client = welcome.client
        self.welcome = welcome

    def _answered(self, message: Any) -> None:
        seq: int = message.seq
        self._confirm(seq)
        if seq in self.outstanding:
            self.answers[seq] = message
        elif seq in self.abandoned:
            releases = [self.release_of(message.lease)] if isinstance(message, GRANTS) else []
            self._unsure.add(seq)
            del self.abandoned[seq]
            self.outbox.extend(releases)
        elif isinstance(message, m.Refused) and seq not in self._unsure:
            self.complaints.append(message.message)

    def _confirm(self, seq: int) -> None:
        self.confirmed = max(self.confirmed, seq)
