"""What of a run was left alone though its programs were to be adopted: programs that are no Python, or bypass it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from textwrap import shorten
from typing import Final

from shmlease.auditor.judge.findings import Gap
from shmlease.auditor.run.inotify import Change
from shmlease.auditor.run.records import Records

__all__ = ["SOURCE", "gaps_of_adoption"]

SOURCE: Final = "adoption"  # of such gaps

_SHM: Final = "/dev/shm/"
# What multiprocessing itself puts into shared memory: semaphores, and the arenas of Array and Value, whose names do not
# outlive their making.
_OTHERS: Final = ("sem.", "pym-", "shmlease-")
_MOST_NAMED: Final = 3
_COMMAND_LENGTH: Final = 80


def gaps_of_adoption(records: Records, changes: Iterable[Change]) -> Iterator[Gap]:
    """One for each process that could not be adopted, or made segments by other means, and one for what others made."""
    refused = {record.pid: record for record in records.records if record.kind == "refusal"}
    for pid, refusal in refused.items():
        yield _gap(_process(records, pid), f"shmlease could not be imported there: {refusal.path}")
    made: defaultdict[int, list[str]] = defaultdict(list)
    linked = {record.path for record in records.records if record.kind == "link"}
    for path, creations in records.creations_by_path().items():
        if path not in linked and _is_segment(path):
            made[creations[0].pid].append(path)
    for pid, paths in made.items():
        if pid not in refused:
            yield _gap(_process(records, pid), f"it makes segments without multiprocessing.shared_memory: {_listed(paths)}")
    recorded = linked.union(*made.values())
    unseen = dict.fromkeys(c.path for c in changes if c.appeared and _is_segment(c.path) and c.path not in recorded)
    if unseen:
        why = (
            "no Python program that was seen has made them; one that is started with -E, -I or -S, or with a PYTHONPATH of "
            "its own, is not"
        )
        yield _gap(f"the makers of {_listed(list(unseen))}", why)


def _gap(who: str, why: str) -> Gap:
    return Gap(f"shared memory of {who}, left alone", why, blinding=False, source=SOURCE)


def _process(records: Records, pid: int) -> str:
    command = shorten(records.commands.get(pid, ""), _COMMAND_LENGTH, placeholder="...")
    return f"pid {pid} ({command})" if command else f"pid {pid}"


def _is_segment(path: str) -> bool:
    name = path.removeprefix(_SHM)
    return path.startswith(_SHM) and not name.startswith(_OTHERS)


def _listed(paths: list[str]) -> str:
    names = [path.removeprefix(_SHM) for path in paths]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
