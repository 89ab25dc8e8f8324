"""The result of an audit: findings, what was suppressed, what could not be seen, and the report that contains them.

Plain frozen values that travel as JSON and come back equal. Reports are compared and stored between runs, so nothing
in a finding's fingerprint is random: two runs that leak in the same place give the same fingerprint.

This module is longer than other modules: it is the vocabulary of reports, which is read together.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

import msgspec

from shmlease.auditor.judge.printable import cut_command, encodable_fields
from shmlease.auditor.judge.rules import RULES, Rule, Severity
from shmlease.errors import ProtocolError
from shmlease.notebook import html_table
from shmlease.units import format_count

__all__ = [
    "EXIT_BLIND",
    "EXIT_CLEAN",
    "EXIT_LEAKS",
    "REPORT_FORMAT",
    "Confidence",
    "Coverage",
    "Creator",
    "Environment",
    "Event",
    "Fact",
    "FileIdentity",
    "Finding",
    "Gap",
    "Place",
    "Process",
    "Report",
    "Suppressed",
    "SuppressionUse",
    "stable_name",
]

EXIT_CLEAN = 0
EXIT_LEAKS = 23  # LeakSanitizer's, which CI systems already know
EXIT_BLIND = 125  # out of the way of pytest (0-6), of shells (126 and above) and of most programs
REPORT_FORMAT = 1


class Confidence(Enum):
    """How certain a finding is: proved by the kernel, likely from what was seen, or unknown because too little was seen."""

    PROVED = "proved"
    LIKELY = "likely"
    UNKNOWN = "unknown"


class FileIdentity(msgspec.Struct, frozen=True, order=True):
    """A file for as long as it lives: a name can be reused, these three together cannot."""

    device: int
    inode: int
    born_ns: int | None = None


class Place(msgspec.Struct, frozen=True):
    """A place in code; `file` is relative to the working directory where it lies beneath it."""

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f" in {self.function}" if self.function else "")


class Process(msgspec.Struct, frozen=True):
    """A process: the pid, the start time that distinguishes it from a later one of the same pid, and what it runs."""

    pid: int
    start_ticks: int | None = None
    command: str = ""

    def __str__(self) -> str:
        return f"pid {self.pid}" + (f" ({cut_command(self.command)})" if self.command else "")


class Creator(msgspec.Struct, frozen=True):
    """Who created a segment, as far as is known; `stack` runs from the outermost call to `place`."""

    pid: int | None = None
    start_ticks: int | None = None
    command: str = ""
    place: Place | None = None
    stack: tuple[Place, ...] = ()
    test: str = ""

    @property
    def reported_at(self) -> Place | None:
        """The line to show to who reads the test: the innermost one in the test's own file, or else `place`."""
        file = self.test.partition("::")[0]
        own = [frame for frame in self.stack if file and frame.file == file]
        return own[-1] if own else self.place


class Fact(msgspec.Struct, frozen=True):
    """One thing that was seen, and where."""

    text: str
    source: str


