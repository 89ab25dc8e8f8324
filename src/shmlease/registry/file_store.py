"""The registry's store in /dev/shm: its directory, and a reader for each client's notice log."""

from __future__ import annotations

from shmlease.core.messages import Notice
from shmlease.core.uses import Use
from shmlease.errors import PermissionDeniedError
from shmlease.system.directory import RegistryDirectory
from shmlease.system.notice_log import NoticeLogReader

__all__ = ["FileStore"]


class FileStore(RegistryDirectory):
    """The files of one registry; for the holder of its lock."""

    def __init__(self, id: str, root: str) -> None:
        super().__init__(id, root)
        self._notice_logs: dict[int, NoticeLogReader] = {}

    def create_notice_log(self, client: int) -> None:
        """Make the notice log of a client and open it: the notices of a client that was admitted are read, however few
        descriptors are left.

        Raises
        ------
        OSError
            /dev/shm has no room for it, or there is no descriptor for it.
        """
        super().create_notice_log(client)
        if client not in self._notice_logs:  # else its welcome was lost, and it has sent Hello once more
            self._notice_logs[client] = NoticeLogReader(self.open_notice_log(client, writable=False))

    def read_notice_log(self, client: int, applied: int) -> list[Notice]:
        """What `client` wrote after notice number `applied` and was not read before."""
        reader = self._notice_logs.get(client)
        if reader is None:
            try:
                reader = self._notice_logs[client] = NoticeLogReader(self.open_notice_log(client, writable=False))
            except (FileNotFoundError, PermissionDeniedError):  # or its client has put something else there: its own harm
                return []
        return reader.read(applied)

    def read_use(self, client: int) -> Use | None:
        """What `client` did with the spare that it keeps, as of `read_notice_log`; None if that was read before."""
        reader = self._notice_logs.get(client)
        return None if reader is None else reader.use()

    def drop_notice_log(self, client: int) -> None:
        """Remove the notice log of a client that has ended."""
        reader = self._notice_logs.pop(client, None)
        if reader is not None:
            reader.close()
        super().drop_notice_log(client)
