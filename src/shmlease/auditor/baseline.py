"""A baseline: the leaks that a project had when it began to audit, so that only new ones fail the audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

import msgspec

from shmlease.auditor.judge.findings import Report
from shmlease.auditor.judge.suppression import suppress_known
from shmlease.errors import LeaseError
from shmlease.output_file import write_output
from shmlease.system.safe_open import read_named

__all__ = ["Baseline", "read_baseline", "write_baseline"]

_FORMAT: Final = 1


class _Known(msgspec.Struct, frozen=True):
    fingerprint: str
    rule: str
    name: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class _Baseline(msgspec.Struct, frozen=True):
    format: int
    findings: list[_Known]


@dataclass(frozen=True, slots=True)
class Baseline:
    """How many findings of each fingerprint are known, and the file that says so."""

    path: str = ""
    known: Mapping[str, int] = field(default_factory=dict)

    def apply(self, report: Report) -> Report:
        """`report` with the known findings suppressed."""
        kept, suppressed = suppress_known(report.findings, self.known, self.path)
        return replace(report, findings=kept, suppressed=(*report.suppressed, *suppressed))


def read_baseline(path: str | None) -> Baseline:
    """The baseline in the file `path`; without one, nothing is known.

    Raises
    ------
    LeaseError
        The file cannot be read, or is not a baseline.
    """
    if path is None:
        return Baseline()
    try:
        baseline = msgspec.json.decode(read_named(path), type=_Baseline)
    except OSError as error:
        raise LeaseError(
            f"cannot read the baseline {path}: {error.strerror}; `shmlease audit --write-baseline {path}` creates one",
            path=path,
        ) from error
    except msgspec.DecodeError as error:
        raise LeaseError(f"{path} is not a baseline: {error}; write it again with --write-baseline", path=path) from error
    if baseline.format != _FORMAT:
        raise LeaseError(
            f"{path} is a baseline of format {baseline.format}; this version reads format {_FORMAT}", path=path
        )
    known: Counter[str] = Counter()
    for one in baseline.findings:
        known[one.fingerprint] += one.count
    return Baseline(path, known)


def write_baseline(path: str, report: Report) -> int:
    """Record the leaks of `report` in the file `path`, and return how many there are.

    The file is sorted and contains nothing random, so it changes only when the leaks do. It is replaced as a whole.

    Raises
    ------
    LeaseError
        It cannot be written.
    """
    counts = Counter(finding.fingerprint for finding in report.leaks)
    first = {finding.fingerprint: finding for finding in reversed(report.leaks)}
    known = [
        _Known(fingerprint, finding.rule, finding.stable_subject, counts[fingerprint])
        for fingerprint, finding in sorted(first.items(), key=lambda item: (item[1].rule, item[1].stable_subject, item[0]))
    ]
    content = msgspec.json.format(msgspec.json.encode(_Baseline(_FORMAT, known)), indent=2) + b"\n"
    write_output(path, content)
    return len(report.leaks)
