"""The report as JUnit XML: one test case for each rule that looked, failed by its leaks."""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree

from shmlease.auditor.judge.findings import Finding, Report
from shmlease.auditor.judge.rules import RULES

__all__ = ["render"]

_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    """`report` as one test suite."""
    by_rule: dict[str, list[Finding]] = {rule: [] for rule in RULES}
    for finding in report.findings:
        by_rule[finding.rule].append(finding)
    failed = sum(any(finding.is_leak for finding in findings) for findings in by_rule.values())
    seconds = f"{report.environment.elapsed_ns / 1e9:.3f}"
    totals = {"tests": str(len(by_rule)), "failures": str(failed), "errors": "0", "time": seconds}
    suites = ElementTree.Element("testsuites", totals)
    about = {"name": "shmlease audit", "skipped": "0", "hostname": report.environment.host}
    suite = ElementTree.SubElement(suites, "testsuite", {**about, **totals})
    properties = ElementTree.SubElement(suite, "properties")
    for name, count in report.coverage.looked_at.items():
        ElementTree.SubElement(properties, "property", name=f"shmlease.{name.replace(' ', '_')}", value=str(count))
    for rule, findings in by_rule.items():
        _add_case(suite, rule, findings)
    gaps = "\n".join(f"could not see {gap.what}: {gap.why}" for gap in report.coverage.gaps)
    if gaps:
        ElementTree.SubElement(suite, "system-out").text = _xml(gaps)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: ElementTree.Element, rule: str, findings: list[Finding]) -> None:
    name = f"{rule} {RULES[rule].name}"
    case = ElementTree.SubElement(suite, "testcase", classname="shmlease.audit", name=name, time="0")
    leaks = [finding for finding in findings if finding.is_leak]
    if leaks:
        first = leaks[0].creator.place if leaks[0].creator else None
        if first is not None:
            case.set("file", _xml(first.file))
            case.set("line", str(first.line))
        message = leaks[0].message if len(leaks) == 1 else f"{leaks[0].message}, and {len(leaks) - 1} more"
        failure = ElementTree.SubElement(case, "failure", type=rule, message=_xml(message))
        failure.text = _xml("\n\n".join(_text(finding) for finding in leaks))
    notes = [finding for finding in findings if not finding.is_leak]
    if notes:
        ElementTree.SubElement(case, "system-out").text = _xml("\n\n".join(_text(finding) for finding in notes))


def _text(finding: Finding) -> str:
    lines = [finding.message]
    if finding.creator is not None and finding.creator.place is not None:
        lines.append(f"  created at {finding.creator.place}")
    lines += [f"  {fact.text} [{fact.source}]" for fact in finding.evidence]
    return "\n".join((*lines, f"  to fix it: {finding.remedy}"))


def _xml(text: str) -> str:
    """`text` without the characters that XML 1.0 cannot hold, not even escaped."""
    return _NOT_XML.sub("�", text)
