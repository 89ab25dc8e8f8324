"""The processes of the selftest: each run of this file does one thing to shared memory, says so, and stays or goes.

Run as a script, with nothing but the standard library, so that it starts in some milliseconds:
``python acts.py ACT [ARGUMENT...]``. It writes ``ready`` and what it has to tell, or ``cannot`` and why, in one line; an
act that stays ends when its stdin is closed, so that none outlives the selftest.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import platform
import socket
import subprocess
import sys
import threading
from typing import Final, NoReturn

_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
_libc.shmat.restype = ctypes.c_void_p
_libc.shmdt.argtypes = [ctypes.c_void_p]
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mmap.restype = ctypes.c_void_p
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]

_FAILED: Final = ctypes.c_void_p(-1).value  # what mmap and shmat return on failure
SIZE_BYTES: Final = 64 * 1024
# the kernel adds up the charges of its processors when 64 pages a processor have come together, or after two seconds
_CHARGED_BYTES: Final = 128 * 4096 * (os.cpu_count() or 1)
_CLONE_FILES: Final = 0x00000400
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_MS_REC_PRIVATE: Final = 0x4000 | 0x40000
_PR_SET_DUMPABLE: Final = 4
_IORING_REGISTER_FILES: Final = 2
_IO_URING_PARAMS_BYTES: Final = 120
# the same on all architectures that got it after Linux 5.0
_SYS_IO_URING_SETUP: Final = 425
_SYS_IO_URING_REGISTER: Final = 427
_SYS_EXIT: Final = {"x86_64": 60}.get(platform.machine(), 93)
_IPC_CREAT: Final = 0o1000
_IPC_RMID: Final = 0

_kept: list[object] = []  # what is to live as long as the process


class CannotError(Exception):
    """The system does not permit the act."""


def make(path: str, size: str = "", written: str = "yes") -> None:
    """Make a file and leave it, its pages written or not."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    _fill(descriptor, int(size or SIZE_BYTES), is_written=written == "yes")
    os.close(descriptor)


def map_file(path: str) -> None:
    """Map a file that is there, and stay."""
    descriptor = os.open(path, os.O_RDWR)
    _map(descriptor)
    stay()


def open_file(path: str) -> None:
    """Open a file that is there, and stay."""
    os.open(path, os.O_RDONLY)
    stay()


def unlink_mapped(path: str) -> None:
    """Make a file, map it, unlink it, and stay."""
    _map(_made(path))
    os.unlink(path)
    stay()


def unlink_open(path: str) -> None:
    """Make a file, unlink it, and stay with its descriptor."""
    _made(path)
    os.unlink(path)
    stay()


def unlink_secretly(path: str) -> None:
    """As `unlink_mapped`, in a process that nobody but root may look into."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl PR_SET_DUMPABLE")
    unlink_mapped(path)


def unnamed(directory: str) -> None:
    """Map a file that never had a name (O_TMPFILE), and stay."""
    descriptor = os.open(directory, os.O_RDWR | os.O_TMPFILE, 0o600)
    _fill(descriptor, SIZE_BYTES)
    _map(descriptor)
    stay()


def anonymous() -> None:
    """Hold memory that is always "(deleted)": a memfd, a shared anonymous map, and multiprocessing's own things."""
    import multiprocessing  # noqa: PLC0415 - slow to import

    descriptor = os.memfd_create("shmlease-selftest")
    _fill(descriptor, SIZE_BYTES)
    _map(descriptor)
    shared = mmap.mmap(-1, SIZE_BYTES)
    shared[0] = 1
    _kept.append(shared)
    _kept.extend((multiprocessing.Lock(), multiprocessing.Array("d", 1000), multiprocessing.Queue()))
    stay()


def send(path: str, unlink: str) -> None:
    """Leave a file in a message that nobody takes, and stay."""
    descriptor = _made(path)
    ends = socket.socketpair()
    socket.send_fds(ends[0], [b"x"], [descriptor])
    os.close(descriptor)
    if unlink == "unlink":
        os.unlink(path)
    _kept.extend(ends)
    stay()


def register(path: str, unlink: str) -> None:
    """Leave a file registered in an io_uring, and stay."""
    parameters = ctypes.create_string_buffer(_IO_URING_PARAMS_BYTES)
    ring = _check(_libc.syscall(_SYS_IO_URING_SETUP, 4, parameters), "io_uring_setup")
    descriptor = _made(path)
    files = array.array("i", [descriptor])
    address = ctypes.c_void_p(files.buffer_info()[0])
    _check(_libc.syscall(_SYS_IO_URING_REGISTER, ring, _IORING_REGISTER_FILES, address, 1), "io_uring_register")
    os.close(descriptor)
    if unlink == "unlink":
        os.unlink(path)
    stay()


def open_in_thread(path: str, unlink: str) -> None:
    """Open a file in a thread whose descriptors are its own, and stay."""
    opened = threading.Event()
    failures: list[str] = []

    def work() -> None:
        if _libc.unshare(_CLONE_FILES) != 0:
            failures.append(f"unshare CLONE_FILES: {os.strerror(ctypes.get_errno())}")
        else:
            _made(path)
            if unlink == "unlink":
                os.unlink(path)
        opened.set()
        threading.Event().wait()

    threading.Thread(target=work, daemon=True).start()
    opened.wait()
    if failures:
        raise CannotError(failures[0])
    stay()


