"""The HTML report: whole in one file, true to the report, and safe with any name."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import pytest

from rig.html_page import EVIL, Page
from shmlease.auditor.judge.findings import (
    Coverage,
    Creator,
    Environment,
    Event,
    Fact,
    FileIdentity,
    Finding,
    Gap,
    Place,
    Process,
    Report,
    Suppressed,
    SuppressionUse,
)
from shmlease.auditor.report.formats import render

SECOND = 1_000_000_000


def full(name: str = "psm_1") -> Report:
    """A report with everything in it."""
    place = Place("job/load.py", 12, "load")
    leak = Finding.of(
        "LH001",
        f"{name} has no holder",
        name=name,
        path=f"/dev/shm/{name}",
        label="calls",
        identity=FileIdentity(0x1C, 42, 1),
        size_bytes=5000,
        resident_bytes=8192,
        creator=Creator(7, 1, f"python {name}", place, (Place("run.py", 3, "<module>"), place), "tests/test_a.py::test_b"),
        holders=(Process(9, 1, "python other.py"),),
        evidence=(Fact(f"seen {name}", "statx"),),
    )
    note = Finding.of("LH017", "charged to a group", name="/group", resident_bytes=9)
    return Report(
        findings=(leak, note),
        coverage=Coverage(
            {"files": 1234, "bytes": 4096}, (Gap("a directory", "not ours"), Gap("a mount", "hidden", False))
        ),
        suppressed=(Suppressed(note, "by design", "default"), Suppressed(note, "known", "base.json")),
        suppressions=(SuppressionUse("by design", "default", "orphan", "sem.*", uses=1), SuppressionUse("old", "x.toml")),
        environment=Environment("1.0", "host", "6.1", user="me", roots=("/dev/shm",), began_ns=10 * SECOND, elapsed_ns=5),
        events=(
            Event(1 * SECOND, "begin", "", f"job {name}"),
            Event(2 * SECOND, "create", name, "job/load.py:12", 7),
            Event(3 * SECOND, "end", "", "ended"),
            Event(4 * SECOND, "create", "other"),
            Event(5 * SECOND, "unlink", "other"),
        ),
    )


def page(report: Report) -> Page:
    return Page(render(report, "html"))


def embedded(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return found[1]


def test_page_holds_the_whole_report() -> None:
    report = full()
    assert Report.from_json(embedded(render(report, "html"))) == report


def test_page_asks_for_nothing_from_elsewhere() -> None:
    one = page(full())
    links = [link for link in (*one.attributes("src"), *one.attributes("href")) if not link.startswith(("#", "data:"))]
    assert links == []
    text = render(full(), "html")
    assert "@import" not in text
    assert "url(" not in text
    policy = next(content for content in one.attributes("content") if "default-src" in content)
    assert policy.startswith("default-src 'none'")


def test_policy_lets_only_the_page_s_own_script_run() -> None:
    text = render(full(), "html")
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


def test_names_cannot_break_out_of_the_page() -> None:
    text = render(full(EVIL), "html")
    one = Page(text)
    assert [tag for tag, _ in one.tags].count("script") == 2
    assert "img" not in [tag for tag, _ in one.tags]
    assert not [name for _, attributes in one.tags for name in attributes if name.startswith("on")]
    assert not set("<>&") & set(embedded(text))
    assert json.loads(embedded(text))["findings"][0]["name"] == EVIL
    assert EVIL in one.texts["h1"] + one.texts["code"]


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (Report(), "No leaks"),
        (Report(coverage=Coverage(gaps=(Gap("x", "y"),))), "No leaks, as far as could be seen"),
        (full(), "1 leak"),
    ],
)
def test_verdict_comes_first(report: Report, verdict: str) -> None:
    one = page(report)
    assert one.texts["h1"] == verdict
    assert one.texts["title"].lower().startswith("1 leak" if report.leaks else "no leaks")


def test_finding_has_its_evidence_stack_holder_and_remedy() -> None:
    text = page(full()).texts["table"]
    for piece in (
        "seen psm_1",
        "job/load.py:12",
        "run.py:3",
        "pid 9",
        "tests/test_a.py::test_b",
        "shmlease reap",
        "0:28, 42",
    ):
        assert piece in text


def test_timeline_paints_what_outlived_the_scope_and_nothing_else() -> None:
    classes = [value.split() for value in page(full()).attributes("class")]
    assert (
        sum("outlived" in value and "swatch" not in value for value in classes) == 2
    )  # the leak, and what went after the end
    clean = Report(events=(Event(1, "begin"), Event(2, "create", "a"), Event(3, "unlink", "a"), Event(4, "end")))
    assert not any("outlived" in value.split() for value in page(clean).attributes("class"))


def test_what_was_suppressed_and_what_was_not_seen_are_shown() -> None:
    text = page(full()).texts["main"]
    for piece in ("by design", "known", "old", "unused", "a directory", "not ours", "1,234"):
        assert piece in text


def test_report_without_anything_is_a_page() -> None:
    text = page(Report()).texts["main"]
    assert "None." in text
    assert "Timeline" not in text


def test_more_than_can_be_drawn_is_counted() -> None:
    findings = tuple(Finding.of("LH001", "x", name=f"s{number}", path=f"/dev/shm/s{number}") for number in range(1100))
    events = tuple(Event(number, "create", f"s{number}") for number in range(1100))
    text = page(Report(findings=findings, events=events)).texts["main"]
    assert "100 more are in the JSON of this page" in text
    assert "700 more segments are not drawn" in text


def test_page_tells_what_was_not_seen_once_and_claims_no_more_than_was_seen() -> None:
    harmless = Coverage(gaps=(Gap("a mount", "hidden", False), Gap("a group", "closed", False)))
    text = render(Report(coverage=harmless), "html")
    assert "Everything that could leak was checked" not in text
    assert "Nothing that could hide a leak was out of sight; 2 other things could not be seen." in text
    assert "Everything that could leak was checked." in render(Report(), "html")
    blind = Finding.of("LH016", "a mount: hidden", name="a mount")
    orphan = Finding.of("LH001", "x has no holder", name="x")
    page = render(Report((blind, orphan), harmless), "html").partition('id="report"')[0]
    assert page.count("<tbody id=") == 1
    assert '<tbody id="f1"' in page, "the position in the report, which the timeline links to"


def test_page_tells_what_a_tracker_removed_with_its_size() -> None:
    reaped = Finding.of("LH015", "x was left", name="x", size_bytes=2**20)
    orphan = Finding.of("LH001", "y has no holder", name="y", resident_bytes=4096)
    assert "<p>1 MiB removed by a resource tracker; 1 proved.</p>" in render(Report((reaped,)), "html")
    both = render(Report((reaped, orphan)), "html")
    assert "<p>4 KiB still in memory, 1 MiB removed by a resource tracker; 2 proved.</p>" in both
