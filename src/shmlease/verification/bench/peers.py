"""Ways to hand an array to another process, ours and others', each with a producer's and a consumer's side.

A producer's `send` puts a private array where the consumer will find it and returns the word to be sent; `free` is called
when the consumer has answered. A consumer's `read` opens what the word means, looks at it, and lets go. Peers that are not
installed are left out.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import managers, shared_memory
from typing import Any, Final, Protocol

import numpy as np

import shmlease

__all__ = ["PEERS", "Peer", "available", "look_at"]

Array = np.ndarray[Any, Any]


def look_at(array: Array) -> float:
    """What a consumer looks at: both ends, and some numbers in between."""
    return float(array[0]) + float(array[-1]) + float(array[:: max(len(array) // 16, 1)].sum())


class Peer(Protocol):
    """One way to hand an array over; made in both processes, for the same registry and array."""

    def __init__(self, registry: str, nbytes: int, tag: str) -> None: ...

    def send(self, array: Array) -> Any:
        """Producer: copy `array` to where others can read it; the word to be sent."""
        ...

    def free(self) -> None:
        """Producer: the consumer has answered."""
        ...

    def read(self, word: Any) -> float:
        """Consumer: open, look, let go."""
        ...

    def close(self) -> None:
        """Either: no more."""
        ...


class _Simple:
    """A peer that keeps nothing between cycles."""

    def __init__(self, registry: str, nbytes: int, tag: str) -> None:
        del registry, nbytes, tag

    def free(self) -> None:
        """Nothing is left to be freed."""

    def close(self) -> None:
        """Nothing is open."""


class Shmlease:
    """`share`, `ticket`, `redeem`."""

    def __init__(self, registry: str, nbytes: int, tag: str) -> None:
        del nbytes, tag
        self._registry = shmlease.connect(registry)
        self._lease: shmlease.Lease

    def send(self, array: Array) -> Any:
        """Share, and a ticket."""
        self._lease = self._registry.share(array)
        return self._lease.ticket()

    def free(self) -> None:
        """Release."""
        self._lease.release()

    def read(self, word: Any) -> float:
        """Redeem, look, release."""
        with self._registry.redeem(word) as lease:
            return look_at(lease.array)

    def close(self) -> None:
        """The link ends with the process."""


class Stdlib(_Simple):
    """A `SharedMemory` made and unlinked by the producer in each cycle."""

    def send(self, array: Array) -> Any:
        """Create, and copy."""
        self._segment = shared_memory.SharedMemory(create=True, size=array.nbytes)
        np.ndarray(array.shape, array.dtype, buffer=self._segment.buf)[:] = array
        return self._segment.name, array.shape, array.dtype

    def free(self) -> None:
        """Close and unlink; both sides registered the name with one shared tracker, which counts it once."""
        self._segment.close()
        self._segment.unlink()

    def read(self, word: Any) -> float:
        """Attach, look, close."""
        name, shape, dtype = word
        segment = shared_memory.SharedMemory(name=name)
        value = look_at(np.ndarray(shape, dtype, buffer=segment.buf))
        segment.close()
        return value


class Manager(Stdlib):
    """A `SharedMemoryManager` that makes and frees the segments; in the producer only."""

    def __init__(self, registry: str, nbytes: int, tag: str) -> None:
        super().__init__(registry, nbytes, tag)
        self._manager: managers.SharedMemoryManager | None = None

    def send(self, array: Array) -> Any:
        """Have the manager make one, and copy."""
        if self._manager is None:
            self._manager = managers.SharedMemoryManager()
            self._manager.start()
        self._segment = self._manager.SharedMemory(array.nbytes)
        np.ndarray(array.shape, array.dtype, buffer=self._segment.buf)[:] = array
        return self._segment.name, array.shape, array.dtype

    def close(self) -> None:
        """End the manager's process."""
        if self._manager is not None:
            self._manager.shutdown()


class Pickle(_Simple):
    """The array itself through the pipe."""

    def send(self, array: Array) -> Any:
        """The word is the array."""
        return array

    def read(self, word: Any) -> float:
        """Look."""
        return look_at(word)


