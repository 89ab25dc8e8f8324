"""The leak auditor: looks at the system, holds it against the lease tables, and reports what leaked and what it missed.

What is named here is imported when first used: `leasehold run` starts its command before it loads what judges it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from leasehold.lazy import lazily

if TYPE_CHECKING:
    from leasehold.auditor.configuration import Configuration, load_configuration
    from leasehold.auditor.formats import FORMATS, render
    from leasehold.auditor.looking import audit, begin_scope
    from leasehold.auditor.reaping import Reaping, reap
    from leasehold.core.findings import Confidence, Finding, Report
    from leasehold.core.rules import RULES, Rule, Severity
    from leasehold.core.suppression import DEFAULT_SUPPRESSIONS, Suppression

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
    "DEFAULT_SUPPRESSIONS": "leasehold.core.suppression",
    "FORMATS": "leasehold.auditor.formats",
    "RULES": "leasehold.core.rules",
    "Confidence": "leasehold.core.findings",
    "Configuration": "leasehold.auditor.configuration",
    "Finding": "leasehold.core.findings",
    "Reaping": "leasehold.auditor.reaping",
    "Report": "leasehold.core.findings",
    "Rule": "leasehold.core.rules",
    "Severity": "leasehold.core.rules",
    "Suppression": "leasehold.core.suppression",
    "audit": "leasehold.auditor.looking",
    "begin_scope": "leasehold.auditor.looking",
    "load_configuration": "leasehold.auditor.configuration",
    "reap": "leasehold.auditor.reaping",
    "render": "leasehold.auditor.formats",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
