"""The rows of the lease table.

A **segment** is a POSIX shared-memory object that the registry owns, from `created` until its file is gone.
A **lease** is the right of one client to map one segment, from grant to release; the death of its holder ends it.
A **ticket** is a lease in flight: it keeps a segment alive between the process that sends it and the one that redeems it.

Rows are immutable; a change replaces a row. The same values stand in the registry's memory, in the ledger, and in what
an auditor reads. Times are nanoseconds of CLOCK_MONOTONIC, which all processes of one boot share.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec

from shmlease.core.limits import Limits
from shmlease.core.transitions import LeaseState, SegmentState

__all__ = [
    "NUMBER_BITS",
    "AbandonedRow",
    "AppliedRow",
    "Change",
    "ClientRow",
    "ClientState",
    "EventKind",
    "EventRow",
    "Gone",
    "Identity",
    "LeaseMode",
    "LeaseRow",
    "LeaseState",
    "Mark",
    "MarkRow",
    "RegistryRow",
    "Row",
    "SegmentRow",
    "SegmentState",
    "TicketRow",
    "client_of",
    "number_of",
]

# Lower bits of a lease's or ticket's id: a number its client chose; 2**40 of them last 1.7 years at 20,000 a second.
NUMBER_BITS: Final = 40


class LeaseMode(enum.StrEnum):
    """What a lease entitles its holder to."""

    WRITE = "write"
    READ = "read"


class ClientState(enum.StrEnum):
    """Whether a client has a connection."""

    CONNECTED = "connected"
    DETACHED = "detached"  # no connection, its process not proved dead: it may come back and resume
    ENDED = "ended"  # dead or gone; its row stays while a segment that it created does, to say who that was


class EventKind(enum.StrEnum):
    """What the event log records: everything that would otherwise be silent."""

    HOLDER_DIED = "holder died"
    TICKET_EXPIRED = "ticket expired"
    READERS_EXPIRED = "readers expired"
    VIEW_LINGERED = "view lingered"
    VIEW_DIED = "lingering view died"
    WRITER_ABANDONED = "unpublished segment abandoned"
    RECEIVER_DIED = "receiver of a ticket died"
    NAME_WITHDRAWN = "name withdrawn"
    CLIENT_DROPPED = "client dropped"
    REQUEST_REFUSED = "request refused"
    SEGMENT_MISSING = "segment file missing"
    RETIRE_FAILED = "unlink failed"
    TAKEOVER = "registry succeeded"
    FAULT = "registry failed"
    HANDED_OVER = "registry handed over"
    CLOSED_WITH_HOLDERS = "registry closed with leases held"


# The pid namespace of a process that the kernel shows with pid 0: one that is not below the registry's own.
UNSEEN_NAMESPACE: Final = -1


# A ledger may be another user's, who may have written into it what he likes; what no process has is no row.
_Pid = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Uid = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_Natural = Annotated[int, msgspec.Meta(ge=0)]


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Which process this is, so that a reused pid is not mistaken for it.

    `start_ticks` is field 22 of /proc/PID/stat; `boot_id` that of /proc/sys/kernel/random; `pid_namespace` the inode of the
    namespace in which `pid` was counted, that of whoever wrote it down: a pid of another namespace means nothing. So it is
    with `time_namespace`, in which `start_ticks` were read. A process that whoever wrote it down could not see has pid and
    start time 0, and `UNSEEN_NAMESPACE`.
    """

    pid: _Pid
    start_ticks: _Natural
    boot_id: str
    pid_namespace: int
    uid: _Uid
    command: str
    time_namespace: int = 0

    def may_be(self, other: Identity) -> bool:
        """Whether nothing proves that these are two processes: what was read in different namespaces proves nothing."""
        pids_agree = self.pid == other.pid or self.pid_namespace != other.pid_namespace
        starts_agree = self.start_ticks == other.start_ticks or self.time_namespace != other.time_namespace
        return pids_agree and (starts_agree or 0 in {self.pid, other.pid})

    def is_surely(self, other: Identity) -> bool:
        """Whether both are the same process: pid and start time agree, read in the same namespaces."""
        same_namespaces = (self.pid_namespace, self.time_namespace) == (other.pid_namespace, other.time_namespace)
        return same_namespaces and self.pid != 0 and (self.pid, self.start_ticks) == (other.pid, other.start_ticks)


class RegistryRow(msgspec.Struct, frozen=True, array_like=True, tag="R"):
    """The registry itself: one row, rewritten when it changes hands or closes."""

    id: str
    identity: Identity
    capacity_bytes: int
    warm_limit_bytes: int
    warm_idle_ns: int
    epoch: int  # how many registries have served this table; the first is 1
    started_ns: int
    owner: Identity | None  # the process whose end closes the registry, for an embedded one
    closing: bool = False
    name_key: bytes = b""  # what makes the OS names of its segments unguessable
    limits: Limits | None = None  # what its process may use
    wanted: Limits | None = None  # what the process of the first registry might use
    cpus: tuple[int, ...] = ()  # the processors that the first registry was allowed
    ends_when_idle: bool = False  # started by a client in place of one that its user had started in the foreground