def outlive_leader(path: str) -> None:
    """Unlink a file and keep it mapped in a thread, while the process's first thread has ended."""

    def work() -> None:
        _map(_made(path))
        os.unlink(path)
        while "\nState:\tZ" not in _text(f"/proc/self/task/{os.getpid()}/status"):
            pass  # the leader is about to end
        os.write(1, b"ready\n")
        os.read(0, 1)
        os._exit(0)

    threading.Thread(target=work).start()
    _libc.syscall(_SYS_EXIT, 0)  # this thread alone


def make_sysv() -> None:
    """Make a System V segment, write to it, and leave it."""
    identifier, address = _sysv()
    _libc.shmdt(address)
    reply(f"ready {identifier}")
    os._exit(0)


def make_sysv_held() -> None:
    """Stay attached to a System V segment whose maker has ended."""
    made = subprocess.run([sys.executable, "-I", "-S", __file__, "make_sysv"], capture_output=True, check=True)
    identifier = int(made.stdout.split()[1])
    if _libc.shmat(identifier, None, 0) == _FAILED:
        raise CannotError(f"shmat: {os.strerror(ctypes.get_errno())}")
    stay(str(identifier))


def remove_sysv(identifier: str) -> None:
    """Remove a System V segment."""
    _libc.shmctl(int(identifier), _IPC_RMID, None)


def other_namespace(name: str, hold: str) -> None:
    """Make a file in the /dev/shm of a mount namespace of one's own, hold it or not, and stay."""
    _enter_namespace()
    _check(_libc.mount(b"none", b"/dev/shm", b"tmpfs", 0, b"size=1m"), "mount tmpfs")
    descriptor = _made(f"/dev/shm/{name}")
    if hold != "hold":
        os.close(descriptor)
    stay()


def huge_pages(directory: str, name: str, hold: str) -> None:
    """Make a file of huge pages in a mount namespace of one's own, hold it or not, and stay."""
    _enter_namespace()
    _check(_libc.mount(b"none", directory.encode(), b"hugetlbfs", 0, None), "mount hugetlbfs")
    descriptor = os.open(f"{directory}/{name}", os.O_RDWR | os.O_CREAT, 0o600)
    if hold != "hold":
        os.close(descriptor)
    stay()


def charge(cgroup: str, path: str, leave: str) -> None:
    """Make a file while in a control group; stay, or end and leave the charge behind."""
    try:
        with open(f"{cgroup}/cgroup.procs", "w", encoding="ascii") as procs:
            procs.write(str(os.getpid()))
    except OSError as error:
        raise CannotError(f"{cgroup}: {error.strerror}") from error
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    _fill(descriptor, _CHARGED_BYTES)
    if leave != "leave":
        stay()
    os.close(descriptor)


def stay(detail: str = "") -> NoReturn:
    """Say that it is done, and wait until stdin is closed."""
    reply(f"ready {detail}")
    os.read(0, 1)
    os._exit(0)


def reply(line: str) -> None:
    """Write one line to the selftest."""
    os.write(1, f"{line}\n".encode())


def _made(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    _fill(descriptor, SIZE_BYTES)
    return descriptor


def _fill(descriptor: int, size_bytes: int, *, is_written: bool = True) -> None:
    os.ftruncate(descriptor, size_bytes)
    if is_written and size_bytes:
        os.pwrite(descriptor, b"x" * size_bytes, 0)


def _map(descriptor: int) -> None:
    """Map the file for good, and close the descriptor; mmap.mmap would keep a copy of it."""
    size_bytes = os.fstat(descriptor).st_size
    address = _libc.mmap(None, size_bytes, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    os.close(descriptor)
    if address == _FAILED:
        raise CannotError(f"mmap: {os.strerror(ctypes.get_errno())}")


def _sysv() -> tuple[int, int]:
    identifier = _check(_libc.shmget(0, SIZE_BYTES, _IPC_CREAT | 0o600), "shmget")
    address = _libc.shmat(identifier, None, 0)
    if address == _FAILED:
        raise CannotError(f"shmat: {os.strerror(ctypes.get_errno())}")
    ctypes.memset(address, 1, SIZE_BYTES)
    return identifier, address


def _enter_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(_CLONE_NEWNS) != 0:
        _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare of user and mount namespaces")
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    _check(_libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None), "mount private")


def _check(result: int, what: str) -> int:
    if result < 0:
        raise CannotError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


ACTS: Final = {
    act.__name__: act
    for act in (
        make,
        map_file,
        open_file,
        unlink_mapped,
        unlink_open,
        unlink_secretly,
        unnamed,
        anonymous,
        send,
        register,
        open_in_thread,
        outlive_leader,
        make_sysv,
        make_sysv_held,
        remove_sysv,
        other_namespace,
        huge_pages,
        charge,
    )
}


if __name__ == "__main__":
    try:
        ACTS[sys.argv[1]](*sys.argv[2:])
    except (CannotError, OSError) as refusal:
        reply(f"cannot {refusal}")
    else:
        reply("ready")
