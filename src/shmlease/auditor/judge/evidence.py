"""What an audit has seen: `shmlease.auditor.observe` reads it, and `shmlease.auditor.judge.reconcile` judges it.

Evidence is what was read, never what was concluded. What could not be read is a `Gap`, and a value of its own
(`Probe.UNKNOWN`, `None`), because absence of evidence is not evidence of absence.

Files and holds are msgspec structs because there are tens of thousands of them, and a frozen dataclass costs four times
as much to create.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from shmlease.auditor.judge.findings import Creator, Fact, FileIdentity, Gap
from shmlease.core.model import Identity, SegmentRow
from shmlease.core.snapshot import Snapshot

__all__ = [
    "Charge",
    "Evidence",
    "File",
    "Hold",
    "Key",
    "LockState",
    "Probe",
    "ProcessFacts",
    "RegistryFacts",
    "Root",
    "Scope",
    "SysVSegment",
    "Usage",
]

# Device and inode: what maps and descriptors give. The birth time, where known, is in the file's identity.
Key = tuple[int, int]

# PROC_PID_INIT_INO of linux/proc_ns.h: the namespace in which every process can be seen.
_INITIAL_PID_NAMESPACE = 4026531836


class Probe(enum.Enum):
    """What the kernel said when asked for a lease on a file."""

    FREE = "free"  # granted: nobody anywhere has it open or mapped
    HELD = "held"  # refused: somebody has it, in some process, namespace or message
    UNKNOWN = "unknown"  # this user may not ask, or the file is of a kind that cannot be asked about
    GONE = "gone"  # the name is gone, or belongs to another file


class LockState(enum.Enum):
    """Whether a registry holds the lock of its directory."""

    HELD = "held"
    FREE = "free"
    UNKNOWN = "unknown"


class Root(msgspec.Struct, frozen=True):
    """A mounted directory of shared memory; one of another mount namespace is seen through /proc/`via_pid`/root."""

    path: str
    device: int
    filesystem: str = "tmpfs"
    is_whole: bool = True  # the filesystem's own root is mounted there, not a part of it
    via_pid: int = 0
    mount_namespace: int = 0

    @property
    def is_foreign(self) -> bool:
        """Whether it belongs to another mount namespace."""
        return self.via_pid != 0


class File(msgspec.Struct, frozen=True):
    """A named segment: `name` is relative to the root, `aliases` its other hard links."""

    key: Key
    born_ns: int | None
    root: Root
    name: str
    size_bytes: int
    resident_bytes: int
    uid: int
    used_ns: int  # the latest of its birth, change, write and access times, since the epoch
    aliases: tuple[str, ...] = ()
    mode: int = 0o600

    @property
    def identity(self) -> FileIdentity:
        """What distinguishes it from every other file, earlier or later."""
        return FileIdentity(*self.key, self.born_ns)

    @property
    def path(self) -> str:
        """Where it was found."""
        return f"{self.root.path}/{self.name}"


class Hold(msgspec.Struct, frozen=True):
    """How one process holds one file.

    `resident_bytes` is the file's memory where it `is_exact`; else what this process has touched of it, or None.
    `mapped_at` are the addresses of its mappings: a forked child has those of its parent.
    """

    pid: int
    how: str  # "mapped", "descriptor 5", "descriptor 5 of thread 4122"
    source: str  # "/proc/4121/maps"
    path: str  # as the holder knows it, without the kernel's mark
    unlinked: bool
    size_bytes: int
    resident_bytes: int | None = None
    is_exact: bool = False
    born_ns: int | None = None
    mapped_at: tuple[int, ...] = ()


class ProcessFacts(msgspec.Struct, frozen=True):
    """One live process; a zombie without threads is not one, for it holds no memory."""

    pid: int
    start_ticks: int
    parent: int
    uid: int
    command: str
    mount_namespace: int = 0


class Usage(msgspec.Struct, frozen=True):
    """What statvfs counts in a root, and whether it said the same before and after everything else was read."""

    root: Root
    used_bytes: int | None  # None where the mount has no limit and therefore no count
    used_inodes: int | None
    names: int  # every name in it, directories included: each takes an inode
    is_whole: bool  # the root is the whole filesystem, and every directory in it could be read
    is_steady: bool


class RegistryFacts(msgspec.Struct, frozen=True):
    """One registry's directory: who serves it, its lease table, and which segment files are there.

    `absent` are the numbers of segments that the table has and whose file did not exist after it was read.
    """

    id: str
    path: str
    root: Root
    directory: FileIdentity
    uid: int
    lock: LockState
    snapshot: Snapshot | None = None
    problem: str = ""  # why the table could not be read
    absent: frozenset[int] = frozenset()

    @property
    def ledger(self) -> str:
        """The path of its lease table."""
        return f"{self.path}/ledger"

    def segment_name(self, segment: SegmentRow) -> str:
        """One of its segments, as a message calls it."""
        return f"segment {segment.name!r}" if segment.name else f"segment {segment.number} of registry {self.id}"


class SysVSegment(msgspec.Struct, frozen=True):
    """One line of /proc/sysvipc/shm."""

    id: int
    key: int
    size_bytes: int
    resident_bytes: int
    creator_pid: int
    attachments: int
    uid: int
    changed_s: int
    is_condemned: bool  # IPC_RMID was called: it goes with its last attachment


class Charge(msgspec.Struct, frozen=True):
    """Shared memory charged to a control group without processes."""

    cgroup: str
    shmem_bytes: int
    source: str
    is_empty: bool = False  # the kernel says so; else only no process of this pid namespace is in it


@dataclass(frozen=True, slots=True)
class Scope:
    """What existed before a command or a test began, so that only what is new counts.

    `subjects` are the subjects of findings (see `shmlease.auditor.judge.indexed_evidence`), with a birth time where it is
    known.
    """

    name: str
    began_ns: int
    subjects: Mapping[str, int | None]
    dark_bytes: Mapping[int, int] = field(default_factory=dict)  # by device

    def has(self, subject: str, born_ns: int | None) -> bool:
        """Whether it was there before; an inode that was used again since is another one."""
        if subject not in self.subjects:
            return False
        before = self.subjects[subject]
        return before is None or born_ns is None or before == born_ns


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything one pass over the system saw.

    Processes are listed after the lease tables are read, so that a client of a table that is not among them is dead;
    lease tables after the files, so that a file without a row is not one that was just granted.
    """

    at_ns: int
    monotonic_ns: int
    boot_id: str
    pid_namespace: int
    user_id: int
    time_namespace: int = 0
    boot_time_ns: int = 0
    clock_ticks: int = 100
    roots: tuple[Root, ...] = ()
    files: Mapping[Key, File] = field(default_factory=dict)
    holds: Mapping[Key, Sequence[Hold]] = field(default_factory=dict)
    processes: Mapping[int, ProcessFacts] = field(default_factory=dict)
    unreadable_processes: int = 0
    hides_processes: bool = False  # /proc is mounted with hidepid: processes of others are not even listed
    probes: Mapping[Key, tuple[Probe, str]] = field(default_factory=dict)
    asked_monotonic_ns: int = 0  # when the first of them was asked
    usage: tuple[Usage, ...] = ()
    registries: tuple[RegistryFacts, ...] = ()
    sysv: tuple[SysVSegment, ...] = ()
    charges: tuple[Charge, ...] = ()
    in_transit: tuple[Fact, ...] = ()  # descriptors in messages and in io_urings, where memory may be dark
    creators: Mapping[FileIdentity, Creator] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()

    def is_dead(self, identity: Identity) -> bool:
        """Whether that process has certainly ended; what was read in other namespaces proves nothing."""
        if identity.pid_namespace not in {0, self.pid_namespace}:
            return False
        if identity.boot_id != self.boot_id:
            return True
        process = self.processes.get(identity.pid)
        if process is None:
            return not self.hides_processes or identity.uid == self.user_id
        return identity.time_namespace == self.time_namespace and process.start_ticks != identity.start_ticks

    @property
    def sees_all_processes(self) -> bool:
        """Whether there is no process that this pid namespace does not show."""
        return self.pid_namespace == _INITIAL_PID_NAMESPACE

    def started_ns(self, process: ProcessFacts) -> int:
        """When the process started, since the epoch."""
        return self.boot_time_ns + process.start_ticks * 1_000_000_000 // self.clock_ticks

    def wall_ns(self, monotonic_ns: int) -> int:
        """The time since the epoch of a moment on the monotonic clock of this boot."""
        return self.at_ns - (self.monotonic_ns - monotonic_ns)
