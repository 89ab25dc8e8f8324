"""Pickles over a socket between a coordinator and its own workers; contexts and schemas cross once, later only
their numbers.

Both ends are of one run and one user, made from a socket pair that nobody else can reach: unpickling is safe here.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import socket
import struct
from dataclasses import fields
from typing import Any, Final, TypeAlias

from shmlease.ingestion.tasks import Context
from shmlease.text.schema import Schema

__all__ = ["WorkerChannel"]

_LENGTH: Final = struct.Struct("<Q")
_RECEIVE_BYTES: Final = 1 << 18
# Contexts and schemas that both ends remember, the oldest forgotten first: of a run over many small files each context is
# needed only for a moment, and all have one schema.
_REMEMBERED: Final = 64
_KINDS: Final[dict[type, tuple[str, ...]]] = {
    Context: Context.__struct_fields__,
    Schema: tuple(each.name for each in fields(Schema)),
}
_Known: TypeAlias = dict[type, dict[int, Any]]  # values of each kind, by number


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, known: _Known) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._known = known

    def persistent_id(self, value: Any) -> Any:
        kind = type(value)
        if kind not in _KINDS:
            return None
        number = value.id if kind is Context else id(value)  # of no other value while this one is remembered
        if number in self._known[kind]:
            return kind.__name__, number, None
        _remember(self._known[kind], number, value)
        return kind.__name__, number, tuple(getattr(value, name) for name in _KINDS[kind])


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, known: _Known) -> None:
        super().__init__(file)
        self._known = known

    def persistent_load(self, identifier: Any) -> Any:
        name, number, content = identifier
        kind = next(each for each in _KINDS if each.__name__ == name)
        if content is not None:
            _remember(self._known[kind], number, kind(**dict(zip(_KINDS[kind], content, strict=True))))
        return self._known[kind][number]


def _remember(known: dict[int, Any], number: int, value: Any) -> None:
    known[number] = value
    if len(known) > _REMEMBERED:
        del known[next(iter(known))]


class WorkerChannel:
    """One end. A worker sends and receives; a coordinator, which must not wait, puts and flushes, fills and takes."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._sent: _Known = {kind: {} for kind in _KINDS}
        self._received: _Known = {kind: {} for kind in _KINDS}
        self._in = bytearray()
        self._out = bytearray()

    def put(self, value: object) -> None:
        """Queue a message for `flush`."""
        file = io.BytesIO()
        _Pickler(file, self._sent).dump(value)
        self._out += _LENGTH.pack(file.tell()) + file.getbuffer()

    @property
    def has_output(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._out)

    def flush(self) -> None:
        """Send what goes without waiting. That the other end is gone shows when receiving."""
        with contextlib.suppress(OSError):
            while self._out:
                del self._out[: self.socket.send(self._out, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)]

    def fill(self) -> bool:
        """Receive what has come, for `take`; False once the other end is gone."""
        return self._fill(socket.MSG_DONTWAIT)

    def take(self) -> Any:
        """The next message that has arrived whole; None if there is none."""
        if len(self._in) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._in)[0]
        if len(self._in) < end:
            return None
        value = _Unpickler(io.BytesIO(memoryview(self._in)[_LENGTH.size : end].tobytes()), self._received).load()
        del self._in[:end]
        return value

    def send(self, value: object) -> None:
        """Send a message and wait until it is on its way."""
        self.put(value)
        self.socket.sendall(self._out)
        self._out.clear()

    def receive(self) -> Any:
        """Wait for a message; None once the other end is gone."""
        while (value := self.take()) is None:
            if not self._fill(0):
                return None
        return value

    def _fill(self, flags: int) -> bool:
        while True:
            try:
                data = self.socket.recv(_RECEIVE_BYTES, flags)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self._in += data
            if not flags:
                return True
