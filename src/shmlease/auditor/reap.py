"""Reaping: removes what is proved to belong to nobody, and lists what it left alone with the reason.

Nothing is removed because of its name, but some files are spared because of it: what looks like a file that somebody keeps
in /dev/shm, rather than a segment, is removed only if its path is given. A file is removed if nobody had it open in any of
several passes over a second, if the kernel then grants a lease on it that is unbroken when it is unlinked, and if it is
still the file that was found (device, inode, birth time). A registry's directory is removed if we hold its lock, its
process and its clients are dead, and nobody has any of its segments open.

The proof does not cover a program that has closed a segment and intends to open it by name later; `older_than` spares what
was used recently. And a program that puts another file in the place of the one found, in the microseconds between the last
comparison and the unlink, would lose the new one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from shmlease.auditor.judge.evidence import File, Probe, RegistryFacts
from shmlease.auditor.judge.findings import FileIdentity, Finding
from shmlease.auditor.judge.indexed_evidence import IndexedEvidence
from shmlease.auditor.judge.kept_files import looks_kept
from shmlease.auditor.judge.printable import encodable
from shmlease.auditor.judge.reconcile import confirmed, reconcile
from shmlease.auditor.judge.suppression import DEFAULT_SUPPRESSIONS, Suppression, Suppressions
from shmlease.auditor.observe.lease_probe import holding_lease, probe_files
from shmlease.auditor.observe.observer import Observer
from shmlease.auditor.observe.statx import statx
from shmlease.system.clock import Clock, SystemClock
from shmlease.system.directory import RegistryDirectory
from shmlease.system.reclaim import remove_if_abandoned
from shmlease.system.safe_open import directory_of, reason_of
from shmlease.units import format_duration, parse_duration

__all__ = ["Declined", "Reaping", "Removed", "reap"]

# Longer than an audit takes: what is removed cannot be checked again.
_PAUSES_S: Final = (0.02, 0.08, 0.3, 0.6)

_ORPHANS: Final = frozenset({"LH001", "LH005"})
_DEAD_REGISTRY: Final = "LH007"
# Why the findings of these rules are not reaped; the rules that are not here concern nothing that could be removed.
_NOT_OURS: Final = {
    "LH003": "its holder is alive, and frees it when it closes it",
    "LH014": "no lease can be held on a System V segment while it is removed; use `ipcrm -m`",
}
_VERDICTS: Final = {
    Probe.HELD: "somebody has it open",
    Probe.GONE: "it is gone, or another file has taken its name",
    Probe.UNKNOWN: "whether it is in use is unknown",
}


@dataclass(frozen=True, slots=True)
class Removed:
    """Something that was removed, or would be."""

    path: str
    rule: str
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Declined:
    """Something that was left alone, and why."""

    path: str
    rule: str
    resident_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reaping:
    """What `reap` did, or would do if it were not `dry`."""

    dry: bool
    removed: tuple[Removed, ...]
    declined: tuple[Declined, ...]


class _LeftAlone(Exception):  # noqa: N818 - an outcome, not an error
    """The proof failed; the text says where."""


def reap(
    *,
    yes: bool = False,
    files: Sequence[str] = (),
    paths: Sequence[str] | None = None,
    older_than: float | str = 0,
    suppressions: Sequence[Suppression] = (),
    default_suppressions: bool = True,
    clock: Clock | None = None,
) -> Reaping:
    """Remove the orphans and the dead registries that are proved to belong to nobody.

    Parameters
    ----------
    yes : bool
        Whether to remove; otherwise nothing is changed, and the same checks are made.
    files : sequence of str
        The paths of files to remove, if the proofs hold, and nothing else: also such as look like files that somebody
        keeps.
    paths : sequence of str, optional
        The directories to reap; by default /dev/shm and every mounted hugetlbfs.
    older_than : float or str
        Leave alone what was created, written or opened more recently (``"10min"``).
    suppressions, default_suppressions
        As for `shmlease.audit`: what is suppressed is left alone.
    clock : Clock, optional
        Waits between two passes.

    Returns
    -------
    Reaping
        What was removed, and what was left alone with the reason.

    Raises
    ------
    UnsupportedPlatformError
        There is no shared memory at the paths.
    """
    waiter = clock or SystemClock()
    named = [os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) for path in files]
    observer = Observer(tuple(paths) if paths is not None else None, foreign=False)
    rules = {*_ORPHANS, _DEAD_REGISTRY, *_NOT_OURS}
    indexed = observer.observe()
    findings = reconcile(indexed, rules)
    for pause_s in _PAUSES_S if findings else ():
        waiter.wait_s(pause_s)
        indexed = observer.observe()
        findings = confirmed(findings, reconcile(indexed, rules))
    words = (*suppressions, *(DEFAULT_SUPPRESSIONS if default_suppressions else ()))
    kept, suppressed, _ = Suppressions(words, date.today()).apply(findings)
    removed: list[Removed] = []
    declined = [_declined(one.finding, f"suppressed: {one.reason} ({one.source})") for one in suppressed]
    for finding in kept:
        try:
            if not files:
                _spare_what_is_kept(indexed, finding)
            elif not _is_among(named, finding):
                continue
            _remove(indexed, finding, yes=yes, older_than_ns=int(parse_duration(older_than) * 1e9))
            removed.append(Removed(finding.path, finding.rule, finding.resident_bytes))
        except _LeftAlone as reason:
            declined.append(_declined(finding, str(reason)))
        except OSError as error:
            declined.append(_declined(finding, reason_of(error)))
    declined.extend(_in_doubt(indexed))
    if files:
        declined = [one for one in declined if one.path in map(encodable, named)]
        told = {one.path for one in removed} | {one.path for one in declined}
        declined.extend(_not_found(path) for path in named if encodable(path) not in told)
    return Reaping(not yes, tuple(removed), tuple(declined))


def _is_among(paths: Sequence[str], finding: Finding) -> bool:
    """Whether one of `paths` leads to what `finding` is about."""
    return any(_identity_of(path) == finding.identity for path in paths)


def _identity_of(path: str) -> FileIdentity | None:
    try:
        return statx(path).identity
    except OSError:
        return None


def _not_found(path: str) -> Declined:
    """A path that was given, and is of nothing that the audit found."""
    exists = os.path.lexists(path)
    why = "it is in use, or no file in shared memory" if exists else "there is no such file"
    return Declined(encodable(path), "LH001", 0, why)


def _spare_what_is_kept(indexed: IndexedEvidence, finding: Finding) -> None:
    file = next((file for file in indexed.suspects if file.identity == finding.identity), None)
    kept = looks_kept(file) if file is not None and finding.rule in _ORPHANS else ""
    if kept:
        raise _LeftAlone(f"it looks like a file that somebody keeps there: {kept}; give its path to have it removed")


def _declined(finding: Finding, reason: str) -> Declined:
    return Declined(finding.path or finding.name, finding.rule, finding.resident_bytes, encodable(reason))


def _in_doubt(indexed: IndexedEvidence) -> Iterator[Declined]:
    """The files that nobody visible holds, and the kernel did not call free."""
    for file in indexed.suspects:
        verdict = indexed.verdict(file)
        if verdict in {Probe.HELD, Probe.UNKNOWN}:
            hidden = ", and nobody who can be seen from here" if verdict is Probe.HELD else ""
            yield Declined(encodable(file.path), "LH001", file.resident_bytes, _VERDICTS[verdict] + hidden)


def _remove(indexed: IndexedEvidence, finding: Finding, *, yes: bool, older_than_ns: int) -> None:
    """Prove once more that `finding` belongs to nobody, and remove it if `yes`.

    Raises
    ------
    _LeftAlone
        The proof failed.
    OSError
        The kernel refused.
    """
    if finding.rule in _NOT_OURS:
        raise _LeftAlone(_NOT_OURS[finding.rule])
    if finding.rule == _DEAD_REGISTRY:
        registry = next(r for r in indexed.evidence.registries if r.directory == finding.identity)
        _remove_registry(indexed, registry, finding, yes=yes)
        return
    file = next(f for f in indexed.suspects if f.identity == finding.identity)
    age_ns = time.time_ns() - file.used_ns
    if age_ns < older_than_ns:
        raise _LeftAlone(f"it was used {format_duration(max(age_ns, 0) / 1e9)} ago")
    _unlink(file, yes=yes)


def _unlink(file: File, *, yes: bool) -> None:
    """Unlink every name of `file` while holding a lease on it."""
    for name in (file.name, *file.aliases):
        with (
            directory_of(file.root.path, name) as (directory, base),
            holding_lease(base, file.key, directory=directory) as (lease, verdict, reason),
        ):
            if lease is None:
                raise _LeftAlone(f"{_VERDICTS[verdict]}{f' ({reason})' if reason else ''}")
            if statx(base, directory=directory).identity != file.identity:
                raise _LeftAlone("another file has taken its name")
            if not lease.is_unbroken():
                raise _LeftAlone("somebody began to open it")
            if yes:
                os.unlink(base, dir_fd=directory)


def _remove_registry(indexed: IndexedEvidence, registry: RegistryFacts, finding: Finding, *, yes: bool) -> None:
    """Remove a dead registry's directory, if nobody has a segment of it open and nobody is left to succeed it."""
    found = registry.directory
    directory = RegistryDirectory(
        registry.id, os.path.dirname(registry.path), registry.uid, identity=(found.device, found.inode)
    )
    if not directory.exists():
        raise _LeftAlone("it is gone, or another directory has taken its name")
    segments = [(file, number) for file, number in indexed.files_of(registry) if number is not None]
    probes = probe_files(file for file, _ in segments)
    for file, number in segments:
        verdict, _ = probes[file.key]
        if verdict is not Probe.FREE:
            raise _LeftAlone(f"segment {number}: {_VERDICTS[verdict]}")
    reason = remove_if_abandoned(directory) if yes else _client_left(finding)
    if reason:
        raise _LeftAlone(reason)


def _client_left(finding: Finding) -> str:
    return f"its client is alive: {finding.holders[0]}" if finding.holders else ""
