"""The simulated system calls do what those of Linux do, as far as the lease product relies on it: each test is of both."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from seams_under_test import System, real_system, simulated_system

from rig.until import until
from shmlease.system import syscalls
from shmlease.system.identity import identify, is_dead, own_identity, peer_of, pidfd_of_peer, watch

PAGE = 4096
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
SEQPACKET = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
TIMEVAL = struct.Struct("@ll")


class SyscallsConformance:
    """What `shmlease.system.syscalls` must do; a subclass has a fixture `system`."""

    @pytest.fixture
    def directory(self, system: System) -> Iterator[int]:
        descriptor = syscalls.open(system.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        yield descriptor
        syscalls.close(descriptor)

    @pytest.fixture
    def listener(self, system: System) -> Iterator[Any]:
        listener = syscalls.server_socket(socket.AF_UNIX, SEQPACKET | socket.SOCK_NONBLOCK)
        listener.bind(f"{system.root}/socket")
        listener.listen(8)
        yield listener
        listener.close()

    @pytest.fixture
    def ends(self, system: System, listener: Any) -> Iterator[tuple[Any, Any]]:
        """A client's end, which waits for a second, and the registry's, which does not wait."""
        client = syscalls.socket(socket.AF_UNIX, SEQPACKET)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            client.setsockopt(socket.SOL_SOCKET, option, TIMEVAL.pack(1, 0))
        client.connect(f"{system.root}/socket")
        served, _ = listener.accept()
        served.setblocking(False)
        yield client, served
        client.close()
        served.close()

    # --- files --------------------------------------------------------------------------------------------------------

    def test_file_is_made_once_and_found_by_its_name_in_an_open_directory(self, directory: int) -> None:
        syscalls.close(syscalls.open("file", NEW, 0o600, dir_fd=directory))
        with pytest.raises(FileExistsError):
            syscalls.open("file", NEW, 0o600, dir_fd=directory)
        with pytest.raises(FileNotFoundError):
            syscalls.open("other", os.O_RDONLY, dir_fd=directory)
        assert stat.S_IMODE(syscalls.stat("file", dir_fd=directory).st_mode) == 0o600

    def test_what_is_written_is_read_at_its_place(self, directory: int) -> None:
        file = syscalls.open("file", NEW, 0o600, dir_fd=directory)
        assert syscalls.pwrite(file, b"written", 3) == 7
        assert syscalls.pread(file, 100, 0) == b"\0\0\0written"
        assert syscalls.read(file, 5) == b"\0\0\0wr"
        assert syscalls.fstat(file).st_size == 10
        syscalls.close(file)

    def test_offset_of_a_file_is_where_it_was_put_and_a_socket_has_none(self, directory: int, listener: Any) -> None:
        file = syscalls.open("file", NEW, 0o600, dir_fd=directory)
        assert syscalls.lseek(file, 1 << 40, os.SEEK_SET) == 1 << 40
        assert syscalls.lseek(file, 0, os.SEEK_CUR) == 1 << 40
        with pytest.raises(OSError, match=rf"Errno {errno.ESPIPE}\b"):
            syscalls.lseek(listener.fileno(), 0, os.SEEK_CUR)
        syscalls.close(file)

    def test_closed_descriptor_is_of_nothing(self, directory: int) -> None:
        file = syscalls.open("file", NEW, 0o600, dir_fd=directory)
        syscalls.close(file)
        with pytest.raises(OSError, match=r"Errno 9\b"):
            syscalls.close(file)
        with pytest.raises(OSError, match=r"Errno 9\b"):
            syscalls.fstat(file)

    def test_unlinked_file_lives_as_long_as_it_is_open(self, directory: int) -> None:
        file = syscalls.open("file", NEW, 0o600, dir_fd=directory)
        syscalls.unlink("file", dir_fd=directory)
        assert syscalls.fstat(file).st_nlink == 0
        assert syscalls.pwrite(file, b"x", 0) == 1
        with pytest.raises(FileNotFoundError):
            syscalls.unlink("file", dir_fd=directory)
        syscalls.close(file)

    def test_rename_takes_the_place_of_what_is_there_and_only_one_can_do_it(self, directory: int) -> None:
        for name in ("old", "new"):
            syscalls.mknod(name, 0o600, dir_fd=directory)
        inode = syscalls.stat("new", dir_fd=directory).st_ino
        syscalls.rename("new", "old", src_dir_fd=directory, dst_dir_fd=directory)
        assert syscalls.stat("old", dir_fd=directory).st_ino == inode
        with pytest.raises(FileNotFoundError):
            syscalls.rename("new", "other", src_dir_fd=directory, dst_dir_fd=directory)

    def test_link_is_of_the_same_file_and_replaces_none(self, system: System, directory: int) -> None:
        syscalls.mknod("file", 0o600, dir_fd=directory)
        syscalls.link("file", f"{system.root}/name", src_dir_fd=directory, follow_symlinks=False)
        assert syscalls.stat(f"{system.root}/name").st_ino == syscalls.stat("file", dir_fd=directory).st_ino
        with pytest.raises(FileExistsError):
            syscalls.link("file", f"{system.root}/name", src_dir_fd=directory, follow_symlinks=False)

    def test_directory_is_made_listed_and_removed_when_it_is_empty(self, system: System) -> None:
        path = f"{system.root}/below"
        syscalls.mkdir(path, 0o700)
        with pytest.raises(FileExistsError):
            syscalls.mkdir(path, 0o700)
        syscalls.mknod(f"{path}/file", 0o600)
        assert syscalls.listdir(path) == ["file"]
        with pytest.raises(OSError, match="not empty"):
            syscalls.rmdir(path)
        syscalls.unlink(f"{path}/file")
        syscalls.rmdir(path)
        with pytest.raises(FileNotFoundError):
            syscalls.listdir(path)

    def test_pages_come_with_fallocate_and_go_with_a_hole(self, directory: int) -> None:
        file = syscalls.open("s1", NEW, 0o600, dir_fd=directory)
        syscalls.ftruncate(file, 4 * PAGE)
        assert syscalls.fstat(file).st_blocks == 0
        syscalls.posix_fallocate(file, 0, 4 * PAGE)
        assert syscalls.fstat(file).st_blocks * 512 == 4 * PAGE
        syscalls.pwrite(file, b"written", 0)
        assert syscalls.fallocate(file, 3, 0, 4 * PAGE) == 0  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
        assert (syscalls.fstat(file).st_blocks, syscalls.fstat(file).st_size) == (0, 4 * PAGE)
        assert syscalls.pread(file, 7, 0) == bytes(7)
        syscalls.close(file)

    def test_file_system_tells_its_room(self, system: System) -> None:
        status = syscalls.statvfs(system.root)
        assert 0 < status.f_bavail <= status.f_blocks
        assert status.f_frsize == PAGE

    def test_stores_go_into_the_memory(self, system: System) -> None:
        memory = bytearray(8)
        syscalls.stores_in(memoryview(memory))(slice(2, 5), b"abc")
        assert memory == b"\0\0abc\0\0\0"

    # --- locks --------------------------------------------------------------------------------------------------------

    def test_lock_is_of_one_open_file_until_it_is_closed(self, directory: int) -> None:
        syscalls.mknod("lock", 0o600, dir_fd=directory)
        first, second = (syscalls.open("lock", os.O_RDWR, dir_fd=directory) for _ in range(2))
        syscalls.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for operation in (fcntl.LOCK_EX, fcntl.LOCK_SH):
            with pytest.raises(BlockingIOError):
                syscalls.flock(second, operation | fcntl.LOCK_NB)
        syscalls.close(first)
        syscalls.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        syscalls.close(second)

    def test_lock_on_a_byte_leaves_other_bytes_free(self, directory: int) -> None:
        syscalls.mknod("s1", 0o600, dir_fd=directory)
        first, second = (syscalls.open("s1", os.O_RDWR, dir_fd=directory) for _ in range(2))

        def lock(file: int, byte: int) -> None:
            syscalls.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("@hhqqi", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))

        lock(first, 5)
        lock(first, 5)
        with pytest.raises((BlockingIOError, PermissionError)):
            lock(second, 5)
        lock(second, 6)
        syscalls.close(first)
        lock(second, 5)
        syscalls.close(second)

    # --- sockets ------------------------------------------------------------------------------------------------------

    def test_packets_keep_their_bounds_and_their_order(self, ends: tuple[Any, Any]) -> None:
        client, served = ends
        for packet in (b"one", b"two", b"three"):
            assert client.send(packet) == len(packet)
        assert [served.recv(100) for _ in range(3)] == [b"one", b"two", b"three"]
        served.send(b"answer")
        assert client.recv(100) == b"answer"

    def test_packet_longer_than_is_read_is_cut(self, ends: tuple[Any, Any]) -> None:
        client, served = ends
        client.send(b"a long packet")
        client.send(b"another")
        assert served.recv(6) == b"a long"
        assert served.recv(100) == b"another"

    def test_end_that_does_not_wait_says_that_nothing_is_there(self, ends: tuple[Any, Any], listener: Any) -> None:
        client, served = ends
        with pytest.raises(BlockingIOError):
            served.recv(100)
        with pytest.raises(BlockingIOError):
            client.recv(100, socket.MSG_DONTWAIT)
        with pytest.raises(BlockingIOError):
            listener.accept()

    def test_end_that_waits_gives_up_after_its_timeout(self, ends: tuple[Any, Any]) -> None:
        client, _ = ends
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, TIMEVAL.pack(0, 20_000))
        with pytest.raises(BlockingIOError):
            client.recv(100)

    def test_full_queue_takes_no_more_until_it_is_read(self, ends: tuple[Any, Any]) -> None:
        client, served = ends
        sent = 0
        with pytest.raises(BlockingIOError):  # noqa: PT012
            while sent < 100_000:
                served.send(b"x" * 100)
                sent += 1
        for _ in range(sent):
            client.recv(100)
        served.send(b"again")
        assert client.recv(100) == b"again"

    def test_what_was_sent_before_a_hang_up_is_read_and_then_the_end(self, ends: tuple[Any, Any]) -> None:
        client, served = ends
        client.send(b"last words")
        client.close()
        assert served.recv(100) == b"last words"
        assert [served.recv(100) for _ in range(2)] == [b"", b""]
        with pytest.raises(BrokenPipeError):
            served.send(b"answer")

    def test_hang_up_with_packets_unread_resets_the_other_end(self, ends: tuple[Any, Any]) -> None:
        client, served = ends
        client.send(b"unread")
        served.send(b"sent before")
        served.close()
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        assert client.recv(100) == b"sent before"
        assert client.recv(100) == b""

    def test_nobody_listens(self, system: System, listener: Any) -> None:
        client = syscalls.socket(socket.AF_UNIX, SEQPACKET)
        with pytest.raises(FileNotFoundError):
            client.connect(f"{system.root}/none")
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            client.connect(f"{system.root}/socket")
        client.close()

    def test_connection_that_was_not_accepted_is_reset_when_the_listener_goes(self, system: System, listener: Any) -> None:
        client = syscalls.socket(socket.AF_UNIX, SEQPACKET)
        client.connect(f"{system.root}/socket")
        client.send(b"unread")
        listener.close()
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        client.close()

    def test_address_in_use_is_not_bound_again(self, system: System, listener: Any) -> None:
        other = syscalls.server_socket(socket.AF_UNIX, SEQPACKET)
        with pytest.raises(OSError, match=r"Errno 98\b"):
            other.bind(f"{system.root}/socket")
        other.close()

    def test_closed_socket_has_no_descriptor(self, ends: tuple[Any, Any]) -> None:
        client, _ = ends
        descriptor = client.fileno()
        assert stat.S_ISSOCK(syscalls.fstat(descriptor).st_mode)
        client.close()
        assert client.fileno() == -1
        with pytest.raises(OSError, match=r"Errno 9\b"):
            syscalls.fstat(descriptor)
        with pytest.raises(OSError, match=r"Errno 9\b"):
            client.send(b"x")

    def test_peer_is_known_by_pid_user_and_death(self, ends: tuple[Any, Any]) -> None:
        client, served = ends
        me = own_identity()
        assert peer_of(served) == peer_of(client) == (me.pid, os.geteuid())
        pidfd = pidfd_of_peer(served, me.pid)
        death = syscalls.poll()
        death.register(pidfd, select.POLLIN)
        assert death.poll(0) == []
        syscalls.close(pidfd)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def test_epoll_tells_of_newcomers_packets_and_hang_ups(self, system: System, listener: Any) -> None:
        epoll = syscalls.epoll()
        epoll.register(listener.fileno(), select.EPOLLIN)
        assert epoll.poll(0) == []
        client = syscalls.socket(socket.AF_UNIX, SEQPACKET)
        client.connect(f"{system.root}/socket")
        assert epoll.poll(0) == [(listener.fileno(), select.EPOLLIN)]
        served, _ = listener.accept()
        assert epoll.poll(0) == []
        epoll.register(served.fileno(), select.EPOLLIN)
        assert epoll.poll(0) == []
        client.send(b"packet")
        assert epoll.poll(1) == epoll.poll(1) == [(served.fileno(), select.EPOLLIN)], "until it is read"
        served.recv(100)
        assert epoll.poll(0) == []
        client.close()
        [(descriptor, events)] = epoll.poll(1)
        assert descriptor == served.fileno()
        assert events & select.EPOLLIN
        epoll.unregister(served.fileno())
        assert epoll.poll(0) == []
        served.close()
        epoll.close()

    def test_epoll_tells_of_room_to_send_only_when_asked(self, ends: tuple[Any, Any]) -> None:
        client, served = ends
        epoll = syscalls.epoll()
        epoll.register(served.fileno(), select.EPOLLIN)
        assert epoll.poll(0) == []
        epoll.modify(served.fileno(), select.EPOLLIN | select.EPOLLOUT)
        assert epoll.poll(0) == [(served.fileno(), select.EPOLLOUT)]
        with pytest.raises(BlockingIOError):  # noqa: PT012
            while True:
                served.send(b"x" * 100)
        assert epoll.poll(0) == []
        while True:
            try:
                client.recv(100, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
        assert epoll.poll(0) == [(served.fileno(), select.EPOLLOUT)]
        epoll.close()

    def test_what_is_registered_twice_or_not_at_all_is_an_error(self, listener: Any) -> None:
        epoll = syscalls.epoll()
        epoll.register(listener.fileno(), select.EPOLLIN)
        with pytest.raises(FileExistsError):
            epoll.register(listener.fileno(), select.EPOLLIN)
        epoll.unregister(listener.fileno())
        with pytest.raises(FileNotFoundError):
            epoll.unregister(listener.fileno())
        with pytest.raises(FileNotFoundError):
            epoll.modify(listener.fileno(), select.EPOLLIN)
        epoll.close()

    def test_closed_descriptor_is_not_waited_for_any_more(self, ends: tuple[Any, Any]) -> None:
        client, served = ends
        epoll = syscalls.epoll()
        epoll.register(served.fileno(), select.EPOLLIN)
        client.send(b"packet")
        served.close()
        assert epoll.poll(0) == []
        epoll.close()

    def test_pipe_that_nobody_writes_to_is_never_ready(self, system: System) -> None:
        ends = syscalls.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        epoll = syscalls.epoll()
        epoll.register(ends[0], select.EPOLLIN)
        assert epoll.poll(0) == []
        epoll.close()
        for end in ends:
            syscalls.close(end)

    # --- processes ----------------------------------------------------------------------------------------------------

    def test_process_is_told_from_others_by_pid_and_start(self, system: System) -> None:
        me, pid = own_identity(), system.start_process()
        assert me.pid == syscalls.getpid()
        assert identify(me.pid).is_surely(me)
        other = identify(pid)
        assert (other.pid, other.uid, other.boot_id) == (pid, os.geteuid(), me.boot_id)
        assert not other.may_be(me)
        assert not is_dead(other)
        assert until(lambda: identify(pid).command), "empty while it becomes another program"

    def test_death_makes_a_pidfd_ready_and_the_process_unknown(self, system: System) -> None:
        pid = system.start_process()
        identity = identify(pid)
        pidfd, watched = syscalls.pidfd_open(pid), watch(identity)
        assert watched is not None
        epoll = syscalls.epoll()
        epoll.register(pidfd, select.EPOLLIN)
        epoll.register(watched, select.EPOLLIN)
        assert epoll.poll(0) == []
        system.kill(pid)
        ready: set[int] = set()
        while len(ready) < 2:  # not always all at once
            ready |= {descriptor for descriptor, events in epoll.poll(10) if events & select.EPOLLIN}
        assert ready == {pidfd, watched}
        assert is_dead(identity)
        assert watch(identity) is None
        with pytest.raises(ProcessLookupError):
            identify(pid)
        with pytest.raises(ProcessLookupError):
            syscalls.pidfd_open(pid)
        epoll.close()
        for descriptor in (pidfd, watched):
            syscalls.close(descriptor)


class TestRealSystemCalls(SyscallsConformance):
    @pytest.fixture
    def system(self) -> Iterator[System]:
        with real_system() as system:
            yield system


class TestSimulatedSystemCalls(SyscallsConformance):
    @pytest.fixture
    def system(self) -> Iterator[System]:
        with simulated_system() as system:
            yield system
