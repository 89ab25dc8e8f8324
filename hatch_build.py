"""Compiles the C files of shmlease when it is built or installed, if there is a C compiler; if not, Python does their work.

The libraries use no Python, and nothing of libc that only some have, so they are the same for all versions of both: a wheel
with them is tagged ``py3-none-`` and, with glibc, the oldest Linux that pip knows. ``SHMLEASE_NO_NATIVE=1`` makes a wheel
of Python only.
``python hatch_build.py`` compiles for a source tree that is used where it lies.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
import zlib
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by itself
    BuildHookInterface = object

PACKAGE = Path(__file__).parent / "src/shmlease"
SOURCES = tuple(
    PACKAGE / source for source in ("text/lines.c", "hdf5/shuffle.c", "client/streaming.c", "auditor/observe/lease_probe.c")
)
FLAGS = "-std=c11 -O3 -Wall -Wextra -shared -fPIC -ffreestanding -nostdlib -fno-stack-protector -ffp-contract=off -s"
# Makes no calls of memset and memcpy out of loops. gcc needs it; clang makes none in freestanding code, and some refuse it.
GCC_FLAG = "-fno-tree-loop-distribute-patterns"


def library_of(source: Path) -> Path:
    """Where shmlease.compiled looks for it."""
    return source.with_name(f"_{source.stem}.so")


def compile_all() -> bool:
    """Make the libraries anew; whether that succeeded. What is left from before of another source is not loaded."""
    suits = sys.platform.startswith("linux") and sys.byteorder == "little" and sys.maxsize > 2**32
    if os.environ.get("SHMLEASE_NO_NATIVE") or not suits:
        return False
    made = [compile_one(source) for source in SOURCES]
    return all(made)


def compile_one(source: Path) -> bool:
    """Make one library, in one step, so that whoever loads it meanwhile has the old or the new one."""
    made = source.with_suffix(f".{os.getpid()}.so")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    mark = f"-DSOURCE_CRC32={zlib.crc32(source.read_bytes())}u"
    try:
        flags = [*FLAGS.split(), *([GCC_FLAG] if is_taken(compiler, GCC_FLAG) else [])]
        subprocess.run([*compiler, *flags, mark, str(source), "-o", str(made)], check=True)
        made.rename(library_of(source))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"shmlease: {source.name} was not compiled ({error}); Python does its work, slower", file=sys.stderr)
        made.unlink(missing_ok=True)
        return False
    return True


def is_taken(compiler: list[str], flag: str) -> bool:
    """Whether a compiler knows a flag."""
    command = [*compiler, flag, "-x", "c", "-c", os.devnull, "-o", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def platform_tag() -> str:
    """Where a wheel with the libraries can be installed: here, and on whatever else pip calls by the same name."""
    tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    if platform.libc_ver()[0] == "glibc" and tag in ("linux_x86_64", "linux_aarch64"):
        return tag.replace("linux", "manylinux2014")
    return tag


class NativeHook(BuildHookInterface):
    """Called by hatchling for wheels and editable installs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        if self.target_name == "wheel" and compile_all():
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_tag()}"
            build_data["artifacts"] += [f"/{library_of(source).relative_to(self.root)}" for source in SOURCES]


if __name__ == "__main__":
    sys.exit(0 if compile_all() else 1)
