"""Each form of the report: what it must say, and that names from anybody cannot break it."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from shmlease.auditor.judge.findings import (
    Confidence,
    Coverage,
    Creator,
    Environment,
    Fact,
    Finding,
    Gap,
    Place,
    Process,
    Report,
    Suppressed,
    SuppressionUse,
)
from shmlease.auditor.judge.rules import RULES, Severity
from shmlease.auditor.report.formats import FORMATS, Style, render
from shmlease.auditor.report.formats.github import announce, summary
from shmlease.errors import LeaseError

ORPHAN = Finding.of(
    "LH001",
    "frames (8 KiB) has no holder",
    name="frames",
    path="/dev/shm/frames",
    subject="file:1:2",
    size_bytes=8192,
    resident_bytes=8192,
    creator=Creator(
        7,
        1,
        "python job.py",
        Place("app/job.py", 12, "main"),
        (Place("app/job.py", 30), Place("app/job.py", 12, "main")),
        "test_x",
    ),
    evidence=(Fact("the kernel granted a write lease", "fcntl F_SETLEASE"),),
)
HELD = Finding.of("LH003", "x is held", name="x", holders=tuple(Process(pid) for pid in range(5)), resident_bytes=4096)
NOTE = Finding.of("LH012", "a ticket ran out", name="y", severity=Severity.NOTE)
EVIL = Finding.of(
    "LH001",
    "a\x1b[31m\n::error::%0A<b>|`\x00 has no holder",
    name="a\x1b[31m\n::error::<b>|`\x00",
    path="/dev/shm/a\x1b[31m\n",
)
GAPS = (Gap("a directory", "closed"), Gap("a mount", "covered", blinding=False))
REPORT = Report(
    (ORPHAN, HELD, NOTE),
    Coverage({"files": 3, "processes": 40, "registries": 1}, GAPS),
    (Suppressed(EVIL, "named semaphores persist", "default"),),
    (
        SuppressionUse("never", "pyproject.toml", "orphan", "cache-*"),
        SuppressionUse("old", "pyproject.toml", expires="2020-01-01", expired=True),
    ),
    Environment("0.1", elapsed_ns=12_000_000),
)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("report", [Report(), REPORT, Report((EVIL,))], ids=["empty", "full", "evil"])
def test_every_form_renders_every_report_as_text_that_can_be_written(format: str, report: Report) -> None:
    text = render(report, format)
    text.encode()
    assert text == "" or text.endswith("\n")


def test_form_that_does_not_exist_is_reported_with_those_that_do() -> None:
    with pytest.raises(LeaseError, match="there is no format 'pdf'; choose one of text, json, sarif"):
        render(Report(), "pdf")


# --- text ------------------------------------------------------------------------------------------------------------


def test_text_says_what_who_where_why_and_how_to_fix_it() -> None:
    text = render(REPORT, "text")
    assert "LH001 orphan  frames (8 KiB) has no holder\n" in text
    assert "created  by pid 7 (python job.py) at app/job.py:12 in main in test test_x\n" in text
    assert "seen     the kernel granted a write lease  [fcntl F_SETLEASE]\n" in text
    assert "from     app/job.py:30\n" in text
    assert "fix      call `unlink()` in a `finally`" in text
    assert text.index("fix  ") < text.index("seen  "), "what is missing comes before how it was seen"
    assert "LH003 unlinked-but-held  warning, proved  x is held\n" in text


def test_text_ends_with_a_verdict() -> None:
    assert render(REPORT, "text").splitlines()[-1] == (
        "2 leaks (12 KiB), 1 note; 3 files, 40 processes, 1 registry in 12 ms"
    )
    assert render(Report(), "text").splitlines()[-1].startswith("no leaks; 0 files")
    blind = Report(coverage=Coverage(gaps=(Gap("x", "y"),)))
    assert render(blind, "text").splitlines()[-1].startswith("no leaks as far as could be seen; ")


def test_text_tells_suppressions_used_unused_and_expired_and_what_was_not_seen() -> None:
    text = render(REPORT, "text")
    assert "suppressed: 1, named semaphores persist (default)\n" in text
    assert "unused: the suppression of rule orphan, name cache-* (pyproject.toml)\n" in text
    assert "expired on 2020-01-01: the suppression of rule *, name * (pyproject.toml)\n" in text
    assert "not seen: a directory: closed\n" in text
    assert "a mount" not in text
    assert "not seen: a mount: covered\n" in render(REPORT, "text", Style(verbose=True))


def test_text_shows_equal_findings_as_one_and_counts_them_all() -> None:
    alike = [replace(ORPHAN, name=f"psm_{i}", message=f"psm_{i} has no holder", subject=f"file:1:{i}") for i in range(9)]
    elsewhere = replace(ORPHAN, name="other", message="other has no holder", subject="file:1:99", creator=None)
    text = render(Report((*alike, elsewhere)), "text")
    assert text.count("has no holder") == 2
    told = " ".join(text.split())
    assert "also 8 more made at the same line: psm_1 (8 KiB), psm_2 (8 KiB)," in told
    assert "psm_5 (8 KiB), ..." in told
    assert "psm_6" not in text
    assert "10 leaks (80 KiB)" in text, "those that are alike count each"
    assert render(Report((*alike, elsewhere)), "text", Style(verbose=True)).count("has no holder") == 10


def test_text_cuts_command_lines_and_names_the_program_without_its_directory() -> None:
    long = "/a/long/way/to/python job.py " + "--option " * 30
    held = replace(ORPHAN, creator=replace(ORPHAN.creator, command=long), holders=(Process(9, 1, long),))
    text = render(Report((held,)), "text")
    assert "(python job.py --option" in text
    assert "/a/long" not in text
    assert "--option " * 10 not in " ".join(text.split())
    assert long.strip() in " ".join(render(Report((held,)), "text", Style(verbose=True)).split())


def test_what_a_tracker_removed_counts_with_the_size_it_had() -> None:
    reaped = Finding.of("LH015", "x (1 MiB) was left", name="x", size_bytes=2**20)
    assert "1 leak (1 MiB)" in render(Report((reaped,)), "text")
    assert "| 1 MiB |" in summary(Report((reaped,)))


def test_annotation_is_at_the_line_of_the_test_not_of_what_it_calls() -> None:
    stack = (Place("/lib/python3/pytest.py", 9), Place("tests/test_x.py", 7, "test_x"), Place("tests/helper.py", 2, "make"))
    creator = replace(ORPHAN.creator, place=stack[-1], stack=stack, test="tests/test_x.py::test_x")
    assert render(Report((replace(ORPHAN, creator=creator),)), "github").startswith("::error file=tests/test_x.py,line=7,")
    elsewhere = replace(creator, test="tests/test_y.py::test_y")
    assert "file=tests/helper.py,line=2," in render(Report((replace(ORPHAN, creator=elsewhere),)), "github")


def test_text_has_colour_only_if_asked() -> None:
    assert "\x1b" not in render(REPORT, "text")
    assert "\x1b[" in render(REPORT, "text", Style(colour=True))


def test_text_keeps_within_the_width_of_the_terminal() -> None:
    text = render(REPORT, "text", Style(width_columns=60))
    assert max(len(line) for line in text.splitlines() if line.startswith("   ")) <= 60


def test_text_counts_what_it_does_not_show() -> None:
    many = Report(tuple(Finding.of("LH001", f"s{i} has no holder", name=f"s{i}") for i in range(25)))
    assert "LH001: 5 more of these" in render(many, "text")
    assert "s24 has" in render(many, "text", Style(verbose=True))


def test_name_cannot_steer_the_terminal() -> None:
    text = render(Report((EVIL,)), "text")
    assert "\x1b" not in text
    assert "\\x1b[31m\\x0a::error::" in text


# --- SARIF -----------------------------------------------------------------------------------------------------------


def sarif(report: Report) -> dict:
    (run,) = json.loads(render(report, "sarif"))["runs"]
    return run


def test_sarif_has_the_version_and_all_rules() -> None:
    log = json.loads(render(REPORT, "sarif"))
    assert log["version"] == "2.1.0"
    assert [rule["id"] for rule in sarif(REPORT)["tool"]["driver"]["rules"]] == list(RULES)


def test_sarif_result_has_place_level_and_stable_fingerprint() -> None:
    result = sarif(REPORT)["results"][0]
    assert (result["ruleId"], result["level"]) == ("LH001", "error")
    physical = result["locations"][0]["physicalLocation"]
    assert physical == {"artifactLocation": {"uri": "app/job.py"}, "region": {"startLine": 12}}
    assert result["partialFingerprints"] == {"shmlease/v1": ORPHAN.fingerprint}
    rules = sarif(REPORT)["tool"]["driver"]["rules"]
    assert rules[result["ruleIndex"]]["id"] == result["ruleId"]


def test_sarif_stack_runs_from_the_innermost_call() -> None:
    frames = sarif(REPORT)["results"][0]["stacks"][0]["frames"]
    assert [frame["location"]["physicalLocation"]["region"]["startLine"] for frame in frames] == [12, 30]


def test_sarif_without_a_place_locates_the_segment() -> None:
    location = sarif(REPORT)["results"][1]["locations"][0]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "file:///dev/shm/x"


def test_text_lists_what_was_set_aside_when_verbose() -> None:
    line = f"  {REPORT.suppressed[0].finding.rule} "
    assert line in render(REPORT, "text", Style(verbose=True))
    assert line not in render(REPORT, "text", Style())


def test_sarif_tells_what_was_set_aside_and_what_was_not_seen() -> None:
    run = sarif(REPORT)
    assert run["results"][-1]["suppressions"] == [
        {"kind": "external", "justification": "named semaphores persist (default)"}
    ]
    levels = [note["level"] for note in run["invocations"][0]["toolExecutionNotifications"]]
    assert levels == ["warning", "note"]


# --- JUnit -----------------------------------------------------------------------------------------------------------


def test_junit_has_a_case_for_each_rule_and_fails_those_that_leaked() -> None:
    suite = ElementTree.fromstring(render(REPORT, "junit")).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == (str(len(RULES)), "2")
    failed = {case.get("name"): case for case in suite.findall("testcase") if case.find("failure") is not None}
    assert list(failed) == ["LH001 orphan", "LH003 unlinked-but-held"]
    assert (failed["LH001 orphan"].get("file"), failed["LH001 orphan"].get("line")) == ("app/job.py", "12")
    noted = next(case for case in suite.findall("testcase") if case.get("name") == "LH012 expired-ticket")
    assert noted.findtext("system-out", "").startswith("a ticket ran out")


def test_junit_is_well_formed_whatever_a_segment_is_called() -> None:
    failure = ElementTree.fromstring(render(Report((EVIL,)), "junit")).find(".//failure")
    assert failure is not None
    assert "�" in failure.get("message", "")


# --- GitHub ----------------------------------------------------------------------------------------------------------


def test_github_annotates_the_line_that_made_the_segment() -> None:
    lines = render(REPORT, "github").splitlines()
    assert lines[0].startswith("::error file=app/job.py,line=12,title=LH001 orphan::frames (8 KiB) has no holder%0A")
    assert lines[1].startswith("::warning title=LH003 unlinked-but-held::")
    assert lines[2].startswith("::notice title=LH012")


def test_github_escapes_what_would_end_a_command() -> None:
    (line,) = render(Report((EVIL,)), "github").splitlines()
    assert line.count("::error") == 2, "the one of the name is in the message, on the same line"
    assert "%0A::error::%250A" in line


def test_github_shows_ten_and_tells_where_the_rest_is() -> None:
    many = Report(tuple(Finding.of("LH001", "x", name=f"s{i}") for i in range(12)))
    lines = render(many, "github").splitlines()
    assert len(lines) == 11
    assert lines[-1] == "::notice title=shmlease::2 more findings are in the summary of this step"


def test_github_summary_has_a_row_for_each_finding() -> None:
    text = summary(REPORT)
    assert text.startswith("### shmlease audit: 2 leaks\n")
    assert "| LH001 orphan | frames (8 KiB) has no holder | 8 KiB | app/job.py:12 in main | proved |" in text
    assert "1 finding was suppressed" in text
    assert "- not seen: a directory: closed" in text
    assert summary(Report()).startswith("### shmlease audit: No leaks\n")


def test_github_summary_cannot_be_broken_by_a_name() -> None:
    rows = [line for line in summary(Report((EVIL,))).splitlines() if line.startswith("| LH001")]
    assert len(rows) == 1
    assert rows[0].count(" | ") == 4
    assert "<b>" not in rows[0]


def test_announcement_is_made_on_github_alone(tmp_path: object) -> None:
    written: list[str] = []
    path = f"{tmp_path}/summary.md"
    assert not announce(REPORT, written.append, {"GITHUB_STEP_SUMMARY": path})
    assert written == []
    assert announce(REPORT, written.append, {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": path})
    assert written == [render(REPORT, "github")]
    with open(path, encoding="utf-8") as file:
        assert file.read() == summary(REPORT)


def test_uncertain_finding_says_so() -> None:
    doubtful = Finding.of("LH004", "4 KiB are dark", name="/dev/shm", confidence=Confidence.UNKNOWN)
    assert "warning, unknown" in render(Report((doubtful,)), "text")