class Mark(enum.IntEnum):
    """What is numbered; a number is never given twice, whatever has gone since."""

    SEGMENT = 0
    CLIENT = 1
    SPARE = 2
    WAIT = 3  # a request that had to wait until others gave up room
    RECLAIM = 4  # a lease, or a redeemed ticket, that ended because its holder was dead


class MarkRow(msgspec.Struct, frozen=True, array_like=True, tag="M", gc=False):
    """The highest number given so far: a successor goes on from there."""

    mark: Mark
    number: int


class ClientRow(msgspec.Struct, frozen=True, array_like=True, tag="C", gc=False):
    """One connection of one process. `secret` lets that process, and no other, resume it."""

    id: int
    identity: Identity
    secret: bytes
    state: ClientState
    since_ns: int


class AppliedRow(msgspec.Struct, frozen=True, array_like=True, tag="A", gc=False):
    """How far a client's numbered commands have been applied; apart from its row because it changes with each."""

    client: int
    seq: int


class SegmentRow(msgspec.Struct, frozen=True, array_like=True, tag="S", gc=False):
    """One segment: its file is `s<number>` in the registry's directory."""

    number: _Natural
    generation: int  # counts the uses of a recycled file
    size_bytes: _Natural  # of the file, whole pages
    state: SegmentState
    name: str | None = None
    nbytes: _Natural = 0  # of the array
    layout: bytes = b""  # dtype, shape and order, as shmlease.client.layout writes them; opaque here
    creator: int = 0
    created_ns: int = 0
    published_ns: int = 0
    site: str = ""  # where in the creator's code
    readers_expected: int = 0
    readers_deadline_ns: int = 0
    reserved: bool = False  # every page has memory: its first writer has seen to that, and said so
    tainted: bool = False  # a use of it ended otherwise than in order: never recycled
    # something that the table does not know may map it: its pages are never freed, and never used again unless the kernel
    # says that nothing does
    exposed: bool = False
    alias: str = ""  # the OS name it was given in /dev/shm itself, if any
    mutable: bool = False  # it stays writable: publishing does not seal it


class LeaseRow(msgspec.Struct, frozen=True, array_like=True, tag="L", gc=False):
    """One lease. `id` is chosen by the client: its own id in the upper bits, a number in the lower 40."""

    id: int
    segment: int
    mode: LeaseMode
    state: LeaseState
    granted_ns: int
    seq: int  # of the command that asked for it, so that a repeated request finds what it was given
    site: str = ""
    due_ns: int = 0  # when its holder said it would be done; 0 = never said


class TicketRow(msgspec.Struct, frozen=True, array_like=True, tag="T", gc=False):
    """One ticket not yet redeemed; `id` is formed like a lease's, from its sender's id."""

    id: int
    segment: int
    generation: int
    deadline_ns: int
    site: str = ""
    receiver: Identity | None = None  # whose end ends the ticket, if it was made for one process
    receiver_has_ended: bool = False
    keeps: bool = False  # nobody can redeem it: it keeps the segment and its name while its receiver lives, if it has one


class AbandonedRow(msgspec.Struct, frozen=True, array_like=True, tag="B", gc=False):
    """A name whose writer ended without publishing, kept for a while: whoever asks for the name is told who and where."""

    lease: int  # its writer's
    name: str
    pid: int
    site: str
    at_ns: int
    died: bool  # killed or crashed; if not, it released the lease


class EventRow(msgspec.Struct, frozen=True, array_like=True, tag="E", gc=False):
    """One entry of the event log. `segment`, `lease` and `client` are 0 where they do not apply."""

    number: int
    at_ns: int
    kind: EventKind
    segment: int = 0
    lease: int = 0
    client: int = 0
    detail: str = ""


class Gone(msgspec.Struct, frozen=True, array_like=True, tag="G", gc=False):
    """The row of that tag and key is no more."""

    tag: str
    key: int


Row = RegistryRow | MarkRow | ClientRow | AppliedRow | SegmentRow | LeaseRow | TicketRow | AbandonedRow | EventRow
Change = Row | Gone


def client_of(identifier: int) -> int:
    """The client that chose a lease's or ticket's id."""
    return identifier >> NUMBER_BITS


def number_of(identifier: int) -> int:
    """The number that a client formed a lease's or ticket's id with."""
    return identifier & (1 << NUMBER_BITS) - 1
