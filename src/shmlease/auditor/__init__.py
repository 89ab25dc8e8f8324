"""The leak auditor: looks at the system, holds it against the lease tables, and reports what leaked and what it missed.

What is named here is imported when first used: `shmlease run` starts its command before it loads what judges it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmlease.lazy import lazily

if TYPE_CHECKING:
    from shmlease.auditor.configuration import Configuration, load_configuration
    from shmlease.auditor.formats import FORMATS, render
    from shmlease.auditor.looking import audit, begin_scope
    from shmlease.auditor.reaping import Reaping, reap
    from shmlease.core.findings import Confidence, Finding, Report
    from shmlease.core.rules import RULES, Rule, Severity
    from shmlease.core.suppression import DEFAULT_SUPPRESSIONS, Suppression

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
    "audit",
    "begin_scope",
    "load_configuration",
    "reap",
    "render",
]

_HOMES: Final = {
    "DEFAULT_SUPPRESSIONS": "shmlease.core.suppression",
    "FORMATS": "shmlease.auditor.formats",
    "RULES": "shmlease.core.rules",
    "Confidence": "shmlease.core.findings",
    "Configuration": "shmlease.auditor.configuration",
    "Finding": "shmlease.core.findings",
    "Reaping": "shmlease.auditor.reaping",
    "Report": "shmlease.core.findings",
    "Rule": "shmlease.core.rules",
    "Severity": "shmlease.core.rules",
    "Suppression": "shmlease.core.suppression",
    "audit": "shmlease.auditor.looking",
    "begin_scope": "shmlease.auditor.looking",
    "load_configuration": "shmlease.auditor.configuration",
    "reap": "shmlease.auditor.reaping",
    "render": "shmlease.auditor.formats",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