class Iceoryx2(_Simple):
    """A publisher's loaned slice, and a subscriber's sample."""

    def __init__(self, registry: str, nbytes: int, tag: str) -> None:
        iceoryx2: Any = importlib.import_module("iceoryx2")

        del registry
        iceoryx2.set_log_level(iceoryx2.LogLevel.Fatal)
        self._node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        builder = self._node.service_builder(iceoryx2.ServiceName.new(f"shmlease-bench-{tag}"))
        self._service = builder.publish_subscribe(iceoryx2.Slice[ctypes.c_uint8]).open_or_create()
        self._nbytes = nbytes
        self._publisher: Any = None
        self._subscriber: Any = None

    def send(self, array: Array) -> Any:
        """Loan, copy, send."""
        if self._publisher is None:
            self._publisher = self._service.publisher_builder().initial_max_slice_len(self._nbytes).create()
        loan = self._publisher.loan_slice_uninit(array.nbytes)
        _on(loan.payload())[:] = array.view(np.uint8)
        loan.assume_init().send()
        return array.dtype

    def read(self, word: Any) -> float:
        """Receive, look, drop."""
        if self._subscriber is None:  # before the first sample is sent: the word is None
            self._subscriber = self._service.subscriber_builder().create()
            return 0.0
        sample = self._subscriber.receive()
        value = look_at(_on(sample.payload()).view(word))
        sample.delete()
        return value


class SharedArray(_Simple):
    """The SharedArray package: create, attach, delete."""

    def send(self, array: Array) -> Any:
        """Create, and copy."""
        library: Any = importlib.import_module("SharedArray")

        self._name = f"shm://shmlease-bench-{secrets.token_hex(4)}"
        library.create(self._name, array.shape, array.dtype)[:] = array
        return self._name

    def free(self) -> None:
        """Delete."""
        library: Any = importlib.import_module("SharedArray")

        library.delete(self._name)

    def read(self, word: Any) -> float:
        """Attach, look; dropped by the collector."""
        library: Any = importlib.import_module("SharedArray")

        return look_at(library.attach(word))


class Torch(_Simple):
    """A tensor in shared memory, with the file_system strategy, sent through the pipe."""

    def send(self, array: Array) -> Any:
        """Copy into a shared tensor, and reduce it."""
        torch: Any = importlib.import_module("torch")
        multiprocessing: Any = importlib.import_module("torch.multiprocessing")

        multiprocessing.set_sharing_strategy("file_system")
        self._tensor = torch.from_numpy(array).clone().share_memory_()
        return multiprocessing.reductions.reduce_tensor(self._tensor)

    def read(self, word: Any) -> float:
        """Rebuild, look."""
        rebuild, arguments = word
        return look_at(rebuild(*arguments).numpy())


class Vineyard:
    """`put`, `get`, `delete`, with a vineyardd of the producer's that keeps its metadata to itself."""

    def __init__(self, registry: str, nbytes: int, tag: str) -> None:
        del registry
        self._library: Any = importlib.import_module("vineyard")
        self._socket = f"{tempfile.gettempdir()}/shmlease-bench-{tag}.sock"
        self._size_bytes = max(8 * nbytes, 64 << 20)
        self._server: subprocess.Popen[bytes] | None = None
        self._client: Any = None

    def send(self, array: Array) -> Any:
        """Put; starts the server first."""
        if self._client is None:
            command = [f"{os.path.dirname(self._library.__file__)}/bdist/vineyardd", "--socket", self._socket]
            command += ["--size", str(self._size_bytes), "--meta", "local", "--norpc"]
            self._server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not os.path.exists(self._socket):
                if self._server.poll() is not None:
                    raise RuntimeError(f"vineyardd ended with {self._server.returncode}")
                time.sleep(0.01)
            self._client = self._library.connect(self._socket)
        self._object = self._client.put(array)
        return self._object

    def free(self) -> None:
        """Delete."""
        self._client.delete(self._object)

    def read(self, word: Any) -> float:
        """Get, look; dropped by the collector."""
        if self._client is None:
            self._client = self._library.connect(self._socket)
        return look_at(self._client.get(word))

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._client.close()
            self._server.terminate()
            self._server.wait()


# subject -> its peer, and the module it needs
PEERS: Final[dict[str, tuple[type[Any], str]]] = {
    "shmlease": (Shmlease, "shmlease"),
    "stdlib SharedMemory": (Stdlib, "multiprocessing"),
    "SharedMemoryManager": (Manager, "multiprocessing"),
    "pickle through a Pipe": (Pickle, "multiprocessing"),
    "iceoryx2": (Iceoryx2, "iceoryx2"),
    "SharedArray": (SharedArray, "SharedArray"),
    "torch": (Torch, "torch"),
    "vineyard": (Vineyard, "vineyard"),
}


def available() -> Iterator[str]:
    """The subjects that are installed."""
    for subject, (_, module) in PEERS.items():
        with contextlib.suppress(ImportError):
            if importlib.util.find_spec(module) is not None:
                yield subject


def _on(payload: Any) -> Array:
    pointer = ctypes.cast(payload.as_ptr(), ctypes.POINTER(ctypes.c_uint8))
    return np.ctypeslib.as_array(pointer, (payload.len(),))
