"""The file under HDF5's hands: a Python file object that HDF5 writes through, and that nothing can tear.

Rules:

- The eight bytes by which every reader knows an HDF5 file are withheld until `seal`. An unfinished file does not open,
  whatever name it is given.
- HDF5 never sees a failed write. It cannot unwind one: it raises again in close and crashes the interpreter at
  exit. The first failure is kept in `failure`, what follows goes to memory, HDF5 closes its file in peace, and the
  caller raises.
- The descriptor is closed on exec, and carries none of HDF5's own locks, which a forked child would keep.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from shmlease.errors import SinkError
from shmlease.hdf5.checksum import crc32

__all__ = ["SIGNATURE", "FileObject"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_WITHHELD = b"shmlease"  # stands in for the signature, and is as long
_PAGE = 4096
_WRITE_BACK_BYTES = 4 << 20

Buffer = bytes | bytearray | memoryview


class _Overlay:
    """Writes kept in memory, by page, over a file that stays as it is."""

    def __init__(self, read_below: Callable[[int, int], bytes]) -> None:
        self._read_below = read_below
        self.pages: dict[int, bytearray] = {}

    def _page(self, page: int) -> bytearray:
        return self.pages.get(page) or bytearray(self._read_below(_PAGE, page * _PAGE).ljust(_PAGE, b"\0"))

    def write(self, data: memoryview, offset: int) -> None:
        while data:
            page, within = divmod(offset, _PAGE)
            part = data[: _PAGE - within]
            content = self.pages[page] = self._page(page)
            content[within : within + len(part)] = part
            data, offset = data[len(part) :], offset + len(part)

    def read(self, size_bytes: int, offset: int) -> bytes:
        first, last = offset // _PAGE, (offset + size_bytes - 1) // _PAGE
        content = b"".join(self._page(page) for page in range(first, last + 1))
        return content[offset - first * _PAGE :][:size_bytes]


class FileObject:
    """A file for ``h5py.File(FileObject(fd), "w")``; it owns `fd`.

    Attributes
    ----------
    failure : BaseException or None
        What went wrong first; once set, nothing more reaches the disk.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0
        self._size_bytes = 0  # as HDF5 believes
        self._written_back = 0
        self._overlay: _Overlay | None = None
        self._awaited: tuple[int, int] | None = None
        self._present_at: int | None = None
        self._found_at: int | None = None
        self.failure: BaseException | None = None

    def await_payload(self, size_bytes: int, payload_crc32: int, present_at: int | None = None) -> None:
        """Watch for the next write of this size and CRC-32.

        With `present_at` the file holds those bytes already, at that offset: they are not written again, and HDF5
        putting them elsewhere is a failure.
        """
        self._awaited, self._present_at, self._found_at = (size_bytes, payload_crc32), present_at, None

    def payload_offset(self) -> int:
        """Where the payload awaited was written.

        Raises
        ------
        SinkError
            It was not.
        """
        self._awaited = None
        if self._found_at is None:
            raise SinkError("HDF5 did not write a chunk as it was given; this version of HDF5 is not supported")
        return self._found_at

    def hold(self) -> None:
        """Unseal the file, and keep what follows in memory until `apply`."""
        os.pwrite(self._fd, _WITHHELD, 0)
        self._overlay = _Overlay(self.read_disk)

    def apply(self) -> None:
        """Write what was held; from now on writes reach the disk."""
        held, self._overlay = self._overlay, None
        for page, content in sorted(held.pages.items() if held else ()):
            self._write_disk(memoryview(content), page * _PAGE)

    def fail(self, reason: BaseException) -> None:
        """Let nothing more reach the disk, because of `reason`."""
        if self.failure is None:
            self.failure = reason
            self._overlay = self._overlay or _Overlay(self.read_disk)

    def seal(self) -> None:
        """Make the file a whole HDF5 file, and durable."""
        os.ftruncate(self._fd, self._size_bytes)
        os.pwrite(self._fd, SIGNATURE, 0)
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the descriptor; should HDF5 go on writing, it writes to memory."""
        self.fail(ValueError("the file is closed"))
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # the file object that h5py's "fileobj" driver asks for

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (self._size_bytes if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size_bytes: int) -> bytes:
        offset = self._position
        self._position += size_bytes
        below = self._overlay.read if self._overlay is not None else self.read_disk
        content = below(size_bytes, offset).ljust(size_bytes, b"\0")
        return SIGNATURE[offset:] + content[len(SIGNATURE) - offset :] if offset < len(SIGNATURE) else content

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer).cast("B")
        target[:] = self.read(len(target))
        return len(target)

    def write(self, data: Buffer) -> int:
        view = memoryview(data).cast("B")
        offset = self._position
        self._position += len(view)
        self._size_bytes = max(self._size_bytes, self._position)
        if offset < len(SIGNATURE):
            view = memoryview(_WITHHELD[offset:] + view[len(SIGNATURE) - offset :])
        try:
            if not self._is_present(view, offset):
                self._write(view, offset)
        except BaseException as error:
            self.fail(error)
            self._write(view, offset)
        return len(view)

    def truncate(self, size_bytes: int) -> int:
        self._size_bytes = size_bytes  # on the disk in `seal`
        return size_bytes

    def flush(self) -> None:
        pass

    def _is_present(self, view: memoryview, offset: int) -> bool:
        if self._awaited is None or len(view) != self._awaited[0] or crc32(view) != self._awaited[1]:
            return False
        self._found_at = offset
        if self._present_at is None:
            return False
        if self._present_at != offset:
            raise SinkError(f"HDF5 put a chunk at {offset} that the interrupted run had at {self._present_at}")
        return True

    def _write(self, view: memoryview, offset: int) -> None:
        if self._overlay is not None:
            self._overlay.write(view, offset)
        else:
            self._write_disk(view, offset)

    def _write_disk(self, view: memoryview, offset: int) -> None:
        while view:
            written = os.pwrite(self._fd, view, offset)  # a write is cut at 2 GiB, and by a signal
            view, offset = view[written:], offset + written
        if offset - self._written_back >= _WRITE_BACK_BYTES:
            # Linux starts to write dirty pages to the disk when it is advised that they are not needed, and keeps them.
            # Done while chunks are still encoded, it took 15 % off a run with deflate and 30 % off one without: less is
            # left to fsync
            with contextlib.suppress(OSError):  # a hint; not every file system takes it
                os.posix_fadvise(self._fd, self._written_back, offset - self._written_back, os.POSIX_FADV_DONTNEED)
            self._written_back = offset

    def read_disk(self, size_bytes: int, offset: int) -> bytes:
        """What the disk holds there; fewer bytes where the file ends."""
        return os.pread(self._fd, size_bytes, offset) if self._fd >= 0 else b""
