"""Whose a finding is: the test's that made it, or an owner's that outlives the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from shmlease.auditor.judge.findings import Creator, Fact, Finding, Report, Suppressed
from shmlease.auditor.run.records import Creations
from shmlease.testing.fast_check import Contents
from shmlease.testing.inventory import Inventory, contents_of
from shmlease.testing.keepers import Keeper, Keepers
from shmlease.testing.scope_times import ScopeTimes

__all__ = ["SESSION", "Judgement", "Ownership"]

# The owner of what is kept by libraries, and by processes and threads that live on.
SESSION: Final = "the session"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What counts now, and what is set aside."""

    findings: tuple[Finding, ...]
    suppressed: tuple[Suppressed, ...]


class Ownership:
    """Keeps what belongs to an owner out of the findings until the owner has ended.

    An owner made something (while a fixture was set up), or keeps something that a test has made.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._keepers = Keepers()
        self._tests = ScopeTimes()
        self._owned: dict[str, Contents] = {}
        self._ended: dict[str, str] = {}  # subject -> the owner that has ended
        self._carried: dict[str, tuple[str, str]] = {}  # subject -> the test that made it, and who kept it
        self.must_look = False  # what has ended kept something that the fast check may not see

    def begin_test(self, name: str) -> None:
        """What processes make from now on, they make in this test."""
        self._tests.begin(name)

    def own(self, owner: str, before: Contents, began_ns: int, roots: Callable[[], Iterable[object]] | None) -> None:
        """What is new since `before` was seen, when `owner` began, belongs to it."""
        if roots is not None:
            self._keepers.enter(owner, began_ns, roots)
        now = self._inventory.look()
        if not now.has_new(before):
            return
        fresh = Contents(now.files - before.files, 0, now.sysv - before.sysv, now.leases - before.leases)
        self._owned[owner] = fresh
        self._inventory.add(fresh)
        if now.hidden_inodes > before.hidden_inodes:
            # which files have lost their names the fast check cannot tell; who made them is then forgotten
            self._inventory.add_nameless(now.hidden_inodes)

    def end(self, owner: str) -> None:
        """What belonged to `owner`, and is still there, counts from now on."""
        self._keepers.leave(owner)
        contents = self._owned.pop(owner, None)
        if contents is not None:
            subjects = self._inventory.forget(contents)
            self._ended.update(dict.fromkeys(subjects, owner))
            self.must_look |= not subjects.isdisjoint(self._carried)

    def judge(
        self, findings: Iterable[Finding], creations: Creations, family: set[int], name: str, *, carries: bool
    ) -> Judgement:
        """What counts of `findings`, each with the test that made it.

        Where it `carries`, what somebody keeps belongs to that owner from now on.
        """
        kept: list[Finding] = []
        aside: list[Suppressed] = []
        keeper_of = self._keepers.look(family)
        for one in findings:
            finding = self._with_test(one, creations, name)
            keeper = keeper_of(finding) if finding.is_leak else None
            if keeper is not None and carries:
                self._carry(finding, keeper)
            elif keeper is not None and keeper.reason:
                aside.append(Suppressed(finding, keeper.reason, keeper.name))
            else:
                kept.append(self._with_owner(finding))
        self.must_look = False
        return Judgement(tuple(kept), tuple(aside))

    def expect_owned(self) -> None:
        """Everything that belongs to an owner is known, whether or not it is there now."""
        for contents in self._owned.values():
            self._inventory.add(contents)

    def by_test(self, report: Report, default: str) -> dict[str, Report]:
        """`report`, divided by the tests that its findings are to be blamed on; `default` has what no other answers for.

        What an owner made that has ended counts where its end was noticed; what it only kept, with the test that made it.
        """
        found: dict[str, list[Finding]] = {default: []}
        for finding in report.findings:
            is_owners = finding.subject in self._ended and finding.subject not in self._carried
            test = finding.creator.test if finding.creator and not is_owners else ""
            found.setdefault(test or default, []).append(finding)
        others = replace(report, suppressed=(), suppressions=(), events=())
        return {
            test: replace(report if test == default else others, findings=tuple(findings))
            for test, findings in found.items()
        }

    def _carry(self, finding: Finding, keeper: Keeper) -> None:
        owner = keeper.name if self._keepers.has(keeper.name) else SESSION
        self._carried[finding.subject] = (finding.creator.test if finding.creator else "", keeper.name)
        owned, more = self._owned.get(owner, Contents()), contents_of(finding)
        self._owned[owner] = Contents(owned.files | more.files, 0, owned.sysv | more.sysv, owned.leases | more.leases)

    def _with_test(self, finding: Finding, creations: Creations, name: str) -> Finding:
        """`finding`, with the test in which it was made: that of the record, else the one that has just ended.

        A child process knows only the test in which it was started, and may serve many. So of what it makes, the time
        tells.
        """
        creator = finding.creator or Creator()
        record = creations.record_of(finding.identity) if finding.identity is not None else None
        if finding.subject in self._carried:
            test = self._carried[finding.subject][0]
        elif record is not None and record.pid != os.getpid():
            test = self._tests.at(record.at_ns) or creator.test
        else:
            test = creator.test
        if not test and name == self._tests.latest:
            test = name
        if test == creator.test:
            return finding
        return msgspec.structs.replace(finding, creator=msgspec.structs.replace(creator, test=test))

    def _with_owner(self, finding: Finding) -> Finding:
        if finding.subject in self._carried:
            fact = Fact(f"{self._carried[finding.subject][1]} kept it", "its holders, and what fixtures refer to")
        elif finding.subject in self._ended:
            fact = Fact(f"{self._ended[finding.subject]} made it, and has ended", "pytest fixture")
        else:
            return finding
        return msgspec.structs.replace(finding, evidence=(*finding.evidence, fact))
