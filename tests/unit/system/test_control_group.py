"""What a process may still take of its control groups' memory, in both versions of the hierarchy."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmlease.errors import CapacityError
from shmlease.system import control_group
from shmlease.system.control_group import MemoryRoom, free_memory_bytes, memory_room, require_memory

MIB = 1 << 20


class Machine:
    """A /proc and a /sys/fs/cgroup."""

    def __init__(self, path: Path, membership: str, *, free_swap_kib: int = 0, available_kib: int = 0) -> None:
        self.proc, self.root = path / "proc", path / "cgroup"
        self.write(self.proc / "self/cgroup", membership)
        self.write(
            self.proc / "meminfo", f"MemFree: 5 kB\nMemAvailable: {available_kib} kB\nSwapFree: {free_swap_kib} kB\n"
        )

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def group_1(self, name: str, limit: int, usage: int, cache: int = 0) -> None:
        self.write(self.root / f"memory{name}/memory.limit_in_bytes", f"{limit}\n")
        self.write(self.root / f"memory{name}/memory.usage_in_bytes", f"{usage}\n")
        self.write(
            self.root / f"memory{name}/memory.stat", f"active_file 7\ntotal_active_file {cache}\ntotal_inactive_file 0\n"
        )

    def group_2(self, name: str, limit: str, usage: int, cache: int = 0) -> None:
        self.write(self.root / "cgroup.controllers", "memory pids\n")
        self.write(self.root / f"{name[1:]}/memory.max", f"{limit}\n")
        self.write(self.root / f"{name[1:]}/memory.current", f"{usage}\n")
        self.write(self.root / f"{name[1:]}/memory.stat", f"anon 5\ninactive_file {cache}\nactive_file 0\n")

    def room(self) -> MemoryRoom | None:
        return memory_room(str(self.proc), str(self.root))


def test_group_of_version_1_has_what_its_limit_leaves(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "9:pids:/job\n8:memory:/job\n0::/job\n")
    machine.group_1("/job", 100 * MIB, 80 * MIB, cache=10 * MIB)
    room = machine.room()
    assert room is not None
    assert (room.free_bytes, room.limit_bytes, room.group) == (30 * MIB, 100 * MIB, "/job")
    assert room.source == f"{machine.root}/memory/job/memory.limit_in_bytes"


def test_group_of_version_2_is_bounded_by_those_above_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/user/job/step\n")
    machine.group_2("/user", str(50 * MIB), 45 * MIB)
    machine.group_2("/user/job", str(100 * MIB), 45 * MIB)
    machine.group_2("/user/job/step", "max", 1 * MIB)
    room = machine.room()
    assert room is not None
    assert (room.free_bytes, room.group) == (5 * MIB, "/user")


def test_container_sees_its_own_group_where_the_hierarchy_is_mounted(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "8:memory:/docker/0123\n")
    machine.group_1("", 64 * MIB, 60 * MIB)
    room = machine.room()
    assert room is not None
    assert (room.free_bytes, room.group) == (4 * MIB, "/")


@pytest.mark.parametrize(("available_kib", "limit", "free"), [(20 << 10, "max", 20), (20 << 10, 15, 5), (3 << 10, 15, 3)])
def test_free_memory_is_what_both_the_system_and_the_group_have(
    tmp_path: Path, available_kib: int, limit: int | str, free: int
) -> None:
    machine = Machine(tmp_path, "0::/job\n", available_kib=available_kib)
    machine.group_2("/job", str(limit * MIB) if isinstance(limit, int) else limit, 10 * MIB)
    assert free_memory_bytes(str(machine.proc), str(machine.root)) == free * MIB


def test_swap_is_room_as_well(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/job\n", free_swap_kib=1024)
    machine.group_2("/job", str(10 * MIB), 10 * MIB)
    room = machine.room()
    assert room is not None
    assert room.free_bytes == MIB


@pytest.mark.parametrize("limit", ["max", "garbage"])
def test_group_without_a_limit_bounds_nothing(tmp_path: Path, limit: str) -> None:
    machine = Machine(tmp_path, "0::/job\n")
    machine.group_2("/job", limit, 10 * MIB)
    assert machine.room() is None


def test_limit_that_nobody_has_set_in_version_1_is_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "8:memory:/job\n")
    machine.group_1("/job", 9223372036854771712, 10 * MIB)
    assert machine.room() is None


def test_system_without_control_groups_bounds_nothing(tmp_path: Path) -> None:
    assert memory_room(str(tmp_path / "none"), str(tmp_path / "none")) is None


def test_refusal_says_which_group_has_how_much_left(monkeypatch: pytest.MonkeyPatch) -> None:
    room = MemoryRoom(5 * MIB, 64 * MIB, "/job", "/sys/fs/cgroup/memory/job/memory.limit_in_bytes")
    monkeypatch.setattr(control_group, "memory_room", lambda: room)
    require_memory(5 * MIB, "a segment")
    with pytest.raises(
        CapacityError, match="a segment does not fit into the memory of this process's control group /job: 5 MiB"
    ) as e:
        require_memory(5 * MIB + 1, "a segment")
    assert (e.value.group_free_bytes, e.value.group_limit_bytes) == (5 * MIB, 64 * MIB)
