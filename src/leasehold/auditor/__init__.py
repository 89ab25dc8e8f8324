"""The leak auditor: looks at the system, holds it against the lease tables, and reports what leaked and what it missed."""

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
