"""`run`: a command from its start to the report on what it left in shared memory."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol

import shmlease
from shmlease.auditor.run.inject.shmlease_recorder import ENVIRONMENT
from shmlease.auditor.run.inotify import Watch
from shmlease.auditor.run.isolation import enter_isolation
from shmlease.auditor.run.subreaper import run_and_wait
from shmlease.errors import LeaseError, UnsupportedPlatformError
from shmlease.system.identity import require_proc
from shmlease.system.shm_root import list_root

if TYPE_CHECKING:
    from shmlease.auditor.judge.evidence import Scope
    from shmlease.auditor.judge.findings import Report
    from shmlease.auditor.run.records import Records

__all__ = ["ISOLATED", "SETTLE_S", "Adopting", "CommandNotStartedError", "LeftName", "Run", "recording_environment", "run"]

# A daemon that was meant to end with the command does so at once; one that waits for a socket or a flush takes a second or
# two.
SETTLE_S: Final = 5.0
# Set for a command that has a /dev/shm of its own.
ISOLATED: Final = "SHMLEASE_ISOLATED"
_REGISTRY: Final = "SHMLEASE_REGISTRY"
_SHM: Final = "/dev/shm"
_PACKAGE: Final = os.path.join(os.path.dirname(shmlease.__file__), "")
_NAME_LENGTH: Final = 60
_EXIT_NOT_FOUND: Final = 127
_EXIT_NOT_EXECUTABLE: Final = 126


@dataclass(frozen=True, slots=True)
class LeftName:
    """A segment of an adopted program that nobody had unlinked when the run ended."""

    name: str
    size_bytes: int
    place: str = ""  # where in the code it was made


class Adopting(Protocol):
    """A registry that the Python programs of the command use, as a context manager that ends it."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What the command's environment is to have."""
        ...

    def left(self) -> tuple[LeftName, ...]:
        """What nobody has unlinked."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: the report, the command's own exit code, and whether it had a /dev/shm of its own.

    `why_shared` says why not; `left` what adopted programs had not unlinked.
    """

    report: Report
    returncode: int
    is_isolated: bool
    why_shared: str = ""
    left: tuple[LeftName, ...] = ()

    def exit_code(self, *, strict: bool = False) -> int:
        """The command's own exit code where it is not 0, else that of the report."""
        return self.returncode or self.report.exit_code(strict=strict)


class CommandNotStartedError(LeaseError, OSError):
    """The command could not be started; `exit_code` is what a shell would have returned."""


def run(
    command: Sequence[str],
    *,
    isolate: bool | None = None,
    hook: bool = True,
    settle_s: float = SETTLE_S,
    adopting: Callable[[], AbstractContextManager[Adopting]] | None = None,
    audit_arguments: Mapping[str, Any] | None = None,
) -> Run:
    """Run `command`, wait for all its descendants, and audit what it left in shared memory.

    This process changes: it moves into namespaces of its own where `isolate` allows, and reaps children that are not its
    own. So it should do nothing else, as `shmlease run` does.

    Parameters
    ----------
    command : sequence of str
        Program and arguments; any program.
    isolate : bool, optional
        Whether to give it a /dev/shm of its own. By default where the system allows it, unless it is to use a registry that
        runs outside.
    hook : bool
        Whether to record where Python code creates segments.
    settle_s : float
        How long to wait for descendants once the command itself has ended.
    adopting : callable, optional
        Starts a registry that the command's Python programs are to use in place of `multiprocessing.shared_memory`.
    audit_arguments : mapping, optional
        Keyword arguments of `shmlease.audit`.

    Raises
    ------
    CommandNotStartedError
        There is no such command, or it cannot be executed.
    UnsupportedPlatformError
        `isolate` is true and the system does not allow it.
    """
    require_proc()
    list_root(_SHM)  # before anything is done: that there is none, and why
    why_shared = _isolate(isolate, uses_registry_outside=adopting is None)
    is_isolated = not why_shared
    name = _name(command)
    with tempfile.TemporaryDirectory(prefix="shmlease-", dir=_outside_shared_memory()) as directory, Watch() as watch:
        path = os.path.join(directory, "records")
        environment = recording_environment(os.environ, path) if hook else dict(os.environ)
        if is_isolated:
            environment[ISOLATED] = "1"
        # a /dev/shm of our own is empty; what a shared one holds must be known before
        scope = None if is_isolated else _begin_scope(name)
        left: tuple[LeftName, ...] = ()
        with contextlib.ExitStack() as stack:
            if adopting is not None:
                adopted = stack.enter_context(adopting())
                environment |= adopted.environment
            try:
                outcome = run_and_wait(command, environment, watch, settle_s, _load_the_auditor)
            except OSError as error:
                raise _not_started(command, error) from error
            if adopting is not None:
                left = adopted.left()
        run_report, record_log = _load_the_auditor()
        recorded = record_log.RecordLog(path).read()
        scope = scope or run_report.empty_scope(name, outcome.began_ns)
        evidence = run_report.RunEvidence(
            outcome,
            scope,
            watch,
            recorded,
            is_isolated,
            is_recorded=hook,
            is_adopted=adopting is not None,
        )
        report = run_report.report_on(evidence, audit_arguments or {})
    if left:
        left = _with_places(left, recorded)
    return Run(report, outcome.exit_code, is_isolated, why_shared, left)


