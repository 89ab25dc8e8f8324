"""The report as SARIF 2.1.0, for code scanning.

Fingerprints are those of the findings. A finding without a known place in code is located at its file in shared memory.
What could not be seen is a notification of the invocation; what was suppressed is a suppressed result with its
justification.

Source: OASIS SARIF 2.1.0, sections 3.20 (invocation), 3.27 (result), 3.35 (suppression), 3.49 (reportingDescriptor).
"""

from __future__ import annotations

import json
import os
from typing import Any, Final
from urllib.parse import quote

from shmlease.auditor.judge.findings import Finding, Gap, Place, Report
from shmlease.auditor.judge.rules import RULES, Rule

__all__ = ["render"]

_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
_RULE_INDEX: Final = {rule: index for index, rule in enumerate(RULES)}


def render(report: Report) -> str:
    """`report` as one SARIF run."""
    results = [_result(finding) for finding in report.findings]
    results += [
        {**_result(one.finding), "suppressions": [{"kind": "external", "justification": f"{one.reason} ({one.source})"}]}
        for one in report.suppressed
    ]
    run = {
        "tool": {
            "driver": {
                "name": "shmlease",
                "version": report.environment.version,
                "informationUri": "https://pypi.org/project/shmlease/",
                "rules": [_rule(rule) for rule in RULES.values()],
            }
        },
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": [_notification(gap) for gap in report.coverage.gaps],
            }
        ],
        "results": results,
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.description},
        "help": {"text": f"To fix it, {rule.remedy}."},
        "defaultConfiguration": {"level": rule.severity.value},
    }


def _result(finding: Finding) -> dict[str, Any]:
    facts = "".join(f"\n- {fact.text} [{fact.source}]" for fact in finding.evidence)
    place = finding.creator.place if finding.creator else None
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": _RULE_INDEX[finding.rule],
        "level": finding.severity.value,
        "message": {"text": f"{finding.message}\n{facts}\n\nTo fix it, {finding.remedy}."},
        "partialFingerprints": {"shmlease/v1": finding.fingerprint},
        "locations": [{**_location(finding, place), "logicalLocations": [_segment(finding)]}],
        "properties": {
            "confidence": finding.confidence.value,
            "sizeBytes": finding.size_bytes,
            "residentBytes": finding.resident_bytes,
        },
    }
    if finding.creator is not None and finding.creator.stack:
        frames = [{"location": _in_code(frame)} for frame in reversed(finding.creator.stack)]
        result["stacks"] = [{"message": {"text": "where the segment was created"}, "frames": frames}]
    return result


def _location(finding: Finding, place: Place | None) -> dict[str, Any]:
    if place is not None:
        return _in_code(place)
    path = finding.path if os.path.isabs(finding.path) else f"/dev/shm/{finding.name}"
    return {"physicalLocation": {"artifactLocation": {"uri": "file://" + quote(path)}}}


def _in_code(place: Place) -> dict[str, Any]:
    uri = "file://" + quote(place.file) if os.path.isabs(place.file) else quote(place.file)
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": max(place.line, 1)}}}


def _segment(finding: Finding) -> dict[str, Any]:
    return {"name": finding.label or finding.name, "fullyQualifiedName": finding.path or finding.name, "kind": "resource"}


def _notification(gap: Gap) -> dict[str, Any]:
    return {
        "level": "warning" if gap.blinding else "note",
        "message": {"text": f"could not see {gap.what}: {gap.why}"},
    }
