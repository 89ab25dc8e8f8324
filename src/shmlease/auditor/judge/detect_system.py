"""Detectors for what is not a file: System V segments, charges to empty control groups, and what could not be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from shmlease.auditor.judge.evidence import Probe, SysVSegment
from shmlease.auditor.judge.findings import Confidence, Coverage, Creator, Fact, Finding, Gap
from shmlease.auditor.judge.indexed_evidence import IndexedEvidence
from shmlease.units import format_bytes, format_count

__all__ = ["blind", "coverage_of", "orphan_charge", "sysv"]


def sysv(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH014: no attachment is left, and the process that created it is dead; unknown where that cannot be judged."""
    for segment in indexed.evidence.sysv:
        if segment.attachments or segment.is_condemned:
            continue
        verdict = _creator_verdict(indexed, segment)
        if verdict is None:
            continue
        confidence, why = verdict
        yield Finding.of(
            "LH014",
            f"System V segment {segment.id} ({format_bytes(segment.size_bytes)}) has no attachment and no living creator",
            name=f"sysv:{segment.id}",
            subject=f"sysv:{segment.id}:{segment.key}",
            confidence=confidence,
            size_bytes=segment.size_bytes,
            resident_bytes=segment.resident_bytes,
            creator=Creator(pid=segment.creator_pid or None),
            evidence=(
                Fact(f"key {segment.key:#010x}, nattch 0, owned by uid {segment.uid}", "/proc/sysvipc/shm"),
                Fact(why, "/proc"),
            ),
            remedy=f"remove it with `ipcrm -m {segment.id}`, and mark such segments with IPC_RMID once they are attached",
        )


def _creator_verdict(indexed: IndexedEvidence, segment: SysVSegment) -> tuple[Confidence, str] | None:
    """How certain it is that the creator is dead, and why; None if it is alive."""
    evidence = indexed.evidence
    if segment.creator_pid == 0:
        return Confidence.UNKNOWN, "its creator is in another pid namespace"
    process = evidence.processes.get(segment.creator_pid)
    if process is None:
        if evidence.hides_processes and segment.uid != evidence.user_id:
            return Confidence.UNKNOWN, "/proc does not list the processes of other users"
        return Confidence.PROVED, f"its creator, pid {segment.creator_pid}, is dead"
    # a segment cannot change before it is created, and a process creates nothing before it starts
    if evidence.started_ns(process) > (segment.changed_s + 1) * 1_000_000_000:
        return Confidence.PROVED, f"pid {segment.creator_pid} is now {process.command}, which started later"
    return None


def orphan_charge(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH017: a control group without processes is still charged for shared memory."""
    for charge in indexed.evidence.charges:
        is_sure = charge.is_empty or indexed.evidence.sees_all_processes
        processes = "no process" if is_sure else "no process that can be seen from this pid namespace"
        yield Finding.of(
            "LH017",
            f"{format_bytes(charge.shmem_bytes)} of shared memory are charged to {charge.cgroup}, which has {processes}",
            name=charge.cgroup,
            subject=f"cgroup:{charge.cgroup}",
            path=charge.source,
            confidence=Confidence.PROVED if is_sure else Confidence.UNKNOWN,
            resident_bytes=charge.shmem_bytes,
            evidence=(Fact(f"shmem {charge.shmem_bytes}, {processes} in cgroup.procs", charge.source),),
        )


def blind(indexed: IndexedEvidence) -> Iterator[Finding]:
    """LH016: one note for each thing that could not be seen and may hide a leak."""
    for gap in coverage_of(indexed).gaps:
        if gap.blinding:
            yield Finding.of(
                "LH016",
                f"could not see {gap.what}: {gap.why}",
                name=gap.what,
                subject=f"gap:{gap.what}",
                confidence=Confidence.UNKNOWN,
                evidence=(Fact(gap.why, gap.source),) if gap.source else (),
            )


def coverage_of(indexed: IndexedEvidence) -> Coverage:
    """What was looked at, and what could not be seen."""
    evidence = indexed.evidence
    looked_at = {
        "roots": len(evidence.roots),
        "files": len(evidence.files),
        "bytes": sum(file.resident_bytes for file in evidence.files.values()),
        "held files": len(evidence.holds),
        "processes": len(evidence.processes),
        "unreadable processes": evidence.unreadable_processes,
        "lease probes": len(evidence.probes),
        "registries": len(evidence.registries),
        "leases": sum(len(registry.snapshot.leases) for registry in evidence.registries if registry.snapshot),
        "System V segments": len(evidence.sysv),
    }
    gaps = (*evidence.gaps, *_unprobed(indexed), *_unread(indexed), *_uncounted(indexed), *_unread_tables(indexed))
    return Coverage(looked_at, gaps)


def _unprobed(indexed: IndexedEvidence) -> Iterator[Gap]:
    """Files that nobody visible holds, and about which the kernel would not answer."""
    answers = ((file, indexed.evidence.probes.get(file.key)) for file in indexed.suspects)
    unknown = Counter((file.uid, answer[1]) for file, answer in answers if answer and answer[0] is Probe.UNKNOWN)
    for (uid, reason), count in sorted(unknown.items()):
        yield Gap(
            f"whether {format_count(count, 'file')} of uid {uid} {'is' if count == 1 else 'are'} in use",
            f"{reason}; the lease probe answers only their owner, or root",
            source="fcntl F_SETLEASE",
        )


def _unread(indexed: IndexedEvidence) -> Iterator[Gap]:
    """Processes that could not be read. They can only hide memory that is dark: where nothing is, they hide nothing."""
    if not indexed.evidence.unreadable_processes:
        return
    roots = [root for root in indexed.evidence.roots if not root.is_foreign]
    bright = {d.usage.root.device for d in indexed.dark_memory if d.is_exact and d.dark_bytes == 0}
    is_blinding = any(root.device not in bright for root in roots)
    yield Gap(
        "what processes closed to this user hold",
        f"/proc/PID/maps and fd of {format_count(indexed.evidence.unreadable_processes, 'process', 'processes')} cannot be "
        "read; "
        + ("they may hold unlinked memory" if is_blinding else "they hold no unlinked memory, because none is dark"),
        is_blinding,
        "/proc/PID",
    )


def _uncounted(indexed: IndexedEvidence) -> Iterator[Gap]:
    for usage in indexed.evidence.usage:
        root = usage.root
        if usage.used_bytes is None:
            why = "the filesystem has no size limit, and so keeps no count"
        elif not root.is_whole:
            why = "only a part of its filesystem is mounted here"
        elif not usage.is_whole:
            why = "a directory in it is closed to this user"
        elif not usage.is_steady:
            why = "it changed faster than it could be counted"
        else:
            continue
        yield Gap(f"dark memory in {root.path}", why, blinding=False, source=f"statvfs {root.path}")


def _unread_tables(indexed: IndexedEvidence) -> Iterator[Gap]:
    for registry in indexed.evidence.registries:
        if registry.problem:
            yield Gap(f"the lease table of registry {registry.id}", registry.problem, source=f"{registry.path}/ledger")
