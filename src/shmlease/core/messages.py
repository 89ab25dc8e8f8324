"""The messages between clients and the registry.

Client messages carry `seq`, which a client counts up for each command, so that one that arrives twice (sent again after a
takeover) is applied once. *Requests* are answered by the reply with the same `seq`. *Notices* get no answer: they cannot be
refused for a reason that their sender could remove, so nobody waits for them. Notices are not sent at all: a client writes
them to its notice log in shared memory, where the registry, or its successor, reads them; a `Ring`, the doorbell, asks it
to look.

Every field is bounded here, and a decoder that meets anything else refuses the packet.

One list, longer than other modules are: whoever looks for a message finds it here, and nothing else.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, get_args

from msgspec import Meta, Struct

from shmlease.core.limits import Limits
from shmlease.core.model import Identity

__all__ = [
    "GRANTING",
    "LOOK_AGAIN_NS",
    "MAX_KEEPERS",
    "MAX_MESSAGES",
    "MAX_PACKET_BYTES",
    "NOTICES",
    "PROTOCOL",
    "QUIET_NS",
    "Attach",
    "AttachMode",
    "AttachSegment",
    "Attached",
    "Bye",
    "Claim",
    "ClientMessage",
    "Close",
    "Closed",
    "Decline",
    "Detach",
    "Done",
    "Expose",
    "Exposed",
    "Figures",
    "Forget",
    "Granted",
    "Hello",
    "Inherit",
    "Lease",
    "Linger",
    "Link",
    "Mint",
    "Notice",
    "Ping",
    "Publish",
    "Redeem",
    "Redeemed",
    "RefusalCode",
    "Refused",
    "RegistryMessage",
    "Release",
    "Request",
    "Revoked",
    "Ring",
    "Share",
    "Spare",
    "Statistics",
    "Trim",
    "Unlink",
    "Welcome",
    "Withdraw",
]

PROTOCOL: Final = 2
# One SEQPACKET datagram; far below the default socket buffer (212,992 bytes), so that a reply never splits.
MAX_PACKET_BYTES: Final = 64 * 1024
MAX_MESSAGES: Final = 64
MAX_KEEPERS: Final = 16

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seq = Annotated[int, Meta(ge=1, le=2**63 - 1)]
ClientId = Annotated[int, Meta(ge=0, le=2**23 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\A[^\x00-\x1f\x7f]+\Z")]
Site = Annotated[str, Meta(max_length=512)]
# A structured dtype of some hundred fields takes about 8 KiB.
LayoutBytes = Annotated[bytes, Meta(max_length=32 * 1024)]


# --- from the client: requests -----------------------------------------------------------------------------------


class Hello(Struct, frozen=True, array_like=True, tag=1):
    """First message of a connection; `resume` is the id of an earlier one of the same process, or 0.

    `limits` are those that a registry would have which this process starts, if it can. `to_serve`: it is no client, but was
    started to be this registry, and asks the one that clients have started meanwhile to make way.
    """

    seq: Seq
    protocol: Count
    secret: Annotated[bytes, Meta(min_length=16, max_length=16)]
    resume: ClientId
    limits: Limits | None = None
    to_serve: bool = False


class Lease(Struct, frozen=True, array_like=True, tag=2):
    """A new segment of `size_bytes` (whole pages) to write; waits up to `timeout_ns` for room."""

    seq: Seq
    lease: Count
    name: Name | None
    size_bytes: Count
    nbytes: Count
    layout: LayoutBytes
    site: Site
    due_ns: Count
    timeout_ns: Count
    mutable: bool = False


class AttachMode(enum.StrEnum):
    """What whoever attaches does with a segment, in the words of numpy.memmap."""

    READ = "r"
    COPY_ON_WRITE = "c"
    READ_WRITE = "r+"


class Attach(Struct, frozen=True, array_like=True, tag=3):
    """Map the published segment `name`; waits up to `timeout_ns` for it, if `is_patient` also when its writer has ended."""

    seq: Seq
    lease: Count
    name: Name
    site: Site
    due_ns: Count
    timeout_ns: Count
    mode: AttachMode = AttachMode.READ
    is_patient: bool = False


class AttachSegment(Struct, frozen=True, array_like=True, tag=13):
    """Map the published segment of that number and generation, if it is still there."""

    seq: Seq
    lease: Count
    segment: Count
    generation: Count
    site: Site
    due_ns: Count
    mode: AttachMode = AttachMode.READ


class Withdraw(Struct, frozen=True, array_like=True, tag=14):
    """Take the name from the segment that had it at `asked_ns`, and expect no readers any more; answered by `Done`.

    Without a name: take its name from that segment.
    """

    seq: Seq
    name: Name | None
    asked_ns: Count
    segment: Count = 0
    generation: Count = 0


class Inherit(Struct, frozen=True, array_like=True, tag=4):
    """A lease of its own on what `parent_lease` holds: what a forked child asks for."""

    seq: Seq
    lease: Count
    parent_lease: Count
    site: Site


class Redeem(Struct, frozen=True, array_like=True, tag=5):
    """Why can `ticket` not be redeemed? Asked when its token is gone; the answer is always a refusal."""

    seq: Seq
    ticket: Count


class Decline(Struct, frozen=True, array_like=True, tag=6):
    """The pages of a grant could not be reserved: put the request back, first in line; answered by a new grant."""

    seq: Seq
    lease: Count
    timeout_ns: Count


class Expose(Struct, frozen=True, array_like=True, tag=7):
    """Give the leased segment a name in /dev/shm itself, for users of plain shm_open."""

    seq: Seq
    lease: Count


# After a `Ring` a client writes to its notice log for this long without another, and the registry looks again after
# the longer time. A wake-up costs 3-90 us, a look 2 us; 10 ms is how late the table may learn of a release.
QUIET_NS: Final = 8_000_000
LOOK_AGAIN_NS: Final = 10_000_000


class Ring(Struct, frozen=True, array_like=True, tag=12):
    """Look at my notice log, now and again after `LOOK_AGAIN_NS`: for `QUIET_NS` its client writes without
    another `Ring`.
    """

    seq: Seq


class Statistics(Struct, frozen=True, array_like=True, tag=8):
    """The figures of the registry."""

    seq: Seq


class Trim(Struct, frozen=True, array_like=True, tag=9):
    """Give all warm segments back to the system."""

    seq: Seq


class Ping(Struct, frozen=True, array_like=True, tag=10):
    """Answered when everything sent before has been applied."""

    seq: Seq


class Close(Struct, frozen=True, array_like=True, tag=11):
    """End the registry."""

    seq: Seq


# --- from the client: notices ------------------------------------------------------------------------------------


class Claim(Struct, frozen=True, array_like=True, tag=32):
    """The segment granted ahead under `lease` is in use now, for an unnamed array; `published` if that is finished.

    `again`: the registry counts this use by what its client keeps in shared memory, see `shmlease.core.uses`.
    """

    seq: Seq
    lease: Count
    nbytes: Count
    layout: LayoutBytes
    site: Site
    due_ns: Count
    published: bool
    again: bool = False


class Publish(Struct, frozen=True, array_like=True, tag=33):
    """The array is finished: others may attach. Until `deadline_ns` the segment also stays for `readers` yet to come."""

    seq: Seq
    lease: Count
    readers: Annotated[int, Meta(ge=0, le=1_000_000)]
    deadline_ns: Count


class Mint(Struct, frozen=True, array_like=True, tag=34):
    """A ticket was made; its token file exists already."""

    seq: Seq
    lease: Count
    ticket: Count
    deadline_ns: Count
    site: Site
    receiver: Identity | None = None


class Redeemed(Struct, frozen=True, array_like=True, tag=35):
    """`ticket` was redeemed: this client renamed its token, which only one can."""

    seq: Seq
    lease: Count
    ticket: Count
    site: Site
    due_ns: Count
    mode: AttachMode = AttachMode.READ


class Revoked(Struct, frozen=True, array_like=True, tag=40):
    """`ticket` was taken back: this client renamed its token, so nobody can redeem it."""

    seq: Seq
    ticket: Count


class Link(Struct, frozen=True, array_like=True, tag=42):
    """The leased segment gets its own name in /dev/shm itself, which keeps it; its client is about to link it.

    `keepers` are ids, formed as those of tickets, each with the process that the name ends with, or None: the registry.
    The name ends with the last of them. None at all: the client could not link it, and gives that up.
    """

    seq: Seq
    lease: Count
    keepers: Annotated[tuple[tuple[Count, Identity | None], ...], Meta(max_length=MAX_KEEPERS)]


class Unlink(Struct, frozen=True, array_like=True, tag=43):
    """That segment loses its name, which its client is about to take from /dev/shm."""

    seq: Seq
    segment: Count
    generation: Count


class Detach(Struct, frozen=True, array_like=True, tag=41):
    """The array carries the lease from now on; `Release` follows when its last view has died."""

    seq: Seq
    lease: Count


class Linger(Struct, frozen=True, array_like=True, tag=36):
    """The lease was released, but numpy views of it are alive."""

    seq: Seq
    lease: Count


class Release(Struct, frozen=True, array_like=True, tag=37):
    """The lease has ended, and nothing of its holder maps the segment for it any more.

    `reserved`: its holder had mapped the segment, which it does only when every page has memory. `was_kept`: it is that of
    a spare that its client has kept, and was not in use.
    """

    seq: Seq
    lease: Count
    reserved: bool = False
    was_kept: bool = False


class Share(Struct, frozen=True, array_like=True, tag=39):
    """From now on something outside the table may map the segment: a process that the holder forked."""

    seq: Seq
    lease: Count


class Bye(Struct, frozen=True, array_like=True, tag=38):
    """The client leaves in order."""

    seq: Seq


# --- from the registry -------------------------------------------------------------------------------------------


class RefusalCode(enum.StrEnum):
    """Why a request was refused; the client turns each into its exception."""

    CAPACITY = "capacity"
    NOT_FOUND = "not found"
    EXISTS = "exists"
    NOT_HELD = "not held"
    TICKET = "ticket"
    CLOSING = "closing"
    PROTOCOL = "protocol"
    PERMISSION = "permission"
    RESUME = "resume"
    FAULT = "fault"
    ABANDONED = "abandoned"
    MODE = "mode"


class Welcome(Struct, frozen=True, array_like=True, tag=64):
    """Answer to Hello: who you are here, and how much of what you sent has been applied."""

    seq: int
    client: int
    applied: int
    registry: str
    epoch: int
    pid: int
    capacity_bytes: int


class Granted(Struct, frozen=True, array_like=True, tag=65):
    """Answer to Lease and Decline. `fresh`: the pages are not reserved yet."""

    seq: int
    lease: int
    segment: int
    generation: int
    size_bytes: int
    fresh: bool


class Attached(Struct, frozen=True, array_like=True, tag=66):
    """Answer to Attach and Inherit."""

    seq: int
    lease: int
    segment: int
    generation: int
    size_bytes: int
    nbytes: int
    layout: bytes
    name: str | None
    writable: bool
    mutable: bool = False
    exposed: bool = False


class Exposed(Struct, frozen=True, array_like=True, tag=67):
    """Answer to Expose."""

    seq: int
    alias: str


class Figures(Struct, frozen=True, array_like=True, tag=68):
    """Answer to Statistics; counts by state and by name."""

    seq: int
    capacity_bytes: int
    shm_free_bytes: int
    epoch: int
    uptime_ns: int
    clients: int
    tickets: int
    waiting: int
    segments: dict[str, int]
    segment_bytes: dict[str, int]
    leases: dict[str, int]
    counters: dict[str, int]
    peaks: dict[str, int]
    descriptors: int
    descriptors_limit: int


class Done(Struct, frozen=True, array_like=True, tag=69):
    """Answer to Ping and Trim; `freed_bytes` were given back."""

    seq: int
    freed_bytes: int = 0


class Closed(Struct, frozen=True, array_like=True, tag=70):
    """Answer to Close: who still holds what."""

    seq: int
    holders: list[str]


class Refused(Struct, frozen=True, array_like=True, tag=71):
    """A request that was not granted, with the facts; for a notice, `seq` is that of the notice."""

    seq: int
    code: RefusalCode
    message: str
    fields: dict[str, int | str | list[int] | None] = {}


class Spare(Struct, frozen=True, array_like=True, tag=72):
    """Pushed: the next segment, granted ahead under `lease`; notices up to `applied` have been applied."""

    applied: int
    lease: int
    segment: int
    generation: int
    size_bytes: int
    fresh: bool


class Forget(Struct, frozen=True, array_like=True, tag=73):
    """Pushed: `segment` is gone, and its pages will be when nobody maps it: unmap it if it is idle."""

    segment: int


Request = (
    Hello
    | Lease
    | Attach
    | AttachSegment
    | Withdraw
    | Inherit
    | Redeem
    | Decline
    | Expose
    | Statistics
    | Trim
    | Ping
    | Close
)
Notice = Claim | Publish | Link | Unlink | Mint | Redeemed | Revoked | Detach | Linger | Release | Share | Bye
ClientMessage = Request | Ring
RegistryMessage = Welcome | Granted | Attached | Exposed | Figures | Done | Closed | Refused | Spare | Forget
NOTICES: Final = frozenset(get_args(Notice))
# What is answered with a lease: it must be known to have ended, also where nobody waits for the answer any more.
GRANTING: Final = (Lease, Attach, AttachSegment, Inherit, Decline)
