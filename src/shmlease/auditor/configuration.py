"""The settings of a project's audits: `[tool.shmlease.audit]` in pyproject.toml, or `[audit]` in shmlease.toml."""

from __future__ import annotations

import os
import stat
from datetime import date
from typing import Any, Final, Self

import msgspec

from shmlease.auditor.judge.rules import rule_of, unknown_rule
from shmlease.auditor.judge.suppression import Suppression
from shmlease.errors import LeaseError
from shmlease.system.safe_open import read_named
from shmlease.units import parse_duration

__all__ = ["Configuration", "load_configuration"]

# file -> the tables that lead to ours
_FILES: Final = {"shmlease.toml": ("audit",), "pyproject.toml": ("tool", "shmlease", "audit")}


class _Suppress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: str
    rule: str = "*"
    name: str = "*"
    creator: str = "*"
    expires: date | None = None


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The settings of an audit; those given on the command line take precedence.

    Parameters
    ----------
    strict : bool
        Whether an audit that could not see everything fails (exit code 125).
    rules, ignore : list of str
        Rules to run, or not to run.
    paths : list of str or None
        The directories to audit instead of all shared memory.
    overdue_after : float, str or None
        How long a lease may be held: seconds, or text such as ``"1h"``.
    baseline : str or None
        A file of known leaks, relative to the configuration file.
    default_suppressions : bool
        Whether to suppress what other programs keep in /dev/shm by design.
    suppress : list
        Tables of `reason` (required), `rule`, `name`, `creator` (globs) and `expires` (a date).
    """

    strict: bool = False
    rules: list[str] | None = None
    ignore: list[str] = []
    paths: list[str] | None = None
    overdue_after: float | str | None = None
    baseline: str | None = None
    default_suppressions: bool = True
    suppress: list[_Suppress] = []
    source: str = ""

    def overridden(self, **given: Any) -> Self:
        """These settings, except those that are `given` and neither None nor empty."""
        return msgspec.structs.replace(self, **{name: value for name, value in given.items() if value not in (None, [])})

    @property
    def audit_arguments(self) -> dict[str, Any]:
        """The settings as keyword arguments of `shmlease.audit`, except `paths`."""
        return {
            "rules": self.rules,
            "ignore": self.ignore,
            "suppressions": self.suppressions,
            "default_suppressions": self.default_suppressions,
            "overdue_after": self.overdue_after,
        }

    @property
    def suppressions(self) -> tuple[Suppression, ...]:
        """The project's own suppressions."""
        return tuple(
            Suppression(one.reason, one.rule, one.name, one.creator, one.expires, self.source) for one in self.suppress
        )


def load_configuration(path: str | None = None, *, beneath: str = ".") -> Configuration:
    """The configuration in `path`, or in the nearest file that has one, in `beneath` or a directory above it.

    Within a directory, shmlease.toml comes before pyproject.toml. If there is none, the defaults. What somebody else has
    put into a directory that everybody may write in, such as /tmp, does not count: it could suppress what leaks.

    Raises
    ------
    LeaseError
        The file cannot be read, is not TOML, or has a setting that is unknown or invalid.
    """
    if path is not None:
        table = _table(path, _FILES.get(os.path.basename(path), ("audit",)))
        return _configuration(table or {}, path)
    directory = os.path.abspath(beneath)
    while True:
        for name, keys in _FILES.items():
            candidate = os.path.join(directory, name)
            if os.path.isfile(candidate) and not _may_be_planted(candidate):
                table = _table(candidate, keys)
                if table is not None:
                    return _configuration(table, candidate)
        parent = os.path.dirname(directory)
        if parent == directory:
            return Configuration()
        directory = parent


def _may_be_planted(path: str) -> bool:
    """Whether anybody could have made this file, and it was neither this user nor root."""
    try:
        is_open = os.stat(os.path.dirname(path)).st_mode & stat.S_IWOTH
        return bool(is_open) and os.stat(path).st_uid not in (0, os.geteuid())
    except OSError:
        return False  # it is told when it is read


def _table(path: str, keys: tuple[str, ...]) -> dict[str, Any] | None:
    import tomllib  # noqa: PLC0415 - most audits find no file to read

    try:
        table: Any = tomllib.loads(read_named(path).decode())
    except OSError as error:
        raise LeaseError(f"cannot read {path}: {error.strerror}", path=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LeaseError(f"{path} is not valid TOML: {error}", path=path) from error
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    if table is not None and not isinstance(table, dict):
        raise LeaseError(f"{path}: [{'.'.join(keys)}] must be a table, not {table!r}", path=path)
    return table


def _configuration(table: dict[str, Any], path: str) -> Configuration:
    # TOML files spell it either way: overdue-after, overdue_after
    spelled = {key.replace("_", "-"): value for key, value in table.items()}
    try:
        configuration = msgspec.convert({**spelled, "source": path}, Configuration)
    except msgspec.ValidationError as error:
        known = ", ".join(name for name in Configuration.__struct_encode_fields__ if name != "source")
        raise LeaseError(f"{path}: {error}; [audit] knows {known}", path=path) from error
    _check(configuration, path)
    if configuration.baseline is not None:
        beside = os.path.join(os.path.dirname(path), configuration.baseline)
        configuration = msgspec.structs.replace(configuration, baseline=beside)
    return configuration


def _check(configuration: Configuration, path: str) -> None:
    for rule in (*(configuration.rules or ()), *configuration.ignore):
        if rule_of(rule) is None:
            raise LeaseError(f"{path}: {unknown_rule(rule)}", path=path)
    for one in configuration.suppress:
        if not one.reason.strip():
            which = f"rule {one.rule!r}, name {one.name!r}"
            raise LeaseError(f"{path}: the suppression of {which} has no reason; say why it is not a leak", path=path)
    if configuration.overdue_after is not None:
        try:
            parse_duration(configuration.overdue_after)
        except ValueError as error:
            raise LeaseError(f"{path}: overdue-after: {error}", path=path) from error