def _with_places(left: Iterable[LeftName], recorded: Records) -> tuple[LeftName, ...]:
    places = {record.path: record.place_outside(_PACKAGE) for record in recorded.records if record.kind == "link"}
    return tuple(replace(one, place=str(places.get(f"{_SHM}/{one.name}") or "")) for one in left)


def _load_the_auditor() -> tuple[ModuleType, ModuleType]:
    """What judges a run, imported while the command runs: it takes as long to load as an interpreter to start."""
    from shmlease.auditor.run import record_log, run_report  # noqa: PLC0415

    return run_report, record_log


def recording_environment(environment: Mapping[str, str], path: str) -> dict[str, str]:
    """`environment` for a program whose Python processes record into the file `path`, which is created here."""
    inject = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inject")
    # created here: the recorder only appends, so that a program that outlives the audit does not create it again
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    before = environment.get("PYTHONPATH")
    search = f"{inject}{os.pathsep}{before}" if before else inject
    return {**environment, ENVIRONMENT: path, "PYTHONPATH": search}


def _outside_shared_memory() -> str | None:
    """Where to put what would itself be found if it lay in shared memory, as with TMPDIR=/dev/shm; None for anywhere."""
    usual = os.path.realpath(tempfile.gettempdir())
    if usual != _SHM and not usual.startswith(f"{_SHM}/"):
        return None
    return next((path for path in ("/tmp", "/var/tmp", os.getcwd()) if os.access(path, os.W_OK)), None)


def _isolate(wanted: bool | None, *, uses_registry_outside: bool) -> str:
    """Isolate this process if wanted and possible; why not, otherwise."""
    if wanted is False:
        return "--no-isolate was given"
    if wanted is None and uses_registry_outside:
        registry = os.environ.get(_REGISTRY)
        if registry:
            return f"{_REGISTRY} names registry {registry}, which runs outside"
        default = _default_registry()
        if default:
            return f"this user's default registry runs ({default})"
    try:
        enter_isolation()
    except UnsupportedPlatformError as error:
        if wanted:
            raise UnsupportedPlatformError(
                f"the command cannot have a /dev/shm of its own: {error}; leave --isolate out to audit it in the shared one"
            ) from error
        return f"the system does not allow it ({error})"
    return ""


def _default_registry() -> str:
    """The directory of this user's default registry; the empty string if there is none."""
    if not any(name.startswith(f"shmlease-u{os.geteuid()}") for name in list_root(_SHM)):
        return ""  # found out without what follows takes to import
    from shmlease.system.registries import default_registry_id, registry_directories  # noqa: PLC0415

    usual = default_registry_id(_SHM)
    return next((directory.path for directory in registry_directories(_SHM) if directory.id == usual), "")


def _begin_scope(name: str) -> Scope:
    from shmlease.auditor.audit import begin_scope  # noqa: PLC0415 - an isolated run begins without it

    return begin_scope(name, foreign=False)


def _name(command: Sequence[str]) -> str:
    text = " ".join(shlex.join(command).split())
    return text if len(text) <= _NAME_LENGTH else f"{text[: _NAME_LENGTH - 3]}..."


def _not_started(command: Sequence[str], error: OSError) -> CommandNotStartedError:
    found = not isinstance(error, FileNotFoundError)
    return CommandNotStartedError(
        f"cannot run {command[0]}: {error.strerror}",
        command=list(command),
        exit_code=_EXIT_NOT_EXECUTABLE if found else _EXIT_NOT_FOUND,
    )
