"""Compiles src/leasehold/tabular/lines.c when leasehold is built or installed, if there is a C compiler; if not, numpy parses.

The library uses neither Python nor libc, so it is one for all versions of both: a wheel with it is tagged ``py3-none-`` and
the oldest Linux that pip knows. ``LEASEHOLD_NO_NATIVE=1`` makes a wheel of Python only. ``python hatch_build.py`` compiles
for a source tree that is used where it lies.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by itself
    BuildHookInterface = object

SOURCE = Path(__file__).parent / "src/leasehold/tabular/lines.c"
LIBRARY = SOURCE.with_name("_lines.so")
FLAGS = (
    "-std=c11 -O3 -Wall -Wextra -shared -fPIC -ffreestanding -nostdlib -fno-tree-loop-distribute-patterns "
    "-fno-stack-protector -ffp-contract=off -fvisibility=default -s"
)


def compile_lines() -> bool:
    """Make the library anew; whether that succeeded. One that cannot be made is not left from before, either."""
    LIBRARY.unlink(missing_ok=True)
    if os.environ.get("LEASEHOLD_NO_NATIVE") or not sys.platform.startswith("linux") or sys.byteorder != "little":
        return False
    made = LIBRARY.with_suffix(f".{os.getpid()}")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    mark = f"-DSOURCE_CRC32={zlib.crc32(SOURCE.read_bytes())}u"
    try:
        subprocess.run([*compiler, *FLAGS.split(), mark, str(SOURCE), "-o", str(made)], check=True)
        made.rename(LIBRARY)
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"leasehold: lines.c was not compiled ({error}); numpy parses instead, at a quarter of the speed",
            file=sys.stderr,
        )
        made.unlink(missing_ok=True)
        return False
    return True


class NativeHook(BuildHookInterface):
    """Called by hatchling for wheels and editable installs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        if self.target_name == "wheel" and compile_lines():
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-manylinux2014_{platform.machine()}"
            build_data["artifacts"].append(f"/{LIBRARY.relative_to(Path(self.root))}")


if __name__ == "__main__":
    sys.exit(0 if compile_lines() else 1)