class Finding(msgspec.Struct, frozen=True):
    """One leak, or one thing worth knowing: what it is, how big, who created it, how certain it is, the evidence, and the
    fix.

    `name` is the operating system's name (``psm_4f2a``, ``shmlease-ab12/s3``), `label` the one that users gave it, if any.
    `resident_bytes` is the memory it costs now, `size_bytes` the size it claims. `subject` says within one boot whether
    two findings are about the same thing.
    """

    rule: str
    message: str
    severity: Severity
    confidence: Confidence
    name: str
    subject: str = ""
    path: str = ""
    label: str = ""
    identity: FileIdentity | None = None
    size_bytes: int = 0
    resident_bytes: int = 0
    creator: Creator | None = None
    holders: tuple[Process, ...] = ()
    registry: str = ""
    evidence: tuple[Fact, ...] = ()
    remedy: str = ""

    @classmethod
    def of(
        cls,
        rule: str,
        message: str,
        *,
        name: str,
        confidence: Confidence = Confidence.PROVED,
        severity: Severity | None = None,
        subject: str = "",
        remedy: str = "",
        **others: Any,
    ) -> Finding:
        """A finding of `rule`, about `name` unless there is a `subject`, with the severity and remedy of the rule unless
        others are given.

        Names of files may be any bytes; they are encodable from here on, so that suppressions can name them.
        """
        definition = RULES[rule]
        severity, remedy = severity or definition.severity, remedy or definition.remedy
        finding = cls(rule, message, severity, confidence, name, subject or name, remedy=remedy, **others)
        if name.isascii() and message.isascii() and finding.path.isascii():
            return finding
        encodable_one: Finding = encodable_fields(finding)
        return encodable_one

    @property
    def definition(self) -> Rule:
        """The rule that this is a finding of."""
        return RULES[self.rule]

    @property
    def key(self) -> tuple[str, str]:
        """Rule and subject, which stay the same from one pass to the next."""
        return self.rule, self.subject

    @property
    def is_leak(self) -> bool:
        """Whether it counts for the exit code: not a note, and more than a suspicion."""
        return self.severity is not Severity.NOTE and self.confidence is not Confidence.UNKNOWN

    @property
    def cost_bytes(self) -> int:
        """The memory that it costs now, or, if a resource tracker has removed it, that it would have cost."""
        return self.size_bytes if self.rule == "LH015" else self.resident_bytes

    @property
    def stable_subject(self) -> str:
        """The creation file and function, or, where they are unknown, the label or the name without its random part."""
        place = self.creator.place if self.creator else None
        if place is not None:
            return f"{place.file} {place.function}"
        return self.label or stable_name(self.name)

    @property
    def fingerprint(self) -> str:
        """A hash of the rule and what is stable of the subject: the same for the same leak in every run."""
        import hashlib  # noqa: PLC0415 - loads OpenSSL, which takes as long as a third of an interpreter's start

        return hashlib.sha256(f"{self.rule}\0{self.stable_subject}".encode()).hexdigest()[:32]


# tempfile draws eight of [a-z0-9_], often without a digit: known by the prefix of its callers (multiprocessing's
# semaphores and heap, and tempfile itself).
_TEMPFILE = re.compile(r"(?P<prefix>sem\.mp-|pym-\d+-|tmp)[a-z0-9_]{8}(?![a-z0-9])")
# Otherwise a token that holds a digit, or is hexadecimal and long, was drawn by a program.
_RANDOM_TOKEN = re.compile(r"[0-9a-f]{6,}|[^\W_]*[0-9][^\W_]*", re.IGNORECASE)
_RUN_OF_RANDOM = re.compile(r"\*(?:[-_.]*\*)+")


