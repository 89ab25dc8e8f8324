"""One pass over the system: reads everything an audit needs, in the order that makes it consistent.

The order matters, because the system changes meanwhile. Files before lease tables: a file without a row was not just
granted. Tables before processes: a client that is not listed has ended. Holders before probes: the kernel is asked only
about files that nobody visible holds, because an opener waits while it answers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from shmlease.auditor.judge.evidence import Evidence, RegistryFacts, Root
from shmlease.auditor.judge.findings import Creator, Fact, FileIdentity, Gap
from shmlease.auditor.judge.indexed_evidence import IndexedEvidence, Limits
from shmlease.auditor.observe.cgroups import list_charges
from shmlease.auditor.observe.lease_probe import probe_files
from shmlease.auditor.observe.namespaces import foreign_roots, hides_processes, own_roots
from shmlease.auditor.observe.processes import descriptors_in_transit, scan_processes
from shmlease.auditor.observe.registry_facts import read_registries
from shmlease.auditor.observe.shm_scan import Listing, count_filesystem, list_root, usage_of
from shmlease.auditor.observe.sysv import list_sysv
from shmlease.system.clock import SystemClock
from shmlease.system.identity import boot_id, own_time_namespace, require_proc
from shmlease.system.safe_open import reason_of

__all__ = ["Observer"]

_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Observer:
    """Observes the system below the given roots.

    Parameters
    ----------
    paths : tuple of str or None
        The directories to audit; None for /dev/shm and every mounted hugetlbfs.
    limits : Limits
        What the user allows.
    creators : mapping
        Who created which file, where that was recorded.
    foreign : bool
        Whether to audit other mount namespaces as well; not done if `paths` are given.
    proc, cgroups : str
        Where those filesystems are mounted.
    """

    paths: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)
    creators: Mapping[FileIdentity, Creator] = field(default_factory=dict)
    foreign: bool = True
    proc: str = "/proc"
    cgroups: str = "/sys/fs/cgroup"

    def observe(self, *, probing: bool = True) -> IndexedEvidence:
        """Everything there is to see now.

        Parameters
        ----------
        probing : bool
            Whether to ask the kernel about the suspects, too.

        Raises
        ------
        UnsupportedPlatformError
            There is no shared memory at the paths, or no /proc.
        """
        require_proc(self.proc)
        roots, gaps = own_roots(self.proc, self.paths)
        before = [count_filesystem(root) for root in roots]
        listings = [_list(root, gaps) for root in roots]
        registries = [facts for listing in listings for facts in _registries(listing, gaps)]
        scan = scan_processes(roots, self.proc)
        usage = [
            usage_of(listing, count, count_filesystem(listing.root))
            for listing, count in zip(listings, before, strict=True)
        ]
        if self.paths is None:
            sysv, sysv_gaps = list_sysv(self.proc)
            charges = list_charges(self.cgroups)
            gaps += sysv_gaps
        else:
            sysv, charges = (), ()
        if self.foreign and self.paths is None:
            others, other_gaps = foreign_roots(self.proc, scan.processes.values(), roots)
            gaps += other_gaps
            for root in others:
                listing = _list(root, gaps)
                roots.append(root)
                listings.append(listing)
                registries.extend(_registries(listing, gaps))
        files = {key: file for listing in listings for key, file in listing.files.items()}
        indexed = IndexedEvidence(
            Evidence(
                at_ns=time.time_ns(),
                monotonic_ns=SystemClock().now_ns(),
                boot_id=boot_id(),
                pid_namespace=os.stat("/proc/self/ns/pid").st_ino,
                time_namespace=own_time_namespace(),
                user_id=os.geteuid(),
                boot_time_ns=time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME),
                clock_ticks=_CLOCK_TICKS,
                roots=tuple(roots),
                files=files,
                holds=scan.holds,
                processes=scan.processes,
                unreadable_processes=len(scan.unreadable),
                hides_processes=hides_processes(self.proc),
                usage=tuple(usage),
                registries=tuple(registries),
                sysv=sysv,
                charges=charges,
                creators=self.creators,
                gaps=tuple(gaps),
            ),
            self.limits,
        )
        if not probing:
            return indexed
        in_transit: tuple[Fact, ...] = ()
        if any(dark_memory.dark_bytes for dark_memory in indexed.dark_memory):
            in_transit = descriptors_in_transit(indexed.evidence.processes, self.proc)
        asked_ns = time.monotonic_ns()
        indexed.answer(probe_files(indexed.suspects), in_transit, asked_ns)
        return indexed

    def probe_again(self, indexed: IndexedEvidence) -> None:
        """Ask the kernel again about the suspects that it called free."""
        asked_ns = time.monotonic_ns()
        probes = {**indexed.evidence.probes, **probe_files(indexed.free)}
        indexed.answer(probes, indexed.evidence.in_transit, asked_ns)


def _list(root: Root, gaps: list[Gap]) -> Listing:
    try:
        listing = list_root(root)
    except OSError as error:
        gaps.append(Gap(root.path, reason_of(error), source="open"))
        return Listing(root)
    gaps += listing.gaps
    return listing


def _registries(listing: Listing, gaps: list[Gap]) -> list[RegistryFacts]:
    registries, unread = read_registries(listing)
    gaps += unread
    return registries
