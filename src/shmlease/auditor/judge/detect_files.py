"""Detectors for files: orphans, half-created, unlinked but held, outliving their scope, in other namespaces; and dark
memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shmlease.auditor.judge.evidence import File, Hold
from shmlease.auditor.judge.findings import Confidence, Fact, FileIdentity, Finding
from shmlease.auditor.judge.indexed_evidence import IndexedEvidence, subject_of_file
from shmlease.auditor.judge.kept_files import looks_kept
from shmlease.units import format_bytes

__all__ = ["dark_bytes", "foreign_namespace", "half_created", "orphan", "outlives_its_scope", "unlinked_but_held"]

# Less than a page cannot be dark: the filesystem counts in pages.
_PAGE_BYTES = 4096
_REMEDY_OF_KEPT = "remove it if nobody needs it, or suppress it; `shmlease reap` leaves it alone unless you give its path"
_PROBE_FACT = Fact("the kernel granted a write lease: no process anywhere has it open or mapped", "fcntl F_SETLEASE")


def orphan(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH001: the kernel says that nobody holds it, and it has a size and pages."""
    for file in indexed.free:
        if not file.root.is_foreign and not _is_half_created(file):
            yield _of_file(indexed, "LH001", f"{file.name} ({indexed.size(file)}) has no holder", file)


def half_created(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH005: the kernel says that nobody holds it, and it has no size, or no page was ever written."""
    for file in indexed.free:
        if not file.root.is_foreign and _is_half_created(file):
            what = "has no size" if file.size_bytes == 0 else f"of {format_bytes(file.size_bytes)} has no page"
            yield _of_file(indexed, "LH005", f"{file.name} {what} and no holder", file)


def foreign_namespace(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH013: nobody holds a file in the /dev/shm of another mount namespace."""
    for file in indexed.free:
        if file.root.is_foreign:
            via = indexed.process(file.root.via_pid)
            message = f"{file.name} ({indexed.size(file)}) has no holder, in the mount namespace of {via}"
            seen = Fact(f"mnt:[{file.root.mount_namespace}], reached through {via}", file.root.path)
            yield _of_file(indexed, "LH013", message, file, seen)


def _is_half_created(file: File) -> bool:
    return file.size_bytes == 0 or file.resident_bytes == 0


def _of_file(indexed: IndexedEvidence, rule: str, message: str, file: File, *more: Fact) -> Finding:
    identity = file.identity
    kept = "" if identity in indexed.evidence.creators else looks_kept(file)
    if kept:
        message = f"{message}; it looks like a file that somebody keeps there: {kept}"
    return Finding.of(
        rule,
        message,
        name=file.name,
        subject=subject_of_file(file.key),
        path=file.path,
        identity=identity,
        size_bytes=file.size_bytes,
        resident_bytes=file.resident_bytes,
        creator=indexed.creator_of(file),
        evidence=(_PROBE_FACT, indexed.age_fact(file), *more),
        confidence=Confidence.LIKELY if kept else Confidence.PROVED,
        remedy=_REMEDY_OF_KEPT if kept else "",
    )


def unlinked_but_held(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH003: it has no name, and a process keeps its memory; a file without memory is not a leak.

    A lease that lost its file is a finding of its own, and more to the point.
    """
    leased = {f"{registry.path}/s{number}" for registry in indexed.evidence.registries for number in registry.absent}
    for key, holds in indexed.unlinked:
        memory = indexed.memory_of(key, holds)
        if memory == 0 or holds[0].path in leased or (memory is None and _is_cached(indexed, holds)):
            continue
        root = indexed.root_of(key, holds[0].path)
        name = holds[0].path.removeprefix(f"{root.path}/" if root else "")
        holders = tuple(indexed.process(hold.pid) for hold in holds)
        size = format_bytes(memory) if memory else f"up to {format_bytes(holds[0].size_bytes)}"
        identity = FileIdentity(*key, next((hold.born_ns for hold in holds if hold.born_ns), None))
        yield Finding.of(
            "LH003",
            f"{name} was unlinked, and {_first(holders)} still holds {size}",
            name=name,
            subject=subject_of_file(key),
            path=holds[0].path,
            confidence=Confidence.PROVED if memory else Confidence.LIKELY,
            identity=identity,
            size_bytes=max(hold.size_bytes for hold in holds),
            resident_bytes=memory or 0,
            creator=indexed.evidence.creators.get(identity),
            holders=holders,
            evidence=indexed.hold_facts(holds),
        )


def _is_cached(indexed: IndexedEvidence, holds: Sequence[Hold]) -> bool:
    """Whether all that hold it are clients of the registry whose segment it was: they keep mappings of retired ones."""
    directory = holds[0].path.rpartition("/")[0]
    registry = next((one for one in indexed.evidence.registries if one.path == directory), None)
    members = indexed.members(registry) if registry else None
    if members is None:
        return False
    processes = (indexed.evidence.processes.get(hold.pid) for hold in holds)
    return all(process is None or (process.pid, process.start_ticks) in members for process in processes)


def outlives_its_scope(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH009: it is new in the scope, has a name and a holder. Files of registries are judged by their leases."""
    scope = indexed.limits.scope
    if scope is None:
        return
    for key, file in indexed.evidence.files.items():
        holds = indexed.evidence.holds.get(key)
        if not holds or indexed.registry_of(file) is not None:
            continue
        holders = tuple(indexed.process(hold.pid) for hold in holds)
        yield Finding.of(
            "LH009",
            f"{file.name} ({indexed.size(file)}) is still held by {_first(holders)} after {scope.name}",
            name=file.name,
            subject=subject_of_file(key),
            path=file.path,
            identity=file.identity,
            size_bytes=file.size_bytes,
            resident_bytes=file.resident_bytes,
            creator=indexed.creator_of(file),
            holders=holders,
            evidence=(*indexed.hold_facts(holds), indexed.age_fact(file)),
        )


def dark_bytes(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH004: the filesystem counts more than files and visible holders explain.

    Proved when every process was read and every share is exact; likely when a descriptor in flight explains it; unknown
    when a process that could not be read may hold it.
    """
    evidence = indexed.evidence
    for dark_memory in indexed.dark_memory:
        if dark_memory.dark_bytes < _PAGE_BYTES:
            continue
        root = dark_memory.usage.root
        if dark_memory.is_exact and not evidence.unreadable_processes:
            confidence = Confidence.PROVED
        else:
            confidence = Confidence.LIKELY if evidence.in_transit else Confidence.UNKNOWN
        used = dark_memory.usage.used_bytes or 0
        count = Fact(
            f"{format_bytes(used)} in use; files with names explain {format_bytes(dark_memory.visible_bytes)}, "
            f"unlinked files with visible holders {format_bytes(dark_memory.unlinked_bytes)}",
            f"statvfs {root.path}",
        )
        yield Finding.of(
            "LH004",
            f"{format_bytes(dark_memory.dark_bytes)} in {root.path} belong to no file and no visible holder",
            name=root.path,
            subject=f"dark:{root.device}",
            path=root.path,
            confidence=confidence,
            resident_bytes=dark_memory.dark_bytes,
            evidence=(count, *evidence.in_transit),
        )


def _first(holders: tuple[object, ...]) -> str:
    rest = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
    return f"{holders[0]}{rest}"
