"""What is known to be in shared memory, so that a check reports only what is new."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from shmlease.auditor.audit import begin_scope
from shmlease.auditor.judge.evidence import Scope
from shmlease.auditor.judge.findings import Finding
from shmlease.testing.fast_check import Contents, FastCheck

__all__ = ["Inventory", "contents_of"]


class Inventory:
    """Everything below `root` that has been reported, or belongs to somebody, or was there before.

    It is kept twice: as the auditor knows it, by the subjects of findings, and as the fast check lists it.
    """

    def __init__(self, root: str) -> None:
        self._fast_check = FastCheck(root)
        self._device = os.stat(root).st_dev
        self.renew()

    def renew(self) -> None:
        """Everything that is there now is known."""
        scope = begin_scope("", foreign=False)
        self._subjects: dict[str, int | None] = dict(scope.subjects)
        self._dark_bytes: Mapping[int, int] = scope.dark_bytes
        self._known = Contents()
        self.add(self._fast_check.look())
        self.since_ns = time.time_ns()

    def look(self) -> Contents:
        """What is there now."""
        return self._fast_check.look()

    def has_new(self, contents: Contents) -> bool:
        """Whether something in `contents` is not known."""
        return contents.has_new(self._known)

    def new_paths(self, contents: Contents) -> set[str]:
        """The paths of the files in `contents` that are not known."""
        return {path for path, _ in contents.files - self._known.files}

    def keep(self, contents: Contents) -> None:
        """Nothing in `contents` is new; what it does not have is gone."""
        self._known = contents
        self.since_ns = time.time_ns()

    def add(self, contents: Contents) -> None:
        """What is in `contents` is known."""
        self._subjects.update(dict.fromkeys(contents.subjects(self._device)))
        self._known = Contents(
            self._known.files | contents.files,
            max(self._known.hidden_inodes, contents.hidden_inodes),
            self._known.sysv | contents.sysv,
            self._known.leases | contents.leases,
        )

    def add_nameless(self, hidden_inodes: int) -> None:
        """The files without a name that are there now are known."""
        self._subjects.update(begin_scope("", foreign=False).subjects)
        self._known = replace(self._known, hidden_inodes=hidden_inodes)

    def add_findings(self, findings: Iterable[Finding]) -> None:
        """What `findings` are about is known."""
        for one in findings:
            self.add(contents_of(one))
            self._subjects[one.subject] = one.identity.born_ns if one.identity else None

    def forget(self, contents: Contents) -> set[str]:
        """What is in `contents` is new again, if it is still there; its subjects."""
        subjects = set(contents.subjects(self._device))
        for subject in subjects:
            self._subjects.pop(subject, None)
        self._known = replace(
            self._known,
            files=self._known.files - contents.files,
            sysv=self._known.sysv - contents.sysv,
            leases=self._known.leases - contents.leases,
        )
        return subjects

    def scope(self, name: str) -> Scope:
        """The time since everything was known, as a scope of an audit."""
        return Scope(name, self.since_ns, self._subjects, self._dark_bytes)


def contents_of(finding: Finding) -> Contents:
    """What a finding is about, as the fast check lists it."""
    if finding.identity is not None:
        return Contents(files=frozenset({(finding.path, finding.identity.inode)}))
    subjects = frozenset({finding.subject})
    return Contents(sysv=subjects) if finding.subject.startswith("sysv:") else Contents(leases=subjects)
