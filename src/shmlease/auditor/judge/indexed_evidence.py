"""Evidence with its indexes: which file belongs to which registry, which files are suspects, how much memory is dark.

A detector asks `IndexedEvidence`; it never searches the evidence itself. Nothing here is a verdict yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property, lru_cache

from shmlease.auditor.judge.evidence import Evidence, File, Hold, Key, LockState, Probe, RegistryFacts, Root, Scope, Usage
from shmlease.auditor.judge.findings import Creator, Fact, Place, Process
from shmlease.core.model import ClientRow, Identity, LeaseRow, SegmentRow, client_of
from shmlease.units import format_bytes, format_duration

__all__ = ["DarkMemory", "HeldLease", "IndexedEvidence", "Limits", "RegistryHealth", "place_of", "subject_of_file"]

_SEGMENT_FILE = re.compile(r"s(\d+)")
_SITE = re.compile(r"(?P<file>.+?):(?P<line>\d+)(?:(?: in |:)(?P<function>.+))?")


class RegistryHealth(Enum):
    """Whether a registry is running; one that is changing hands, or cannot be judged, is unclear and counts as alive."""

    ALIVE = "alive"
    DEAD = "dead"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user allows; with a `scope`, only what is new in it is found."""

    overdue_after_ns: int | None = None
    scope: Scope | None = None


@dataclass(frozen=True, slots=True)
class DarkMemory:
    """Memory of one root that nothing visible explains; not `is_exact` where a holder's share was only estimated."""

    usage: Usage
    dark_bytes: int
    visible_bytes: int
    unlinked_bytes: int
    is_exact: bool


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease of a registry, with its segment and its holder."""

    registry: RegistryFacts
    lease: LeaseRow
    segment: SegmentRow
    client: ClientRow

    @property
    def name(self) -> str:
        """The segment, as a message calls it."""
        return self.registry.segment_name(self.segment)


def subject_of_file(key: Key) -> str:
    """The subject of findings about a file."""
    return f"file:{key[0]}:{key[1]}"


def place_of(site: str) -> Place | None:
    """The place in code that a lease's site (``"app/run.py:42 in main"``) names."""
    match = _SITE.fullmatch(site)
    return Place(match["file"], int(match["line"]), match["function"] or "") if match else None


