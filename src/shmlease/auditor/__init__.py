"""The leak auditor: compares the system with the lease tables, and reports what leaked and what it could not see.

Everything named here is imported when first used: `shmlease run` starts its command before it loads the auditor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmlease.lazy import lazily

if TYPE_CHECKING:
    from shmlease.auditor.audit import begin_scope
    from shmlease.auditor.configuration import Configuration, load_configuration
    from shmlease.auditor.judge.findings import Confidence, Finding, Report
    from shmlease.auditor.judge.rules import RULES, Rule, Severity
    from shmlease.auditor.judge.suppression import DEFAULT_SUPPRESSIONS, Suppression
    from shmlease.auditor.reap import Reaping
    from shmlease.auditor.report.formats import FORMATS, render

__all__ = [
    "DEFAULT_SUPPRESSIONS",
    "FORMATS",
    "RULES",
    "Confidence",
    "Configuration",
    "Finding",
    "Reaping",
    "Report",
    "Rule",
    "Severity",
    "Suppression",
    "begin_scope",
    "load_configuration",
    "render",
]

_HOMES: Final = {
    "DEFAULT_SUPPRESSIONS": "shmlease.auditor.judge.suppression",
    "FORMATS": "shmlease.auditor.report.formats",
    "RULES": "shmlease.auditor.judge.rules",
    "Confidence": "shmlease.auditor.judge.findings",
    "Configuration": "shmlease.auditor.configuration",
    "Finding": "shmlease.auditor.judge.findings",
    "Reaping": "shmlease.auditor.reap",
    "Report": "shmlease.auditor.judge.findings",
    "Rule": "shmlease.auditor.judge.rules",
    "Severity": "shmlease.auditor.judge.rules",
    "Suppression": "shmlease.auditor.judge.suppression",
    "begin_scope": "shmlease.auditor.audit",
    "load_configuration": "shmlease.auditor.configuration",
    "render": "shmlease.auditor.report.formats",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
