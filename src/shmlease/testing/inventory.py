"""What is known to be in shared memory, so that a check reports only what is new."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from shmlease.auditor.audit import begin_scope
from shmlease.auditor.judge.evidence import Scope
from shmlease.auditor.judge.findings import Finding
from shmlease.testing.glance import Glance, Glancer

__all__ = ["Inventory", "glance_of"]


class Inventory:
    """Everything below `root` that has been reported, or belongs to somebody, or was there before.

    It is kept twice: as the auditor knows it, by the subjects of findings, and as a glance shows it.
    """

    def __init__(self, root: str) -> None:
        self._glancer = Glancer(root)
        self._device = os.stat(root).st_dev
        self.renew()

    def renew(self) -> None:
        """Everything that is there now is known."""
        scope = begin_scope("", foreign=False)
        self._subjects: dict[str, int | None] = dict(scope.subjects)
        self._dark_bytes: Mapping[int, int] = scope.dark_bytes
        self._known = Glance()
        self.add(self._glancer.look())
        self.since_ns = time.time_ns()

    def look(self) -> Glance:
        """What is there now."""
        return self._glancer.look()

    def has_new(self, glance: Glance) -> bool:
        """Whether something in `glance` is not known."""
        return glance.has_new(self._known)

    def new_paths(self, glance: Glance) -> set[str]:
        """The paths of the files in `glance` that are not known."""
        return {path for path, _ in glance.files - self._known.files}

    def keep(self, glance: Glance) -> None:
        """Nothing in `glance` is new; what it does not have is gone."""
        self._known = glance
        self.since_ns = time.time_ns()

    def add(self, glance: Glance) -> None:
        """What is in `glance` is known."""
        self._subjects.update(dict.fromkeys(glance.subjects(self._device)))
        self._known = Glance(
            self._known.files | glance.files,
            max(self._known.hidden_inodes, glance.hidden_inodes),
            self._known.sysv | glance.sysv,
            self._known.leases | glance.leases,
        )

    def add_nameless(self, hidden_inodes: int) -> None:
        """The files without a name that are there now are known."""
        self._subjects.update(begin_scope("", foreign=False).subjects)
        self._known = replace(self._known, hidden_inodes=hidden_inodes)

    def add_findings(self, findings: Iterable[Finding]) -> None:
        """What `findings` are about is known."""
        for one in findings:
            self.add(glance_of(one))
            self._subjects[one.subject] = one.identity.born_ns if one.identity else None

    def forget(self, glance: Glance) -> set[str]:
        """What is in `glance` is new again, if it is still there; its subjects."""
        subjects = set(glance.subjects(self._device))
        for subject in subjects:
            self._subjects.pop(subject, None)
        self._known = replace(
            self._known,
            files=self._known.files - glance.files,
            sysv=self._known.sysv - glance.sysv,
            leases=self._known.leases - glance.leases,
        )
        return subjects

    def scope(self, name: str) -> Scope:
        """The time since everything was known, as a scope of an audit."""
        return Scope(name, self.since_ns, self._subjects, self._dark_bytes)


def glance_of(finding: Finding) -> Glance:
    """What a finding is about, as a glance shows it."""
    if finding.identity is not None:
        return Glance(files=frozenset({(finding.path, finding.identity.inode)}))
    subjects = frozenset({finding.subject})
    return Glance(sysv=subjects) if finding.subject.startswith("sysv:") else Glance(leases=subjects)
