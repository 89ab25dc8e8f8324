"""A directory laid out as /proc, made of real texts, of which a test makes the processes."""

from __future__ import annotations

from pathlib import Path

from shmlease.auditor.observe.procfs import device_number

PROC = Path(__file__).parent / "proc"


class FakeProc:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.add(1, namespace=1)
        (path / "self").symlink_to("1")

    def add(
        self, pid: int, *, state: str = "S", threads: int = 1, flags: int = 0, namespace: int = 1, command: str = "job"
    ) -> Path:
        base = self.path / str(pid)
        for name in ("fd", "ns", "task", "map_files"):
            (base / name).mkdir(parents=True)
        self.write_stat(base, pid, state, threads, flags)
        (base / "cmdline").write_bytes(command.replace(" ", "\0").encode() + b"\0")
        (base / "maps").write_bytes(b"")
        (base / "smaps").write_bytes(b"")
        (base / "ns" / "mnt").symlink_to(f"mnt:[{namespace}]")
        (base / "task" / str(pid)).mkdir()
        return base

    @staticmethod
    def write_stat(base: Path, pid: int, state: str, threads: int, flags: int) -> None:
        """The saved stat, with those fields changed."""
        fields = (PROC / "stat").read_text().rpartition(") ")[2].split()
        fields[0], fields[6], fields[17] = state, str(flags), str(threads)
        (base / "stat").write_text(f"{pid} (job (1)) {' '.join(fields)}\n")


def map_line(path: str, device: int, inode: int, start: int = 0x7F0000000000, size: int = 4096) -> str:
    return f"{start:x}-{start + size:x} rw-s 00000000 {device_number(device)} {inode}                    {path}\n"
