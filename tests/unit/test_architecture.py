"""The shape of the code: imports point towards the core, the core does no I/O, and importing shmlease costs little."""

from __future__ import annotations

import ast
import fcntl
import functools
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmlease
from rig.repeated import for_each
from shmlease.system import syscalls

PACKAGE = Path(shmlease.__file__).parent

# What each part may import of shmlease, besides itself. Level by level, the lowest first.
VOCABULARY = {"errors", "units", "notebook"}
FAILURES = VOCABULARY | {"exhaustion", "interrupts"}
CORE = VOCABULARY | {"core"}
SYSTEM = CORE | FAILURES | {"system"}
JUDGE = CORE | {"auditor.judge"}
OBSERVE = SYSTEM | {"auditor.judge", "auditor.observe", "compiled"}
REPORT = JUDGE | {"auditor.report", "pages", "output_file"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "units": set(),
    "notebook": set(),
    "interrupts": set(),
    "exhaustion": FAILURES,
    "lazy": set(),
    "pages": VOCABULARY | {"pages"},
    "output_file": VOCABULARY,
    "compiled": set(),
    "text": FAILURES | {"compiled"},
    "hdf5": FAILURES | {"compiled", "lazy", "output_file"},
    "core": CORE,
    "system": SYSTEM,
    "registry": SYSTEM,
    "client": SYSTEM | {"compiled"},
    "auditor.judge": JUDGE,
    "auditor.observe": OBSERVE,
    "auditor.report": REPORT,
    "auditor": OBSERVE | REPORT | {"lazy"},
    "auditor.run": OBSERVE | REPORT | {"auditor"},
}
ROOMS = {"judge", "observe", "report", "run"}
# Programs and faces: nothing below them may know them.
NOBODY_IMPORTS = {"cli", "integrations", "shared_memory", "joblib", "dask", "__main__"}
# What decides and does no I/O, and what it must not touch.
PURE = {"errors", "units", "core", "auditor.judge"}
WORLD = {
    "asyncio",
    "ctypes",
    "fcntl",
    "io",
    "logging",
    "mmap",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "resource",
    "secrets",
    "select",
    "signal",
    "socket",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "numpy",
    "psutil",
    "h5py",
}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def part_of(path: Path) -> str:
    return part_named(".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"))