def stable_name(name: str) -> str:
    """`name` with its random parts and numbers as ``*``, the same in every run: ``psm_4f2a`` gives ``psm_*``."""
    name = _TEMPFILE.sub(r"\g<prefix>*", name)
    tokens = re.split(r"([-_./])", name)
    starred = "".join("*" if _RANDOM_TOKEN.fullmatch(token) else token for token in tokens)
    return _RUN_OF_RANDOM.sub("*", starred)


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing that could not be seen. A gap is blinding when a leak could hide in it."""

    what: str
    why: str
    blinding: bool = True
    source: str = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was looked at, in counts, and what could not be seen."""

    looked_at: dict[str, int] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()

    @property
    def is_blind(self) -> bool:
        """Whether a leak could have gone unnoticed."""
        return any(gap.blinding for gap in self.gaps)


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A finding that was suppressed, and by what."""

    finding: Finding
    reason: str
    source: str  # "default", the configuration file, or the baseline file


@dataclass(frozen=True, slots=True)
class SuppressionUse:
    """A suppression as it was written, how many findings it suppressed, and whether it has expired."""

    reason: str
    source: str
    rule: str = "*"
    name: str = "*"
    creator: str = "*"
    expires: str = ""
    uses: int = 0
    expired: bool = False


class Event(msgspec.Struct, frozen=True):
    """One moment in the life of a segment, for the timeline; `at_ns` counts from the epoch.

    `kind` is one of create, grant, publish, attach, linger, release, retire, unlink, exit, expire, refuse, takeover, reap;
    or begin and end, of the scope itself. Events of one lease share `lease`, so that a bar can be drawn from its first to
    its last.
    """

    at_ns: int
    kind: str
    segment: str = ""
    text: str = ""
    pid: int | None = None
    lease: str = ""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and how the audit ran."""

    version: str = ""
    host: str = ""
    kernel: str = ""
    boot_id: str = ""
    user: str = ""
    user_id: int = 0
    privileged: bool = False
    roots: tuple[str, ...] = ()
    began_ns: int = 0
    elapsed_ns: int = 0
    command: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """The result of one audit; all text in it is encodable, whatever the names of the files."""

    findings: tuple[Finding, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    suppressed: tuple[Suppressed, ...] = ()
    suppressions: tuple[SuppressionUse, ...] = ()
    environment: Environment = field(default_factory=Environment)
    events: tuple[Event, ...] = ()
    format: int = REPORT_FORMAT

    def __post_init__(self) -> None:
        try:
            msgspec.json.encode(self)  # the quickest way to check all text in it
        except UnicodeEncodeError:
            for one in fields(self):
                object.__setattr__(self, one.name, encodable_fields(getattr(self, one.name)))

    def __repr__(self) -> str:
        return f"<Report {format_count(len(self.leaks), 'leak')}, {format_count(len(self.findings), 'finding')}>"

    def __str__(self) -> str:
        formats = importlib.import_module("shmlease.auditor.report.formats")  # above this package: only who prints needs it
        return str(formats.render(self, "text")).rstrip("\n")

    def _repr_html_(self) -> str:
        rows = [(f"{finding.rule} {finding.definition.name}", finding.message) for finding in self.findings]
        return html_table("no leaks" if self.is_clean else format_count(len(self.leaks), "leak"), rows)

    @property
    def leaks(self) -> tuple[Finding, ...]:
        """The findings that count for the exit code."""
        return tuple(finding for finding in self.findings if finding.is_leak)

    @property
    def is_clean(self) -> bool:
        """Whether nothing leaked, as far as could be seen."""
        return not self.leaks

    def exit_code(self, *, strict: bool = False) -> int:
        """0 clean; 23 something leaked; 125 no leak was found, something could not be seen, and `strict` is set."""
        if self.leaks:
            return EXIT_LEAKS
        return EXIT_BLIND if strict and self.coverage.is_blind else EXIT_CLEAN

    def adding(self, findings: Iterable[Finding] = (), events: Iterable[Event] = ()) -> Report:
        """This report with more findings and events, in their order."""
        merged = sorted((*self.events, *events), key=lambda event: event.at_ns)
        return replace(self, findings=(*self.findings, *findings), events=tuple(merged))

    def to_json(self, *, indent: int = 2) -> bytes:
        """The report as JSON; fields that have their default value are written too, so that readers need no schema."""
        rows: dict[str, Any] = msgspec.to_builtins(self)
        for finding, row in zip(self.findings, rows["findings"], strict=True):
            row["fingerprint"] = finding.fingerprint
        return msgspec.json.format(msgspec.json.encode(rows), indent=indent)

    @classmethod
    def from_json(cls, text: bytes | str) -> Report:
        """The report that `to_json` wrote.

        Raises
        ------
        ProtocolError
            The text is not a report, or one of a later format.
        """
        try:
            report = msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"not an audit report: {error}; expected the output of `shmlease audit --json`") from error
        if report.format != REPORT_FORMAT:
            raise ProtocolError(
                f"an audit report of format {report.format}; this version reads format {REPORT_FORMAT}: "
                "read it with the version of shmlease that wrote it",
                seen=report.format,
                expected=REPORT_FORMAT,
            )
        return report