class IndexedEvidence:
    """The evidence of one pass, and the questions that detectors ask of it."""

    def __init__(self, evidence: Evidence, limits: Limits | None = None) -> None:
        self.evidence = evidence
        self.limits = limits or Limits()
        self._by_directory = {(r.root.device, r.path.removeprefix(f"{r.root.path}/")): r for r in evidence.registries}
        self._free: tuple[File, ...] | None = None
        self._members: dict[str, frozenset[tuple[int, int]] | None] = {}

    def answer(
        self, probes: Mapping[Key, tuple[Probe, str]], in_transit: tuple[Fact, ...], asked_monotonic_ns: int
    ) -> None:
        """Add what was asked afterwards: about the suspects, and where memory is dark."""
        self.evidence = replace(self.evidence, probes=probes, in_transit=in_transit, asked_monotonic_ns=asked_monotonic_ns)
        self._free = None

    # --- registries ----------------------------------------------------------------------------------------------

    def registry_of(self, file: File) -> tuple[RegistryFacts, int | None] | None:
        """The registry in whose directory a link of `file` lies, and the number if it is a segment."""
        if not self._by_directory:
            return None
        for name in (file.name, *file.aliases):
            directory, _, entry = name.rpartition("/")
            registry = self._by_directory.get((file.root.device, directory)) if directory else None
            if registry is not None:
                match = _SEGMENT_FILE.fullmatch(entry)
                return registry, int(match[1]) if match else None
        return None

    def health(self, registry: RegistryFacts) -> RegistryHealth:
        """Whether `registry` is served: its lock says so, and a free lock is believed once its process is dead too."""
        match registry.lock:
            case LockState.HELD:
                return RegistryHealth.ALIVE
            case LockState.UNKNOWN:
                return RegistryHealth.UNCLEAR
            case LockState.FREE:
                row = registry.snapshot.registry if registry.snapshot else None
                is_over = row is None or self.evidence.is_dead(row.identity)
                return RegistryHealth.DEAD if is_over else RegistryHealth.UNCLEAR

    def client(self, registry: RegistryFacts, identifier: int) -> ClientRow | None:
        """The client that chose the id of a lease or ticket."""
        return registry.snapshot.clients.get(client_of(identifier)) if registry.snapshot else None

    def leases(self, registry: RegistryFacts) -> Iterator[HeldLease]:
        """The leases of `registry`."""
        if registry.snapshot is None:
            return
        for lease in registry.snapshot.leases.values():
            segment = registry.snapshot.segments.get(lease.segment)
            client = self.client(registry, lease.id)
            if segment is not None and client is not None:
                yield HeldLease(registry, lease, segment, client)

    def files_of(self, registry: RegistryFacts) -> list[tuple[File, int | None]]:
        """The files in a registry's directory, each with its number if it is a segment."""
        return self._files.get(registry.path, [])

    def segment_file(self, registry: RegistryFacts, number: int) -> File | None:
        """The file of a registry's segment, if it is there."""
        return self._segment_files.get((registry.path, number))

    def members(self, registry: RegistryFacts) -> frozenset[tuple[int, int]] | None:
        """Pid and start time of a registry and its clients; None where some were read in another namespace."""
        if registry.path not in self._members:
            self._members[registry.path] = _members_of(registry, self.evidence)
        return self._members[registry.path]

    @cached_property
    def _files(self) -> dict[str, list[tuple[File, int | None]]]:
        files: dict[str, list[tuple[File, int | None]]] = {}
        for file in self.evidence.files.values():
            owned = self.registry_of(file)
            if owned is not None:
                files.setdefault(owned[0].path, []).append((file, owned[1]))
        return files

    @cached_property
    def _segment_files(self) -> dict[tuple[str, int], File]:
        return {
            (registry, number): file
            for registry, files in self._files.items()
            for file, number in files
            if number is not None
        }

    # --- files ---------------------------------------------------------------------------------------------------

    @cached_property
    def suspects(self) -> tuple[File, ...]:
        """The named files, new in the scope if there is one, that nobody visible holds and no registry answers for.

        They are the ones worth a lease probe.
        """
        scope = self.limits.scope
        return tuple(
            file
            for key, file in self.evidence.files.items()
            if key not in self.evidence.holds
            and not (scope is not None and scope.has(subject_of_file(key), file.born_ns))
            and not self._is_accounted_for(file)
        )

    @property
    def free(self) -> tuple[File, ...]:
        """The suspects that the kernel calls free."""
        if self._free is None:
            free = {key for key, (verdict, _) in self.evidence.probes.items() if verdict is Probe.FREE}
            self._free = tuple(file for file in self.suspects if file.key in free)
        return self._free

    def _is_accounted_for(self, file: File) -> bool:
        owned = self.registry_of(file)
        if owned is None:
            return False
        registry, number = owned
        if self.health(registry) is RegistryHealth.DEAD or number is None or registry.snapshot is None:
            return True  # a finding of its own, or the registry's own bookkeeping
        return number in registry.snapshot.segments

    @cached_property
    def unlinked(self) -> tuple[tuple[Key, Sequence[Hold]], ...]:
        """The files that have holders and no name, in the roots of this namespace."""
        files = self.evidence.files
        return tuple(
            (key, holds)
            for key, holds in self.evidence.holds.items()
            if key not in files and any(hold.unlinked and self.root_of(key, hold.path) for hold in holds)
        )

    @cached_property
    def dark_memory(self) -> tuple[DarkMemory, ...]:
        """What is dark in each root that could be counted; a root that changed meanwhile could not."""
        return tuple(self._darkness())

    def _darkness(self) -> Iterator[DarkMemory]:
        for usage in self.evidence.usage:
            if usage.used_bytes is None or not usage.is_whole or not usage.is_steady:
                continue
            device = usage.root.device
            visible = sum(file.resident_bytes for file in self.evidence.files.values() if file.root.device == device)
            unlinked, is_exact = 0, True
            for key, holds in self.unlinked:
                if key[0] == device:
                    unlinked += max(hold.resident_bytes or 0 for hold in holds)
                    is_exact = is_exact and any(hold.is_exact for hold in holds)
            before = self.limits.scope.dark_bytes.get(device, 0) if self.limits.scope else 0
            dark = usage.used_bytes - visible - unlinked - before
            yield DarkMemory(usage, max(dark, 0), visible, unlinked, is_exact)

    def memory_of(self, key: Key, holds: Sequence[Hold]) -> int | None:
        """The memory of a file without a name, as far as it is known: exactly, or at least; None if it may be none.

        A holder that has not touched a page may yet hold many. Where nothing in the root is dark, there are none.
        """
        exact = [hold.resident_bytes or 0 for hold in holds if hold.is_exact]
        if exact:
            return max(exact)
        touched = max(hold.resident_bytes or 0 for hold in holds)
        if touched or any(
            dark_memory.usage.root.device == key[0] and not dark_memory.dark_bytes for dark_memory in self.dark_memory
        ):
            return touched
        return None

    def root_of(self, key: Key, path: str) -> Root | None:
        """The root of this namespace that the unlinked file `key` was in: one that has its whole filesystem, or
        its path.
        """
        for root in self.evidence.roots:
            if root.device == key[0] and not root.is_foreign and (root.is_whole or path.startswith(f"{root.path}/")):
                return root
        return None

    # --- for messages ------------------------------------------------------------------------------------

    def process(self, pid: int) -> Process:
        """The process `pid`, as a finding names it."""
        facts = self.evidence.processes.get(pid)
        return Process(pid, facts.start_ticks, facts.command) if facts else Process(pid)

    def holder(self, identity: Identity) -> Process:
        """The process of that identity, as a finding names it."""
        return Process(identity.pid, identity.start_ticks, identity.command)

    def creator_of(self, file: File) -> Creator | None:
        """Who created `file`, from the records of a run or from the lease table."""
        if self.evidence.creators:
            recorded = self.evidence.creators.get(file.identity)
            if recorded is not None:
                return recorded
        owned = self.registry_of(file)
        if owned is None or owned[1] is None or owned[0].snapshot is None:
            return None
        segment = owned[0].snapshot.segments.get(owned[1])
        return self.creator_of_segment(owned[0], segment) if segment else None

    def creator_of_segment(self, registry: RegistryFacts, segment: SegmentRow) -> Creator:
        """Who created a registry's segment."""
        client = registry.snapshot.clients.get(segment.creator) if registry.snapshot else None
        if client is None:
            return Creator(place=place_of(segment.site))
        identity = client.identity
        return Creator(identity.pid, identity.start_ticks, identity.command, place_of(segment.site))

    def verdict(self, file: File) -> Probe:
        """What the lease probe said; unknown as well if it was not asked."""
        return self.evidence.probes.get(file.key, (Probe.UNKNOWN, ""))[0]

    def age_fact(self, file: File) -> Fact:
        """When `file` was born and last used, and whose it is."""
        used = format_duration(max(self.evidence.at_ns - file.used_ns, 0) / 1e9)
        born = f"born {_moment(file.born_ns)}, " if file.born_ns else ""
        return Fact(f"{born}last used {used} ago, owned by uid {file.uid}", f"statx {file.path}")

    def hold_facts(self, holds: Sequence[Hold]) -> tuple[Fact, ...]:
        """How each holder holds."""
        return tuple(Fact(f"{self.process(hold.pid)}: {hold.how}", hold.source) for hold in holds)

    def when(self, at_ns: int) -> str:
        """A moment since the epoch, and how long ago that is."""
        return f"{_moment(at_ns)} ({format_duration(max(self.evidence.at_ns - at_ns, 0) / 1e9)} ago)"

    @staticmethod
    def size(file: File) -> str:
        """The size of `file`, and its memory where that differs."""
        return _size(file.size_bytes, file.resident_bytes)


def _moment(at_ns: int) -> str:
    return _second(at_ns // 1_000_000_000)


# Files that were left together were born together, and many have the same size: a report of ten thousand has few of either.
@lru_cache(maxsize=1024)
def _second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat()


@lru_cache(maxsize=1024)
def _size(size_bytes: int, resident_bytes: int) -> str:
    size = format_bytes(size_bytes)
    return size if resident_bytes >= size_bytes else f"{size}, {format_bytes(resident_bytes)} in memory"


def _members_of(registry: RegistryFacts, evidence: Evidence) -> frozenset[tuple[int, int]] | None:
    if registry.snapshot is None:
        return None
    identities = [client.identity for client in registry.snapshot.clients.values()]
    if registry.snapshot.registry is not None:
        identities.append(registry.snapshot.registry.identity)
    own = (evidence.pid_namespace, evidence.time_namespace)
    if any((identity.pid_namespace or own[0], identity.time_namespace) != own for identity in identities):
        return None
    return frozenset((identity.pid, identity.start_ticks) for identity in identities)