def part_named(module: str) -> str:
    """The part that `module`, a name below `shmlease`, belongs to: a package, or a room of the auditor."""
    first, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    return f"{first}.{room}" if first == "auditor" and room in ROOMS else first


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    """Absolute names of all that the module imports, wherever in it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            if node.module == "shmlease":
                yield from (f"shmlease.{alias.name}" for alias in node.names)


def parts_imported(path: Path) -> set[str]:
    parts = {part_named(name.removeprefix("shmlease.")) for name in imports(path) if name.startswith("shmlease.")}
    return parts - {"__version__"}


@for_each("path", MODULES)
def test_imports_point_towards_the_core(path: Path) -> None:
    part = part_of(path)
    used = parts_imported(path) - {part}
    if part in MAY_IMPORT:
        assert used <= MAY_IMPORT[part], f"{part} may import {sorted(MAY_IMPORT[part])}"
    if part not in NOBODY_IMPORTS | {"__init__"}:  # which names them, and imports them when they are used
        assert not used & NOBODY_IMPORTS, "nothing imports a face"


@for_each("path", [p for p in MODULES if part_of(p) == "integrations" and p.parent.name == "integrations"])
def test_integrations_stand_on_the_public_interface(path: Path) -> None:
    assert parts_imported(path) <= {"integrations", "errors", "units", *shmlease.__all__}


@for_each("path", [p for p in MODULES if part_of(p) in PURE])
def test_core_and_judge_touch_nothing_of_the_world(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    assert not used & WORLD


@for_each("path", [p for p in MODULES if part_of(p) == "registry"])
def test_registry_process_runs_without_numpy_and_without_the_client(path: Path) -> None:
    used = set(imports(path))
    assert "numpy" not in {name.split(".")[0] for name in used}
    assert not any(name.startswith("shmlease.client") for name in used)


# Modules of the lease product that start processes.
START_PROCESSES = {"launch", "forkserver", "interpreter", "surroundings", "forks", "signals"}
LEASE_PRODUCT = [
    path
    for path in MODULES
    if part_of(path) in {"system", "registry", "client"} and path.stem not in START_PROCESSES | {"syscalls"}
]
LIBRARIES = {"os": os, "posix": os, "fcntl": fcntl, "select": select}
SEAM = [getattr(syscalls, name) for name in syscalls.__all__]


def calls_past_the_seam(tree: ast.Module) -> Iterator[str]:
    """Functions that the seam has, taken from the libraries that it has them from."""
    annotations = [getattr(node, field, None) for node in ast.walk(tree) for field in ("annotation", "returns")]
    types = {inner for annotation in annotations if annotation is not None for inner in ast.walk(annotation)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node not in types:
            library = node.value.id
            function = getattr(LIBRARIES.get(library), node.attr, None)
            if any(function is call for call in SEAM) or (library == "_libc" and node.attr in syscalls.__all__):
                yield f"{library}.{node.attr}"


@for_each("path", LEASE_PRODUCT)
def test_lease_product_makes_its_system_calls_through_the_seam(path: Path) -> None:
    found = list(calls_past_the_seam(tree_of(path)))
    assert not found, f"call them as `syscalls.X`, of shmlease.system, where the simulation replaces them: {found}"


def test_a_call_past_the_seam_would_be_found() -> None:
    types = "def f(x: select.epoll) -> select.poll: ...\n"
    text = types + "os.open; os.path; fcntl.flock; fcntl.LOCK_EX; select.epoll; _libc.mmap; _libc.statfs; syscalls.open"
    assert list(calls_past_the_seam(ast.parse(text))) == ["os.open", "fcntl.flock", "select.epoll", "_libc.mmap"]


@for_each("path", MODULES)
def test_module_opens_with_one_sentence_that_says_what_it_is_for(path: Path) -> None:
    if path.name == "__init__.py" and not path.read_text().strip():
        return
    docstring = ast.get_docstring(tree_of(path))
    assert docstring, "no docstring"
    opening = docstring.split("\n\n")[0]
    assert opening.endswith((".", ":")), opening


LONG_LINES = 350
# Modules that are yet to be split.
STILL_LONG = {
    "hdf5/sink.py",
    "testing/stateful.py",
}


def is_short_or_says_why(text: str) -> bool:
    """A docstring that says why its module is "longer than other modules" is a reason."""
    return text.count("\n") <= LONG_LINES or "longer than other modules" in (ast.get_docstring(ast.parse(text)) or "")


@for_each("path", MODULES)
def test_module_has_one_subject_or_says_why_it_is_long(path: Path) -> None:
    is_known = str(path.relative_to(PACKAGE)) in STILL_LONG
    assert is_short_or_says_why(path.read_text()) or is_known, f"{LONG_LINES} lines: which part owns fields of its own?"


def test_a_long_module_without_a_reason_would_be_found() -> None:
    long = "x = 1\n" * (LONG_LINES + 1)
    assert not is_short_or_says_why(long)
    assert is_short_or_says_why('"""A list, longer than other modules: it is one."""\n' + long)


def import_graph() -> dict[str, set[str]]:
    """Each module of shmlease, and those that it imports, wherever in it, but not for type checkers only.

    A package stands for its ``__init__``.
    """
    graph = {name_of(path): set[str]() for path in MODULES}
    for path in MODULES:
        own = name_of(path)
        for node in outside_type_checking(tree_of(path)):
            if isinstance(node, ast.Import):
                graph[own].update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                # either a module of that package, or what its __init__ names
                inner = (f"{node.module}.{alias.name}" for alias in node.names)
                graph[own].update(name if name in graph else node.module for name in inner)
    return {own: (imported & graph.keys()) - {own} for own, imported in graph.items()}


def outside_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of `tree`, but for what only type checkers read."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            pending += node.orelse
        else:
            pending += ast.iter_child_nodes(node)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules of which each imports every other, perhaps through others (Tarjan's components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        path.append(module)
        for imported in sorted(graph[module]):
            if imported not in order:
                visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in path:
                lowest[module] = min(lowest[module], order[imported])
        if lowest[module] == order[module]:
            group = path[path.index(module) :]
            del path[path.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return found


def test_no_modules_import_each_other() -> None:
    assert cycles(import_graph()) == []


def test_a_cycle_of_imports_would_be_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `statement`."""
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return set(done.stdout.split())


def test_importing_shmlease_loads_no_library() -> None:
    loaded = loaded_by("import shmlease")
    assert not {"h5py", "pytest", "numpy", "psutil", "click", "rich", "msgspec", "jinja2"} & loaded


def test_using_shmlease_loads_neither_h5py_nor_pytest_nor_multiprocessing() -> None:
    loaded = loaded_by("import shmlease; shmlease.connect; shmlease.Registry; shmlease.Lease")
    assert "numpy" in loaded
    assert not {"h5py", "pytest", "psutil", "click", "rich", "jinja2", "multiprocessing.resource_tracker"} & loaded


def test_registry_process_loads_nothing_that_takes_long_and_is_not_needed() -> None:
    """Each program that starts a registry, and each takeover, waits for it."""
    loaded = loaded_by("sys.modules['typing_extensions'] = None; import shmlease.registry.process")
    assert not {"inspect", "dataclasses", "subprocess", "shutil", "secrets", "_hashlib", "numpy"} & loaded


def test_every_public_name_is_there_and_documented() -> None:
    for name in shmlease.__all__:
        value = getattr(shmlease, name)
        assert value is not None
        if name != "__version__":
            assert value.__doc__, f"{name} has no docstring"
    assert set(shmlease.__all__) <= set(dir(shmlease))


def test_name_that_shmlease_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = shmlease.nonsense
