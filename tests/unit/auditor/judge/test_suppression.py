from __future__ import annotations

from datetime import date

import pytest

from shmlease.auditor.judge.findings import Creator, Finding, Process
from shmlease.auditor.judge.rules import RULES
from shmlease.auditor.judge.suppression import DEFAULT_SUPPRESSIONS, Suppression, Suppressions, suppress_known

TODAY = date(2030, 6, 1)


def finding(rule: str = "LH001", name: str = "psm_1", **fields: object) -> Finding:
    return Finding.of(rule, "x", name=name, **fields)  # type: ignore[arg-type]


def is_suppressed(suppression: Suppression, one: Finding) -> bool:
    return Suppressions([suppression], TODAY).apply([one])[0] == ()


@pytest.mark.parametrize("rule", ["LH001", "lh001", "orphan", "LH00*", "*"])
def test_rule_is_matched_by_id_name_or_glob(rule: str) -> None:
    assert is_suppressed(Suppression("why", rule), finding())
    assert is_suppressed(Suppression("why", rule), finding("LH014")) == (rule == "*")


@pytest.mark.parametrize(
    ("glob", "name", "label", "expected"),
    [
        ("psm_*", "psm_1", "", True),
        ("psm_*", "other", "", False),
        ("*.pkl", "joblib_1/2.pkl", "", True),
        ("joblib_*", "joblib_1/2.pkl", "", True),
        ("calls/*", "shmlease-1/s3", "calls/chr1", True),
        ("PSM_*", "psm_1", "", False),
    ],
)
def test_name_is_matched_whole_without_its_directory_or_by_label(glob: str, name: str, label: str, expected: bool) -> None:
    assert is_suppressed(Suppression("why", name=glob), finding(name=name, label=label)) == expected


def test_creator_is_matched_by_the_command_of_maker_or_holder() -> None:
    chrome = Suppression("why", creator="*/chrome *")
    assert is_suppressed(chrome, finding(creator=Creator(command="/opt/chrome --type=gpu")))
    assert is_suppressed(chrome, finding("LH003", holders=(Process(7, 1, "/opt/chrome --type=gpu"),)))
    assert not is_suppressed(chrome, finding(creator=Creator(command="python job.py")))
    assert not is_suppressed(chrome, finding())


def test_suppression_counts_on_its_last_day_and_not_after() -> None:
    assert is_suppressed(Suppression("why", expires=TODAY), finding())
    assert not is_suppressed(Suppression("why", expires=date(2030, 5, 31)), finding())


def test_use_of_each_suppression_is_counted_and_the_unused_are_reported() -> None:
    words = [
        Suppression("used", name="psm_*", source="pyproject.toml"),
        Suppression("never", name="nothing"),
        Suppression("late", name="psm_*"),
        Suppression("old", expires=date(2020, 1, 1)),
    ]
    kept, aside, uses = Suppressions(words, TODAY).apply([finding(), finding(name="psm_2"), finding(name="x")])
    assert [one.name for one in kept] == ["x"]
    assert [(one.reason, one.source) for one in aside] == [("used", "pyproject.toml")] * 2
    assert [(use.reason, use.uses, use.expired) for use in uses] == [
        ("used", 2, False),
        ("never", 0, False),
        ("late", 0, False),
        ("old", 0, True),
    ]
    assert uses[3].expires == "2020-01-01"


@pytest.mark.parametrize(
    ("name", "rule", "expected"),
    [
        ("sem.mp-ab12cd34", "LH003", True),
        ("sem.lock", "LH001", True),
        ("pym-4393-abc1xyz_", "LH003", True),
        ("pym-4393-abc1xyz_", "LH001", False),
        (".org.chromium.Chromium.abc", "LH003", True),
        ("PostgreSQL.2213", "LH001", True),
        ("iox2_x", "LH001", True),
        ("iox2_x", "LH013", True),  # the same program in a container
        ("pym-7-x", "LH013", False),
        ("pulse-shm-1", "LH001", True),
        ("psm_4f2a", "LH001", False),
        ("psm_4f2a", "LH003", False),
    ],
)
def test_shipped_suppressions_are_as_narrow_as_their_reasons(name: str, rule: str, expected: bool) -> None:
    kept, _, _ = Suppressions(DEFAULT_SUPPRESSIONS, TODAY).apply([finding(rule, name)])
    assert (kept == ()) == expected


def test_shipped_suppressions_have_reasons_and_rules() -> None:
    assert all(one.reason and one.rule in {rule.name for rule in RULES.values()} for one in DEFAULT_SUPPRESSIONS)


def test_baseline_allows_as_many_as_it_knows() -> None:
    one, two = finding(name="psm_1"), finding(name="psm_2")
    kept, aside = suppress_known([one, two], {one.fingerprint: 1}, "baseline.json")
    assert one.fingerprint == two.fingerprint
    assert (kept, [item.finding for item in aside], aside[0].source) == ((two,), [one], "baseline.json")
