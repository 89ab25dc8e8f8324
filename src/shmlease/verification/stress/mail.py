"""Tickets on their way between the clients of a stress run: a file in the receiver's box each.

A letter outlives both its sender and a receiver that is killed before it looks. It is put into a box whole or not at all,
whoever is killed in the middle.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import msgspec

__all__ = ["Letter", "Mail", "make_boxes"]


class Letter(msgspec.Struct, frozen=True, array_like=True):
    """A ticket, and the stamp of what it is for: an array, or an object with one."""

    ticket: str
    stamp: int
    is_object: bool = False


def make_boxes(directory: str, receivers: Iterable[int]) -> None:
    """A box for each of `receivers`."""
    for receiver in receivers:
        os.makedirs(f"{directory}/mail/{receiver}")


class Mail:
    """The box of one client, and the way to those of others.

    Parameters
    ----------
    directory : str
        Of the run.
    client : int
        Whose box it is; whoever takes the place of a killed client has the same.
    sender : str
        A name that no other process has.
    """

    def __init__(self, directory: str, client: int, sender: str) -> None:
        self._boxes = f"{directory}/mail"
        self._own = f"{self._boxes}/{client}"
        self._outbox = f"{directory}/outbox-{sender}"

    def send(self, letter: Letter, receivers: Iterable[int]) -> None:
        """Send a copy to each of `receivers`."""
        content = msgspec.json.encode(letter)
        for copy, receiver in enumerate(receivers):
            with open(self._outbox, "wb") as file:
                file.write(content)
            os.rename(self._outbox, f"{self._boxes}/{receiver}/{letter.stamp:x}-{copy}")

    def receive(self) -> Iterator[Letter]:
        """The letters that have arrived by now, each taken out of the box."""
        for name in os.listdir(self._own):
            path = f"{self._own}/{name}"
            with open(path, "rb") as file:
                letter = msgspec.json.decode(file.read(), type=Letter)
            os.unlink(path)
            yield letter
