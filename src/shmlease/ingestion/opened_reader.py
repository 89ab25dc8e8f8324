"""A reader of the user's under way in a worker: its arrays, step by step, as whole chunks and as rows in leases.

Rules:

- The reader may change in the next step what it gave: only copies are kept, at most a chunk of each array.
- What an earlier opening gave is compared by its CRC-32 and not given again, so a path can be begun anew at any time.
- An error that the reader raises, or an array that cannot be stored, is a failure of the path. What fails here is not, nor
  is that the reader cannot be imported.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from shmlease.errors import DTypeError
from shmlease.hdf5.attributes import encode_attribute
from shmlease.hdf5.checksum import combine, crc32
from shmlease.hdf5.chunk_encoding import Codec, plain_bytes
from shmlease.hdf5.layout import describe_dtype, parse_dtype, require_storable
from shmlease.hdf5.provenance import checksum_of_file
from shmlease.ingestion.array_rows import ArrayRows, codec_for, own_context
from shmlease.ingestion.private_memory import Memory
from shmlease.ingestion.reader import Failure, failure_of, unpack_reader
from shmlease.ingestion.tasks import LEASE_TIMEOUT_S, TICKET_TTL_S, Encoded, Load, LoadContext, Loaded, LoadedBlock

if TYPE_CHECKING:
    from shmlease.client.lease import Lease

__all__ = ["OpenedReader"]

Array = np.ndarray[Any, Any]
EncodeChunks = Callable[[LoadContext, list[tuple[int, list[Array]]]], Encoded]


class OpenedReader:
    """What a reader gives for one path.

    Parameters
    ----------
    task : Load
        Its first step.
    registry, encode : Memory, callable
        Of the worker.
    """

    def __init__(self, task: Load, registry: Memory, encode: EncodeChunks) -> None:
        self.opening = task.opening
        self._registry = registry
        self._encode = encode
        self._task = task
        self._path = task.path
        self._blocks: list[LoadedBlock] = []
        self._taken = dict(task.taken)
        self._datasets: dict[str, ArrayRows] = {}
        self._attributes: dict[str, dict[str, Any]] = {}  # to go with the next block of an array
        self._outs: list[tuple[str, Lease]] = []
        function, takes_out = unpack_reader(task.reader)
        self._arrays = self._run(function, takes_out=takes_out)
        self._current: tuple[str, Any, int] | None = None  # an array, and its next row
        self._lease: Lease | None = None  # it lies in

    def close(self) -> None:
        """Let go of everything."""
        arrays, self._arrays = self._arrays, iter(())
        close = getattr(arrays, "close", None)
        self._current = None
        try:
            if close is not None:
                close()
        except Exception:  # noqa: S110 - of a reader that has been given up
            pass
        finally:
            self._release(self._lease, *(lease for _, lease in self._outs))
            self._lease = None
            self._outs.clear()

    def step(self, task: Load) -> Loaded:
        """The next of its arrays, up to ``task.limit``."""
        self._blocks, self._task = [], task
        for rows in self._datasets.values():
            rows.begin_at(task.start_rows)
        failure: Failure | None = None
        left_bytes, deadline_s = task.limit.size_bytes, time.monotonic() + task.limit.time_s
        try:
            while True:
                try:
                    part = self._next_part(left_bytes)
                except (Exception, SystemExit) as error:
                    failure = failure_of(error)
                    part = None
                if part is None:
                    return self._ended(failure)
                name, array = part
                left_bytes -= max(array.nbytes, 64)  # arrays without elements come to an end, too
                if array.ndim and array.size:
                    self._datasets[name].take(array)
                else:
                    self._add(self._leased(name, array, is_whole=True))
                if left_bytes <= 0 or time.monotonic() >= deadline_s:
                    return Loaded(tuple(self._blocks), is_end=False)
        except BaseException:
            for block in self._blocks:
                if block.any_ticket is not None:
                    self._registry.redeem(block.any_ticket).release()
            raise

    def _ended(self, failure: Failure | None) -> Loaded:
        for rows in self._datasets.values():
            rows.end(is_alone=self._task.is_alone, is_failed=failure is not None)
        is_file = os.path.isfile(self._path)
        return Loaded(
            tuple(self._blocks), is_end=True, failure=failure, file_crc32=checksum_of_file(self._path) if is_file else None
        )

    # --- the user's function ------------------------------------------------------------------------------------------

    def _run(self, function: Callable[..., Any], *, takes_out: bool) -> Iterator[tuple[str, Any, Lease | None]]:
        """Call the function; what it gives, in order."""
        given = function(self._path, self._out) if takes_out else function(self._path)
        yield from self._filled()
        if given is None:
            if not takes_out:
                raise TypeError(f"{self._task.reader.name} returned None; return or yield arrays with their names")
            return
        for name, value, attributes in _named(given):
            yield from self._filled()
            for key, each in attributes.items():
                encode_attribute(key, each)  # which refuses what has no form in HDF5
            self._attributes.setdefault(name, {}).update(attributes)
            yield name, value, None
        yield from self._filled()

    def _out(self, name: str, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An array in shared memory, of zeros, that becomes a dataset once the reader returns or yields."""
        storable = _storable(name, np.dtype(dtype))
        lease = self._registry.lease(shape=shape, dtype=storable, timeout=LEASE_TIMEOUT_S)
        self._outs.append((_name(name), lease))
        lease.array[...] = np.zeros((), storable)
        return lease.array

    def _filled(self) -> Iterator[tuple[str, Any, Lease | None]]:
        while self._outs:
            name, lease = self._outs.pop(0)
            yield name, lease.array, lease

    def _next_part(self, most_bytes: int) -> tuple[str, Array] | None:
        """The next rows, no more than so many bytes of them but at least one; None at the end."""
        while self._current is None:
            self._release(self._lease)
            self._lease = None
            given = next(self._arrays, None)
            if given is None:
                return None
            name, value, self._lease = given
            if np.ma.is_masked(value):
                raise DTypeError(f"array {name!r} is masked, and HDF5 has no mask; fill it first")
            # a dataset of h5py, zarr or the like is read piece by piece; numpy makes an array of everything else
            array = value if getattr(value, "chunks", None) and getattr(value, "shape", ()) else np.asarray(value)
            dtype = _storable(name, np.dtype(array.dtype))
            if not array.shape or 0 in array.shape[1:]:
                return name, np.asarray(array).view(dtype)
            self._open_rows(name, dtype, tuple(array.shape[1:]))
            if array.shape[0]:
                self._current = name, array, 0
        name, array, start = self._current
        row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
        stop = min(start + max(most_bytes // row_bytes, 1), array.shape[0])
        rows = np.asarray(array[start:stop]).view(self._datasets[name].codec.dtype)
        self._current = (name, array, stop) if stop < array.shape[0] else None
        return name, rows

    def _open_rows(self, name: str, dtype: np.dtype[Any], trailing: tuple[int, ...]) -> None:
        known = self._datasets.get(name)
        if known is None:
            codec = codec_for(dtype, trailing, self._task.compression)
            known = self._datasets[name] = ArrayRows(name, codec, self._taken.get(name, (0, 0)), self._give)
            known.begin_at(self._task.start_rows)
        codec = known.codec
        if (codec.dtype, codec.grid.trailing) != (dtype, trailing):
            raise ValueError(
                f"array {name!r} has rows of {dtype} {trailing}, and had rows of {codec.dtype} {codec.grid.trailing} before"
            )

    # --- what is given ------------------------------------------------------------------------------------------------

    def _give(
        self, rows: ArrayRows, parts: list[Array], *, codec: Codec | None, first_chunk: int = 0, is_whole: bool = False
    ) -> None:
        """Add a block: each part a whole chunk, if there is a codec to encode them; else one array."""
        name, dtype, trailing = rows.name, rows.codec.dtype, rows.codec.grid.trailing
        if codec is None:
            self._add(self._leased(name, parts[0], is_whole=is_whole))
            return
        context = rows.context if codec is rows.codec else own_context(codec)
        encoded = self._encode(context, [(first_chunk + place, [part]) for place, part in enumerate(parts)])
        checksum = 0
        for _, _, chunk in encoded.chunks:
            for size, value in chunk.pieces:
                checksum = combine(checksum, value, size)
        shape = (sum(map(len, parts)), *trailing)
        self._add(LoadedBlock(name, dtype, shape, None, encoded, checksum, is_whole))

    def _add(self, block: LoadedBlock) -> None:
        self._blocks.append(msgspec.structs.replace(block, attributes=self._attributes.pop(block.name, {})))

    def _leased(self, name: str, array: Array, *, is_whole: bool) -> LoadedBlock:
        if not array.size:
            return LoadedBlock(name, array.dtype, array.shape, None, None, 0, is_whole)
        with self._registry.lease(shape=array.shape, dtype=array.dtype, timeout=LEASE_TIMEOUT_S) as lease:
            lease.array[...] = array
            checksum = crc32(plain_bytes(lease.array))
            ticket = lease.ticket(ttl=TICKET_TTL_S)
        return LoadedBlock(name, array.dtype, array.shape, ticket, None, checksum, is_whole)

    def _release(self, *leases: Lease | None) -> None:
        for lease in leases:
            if lease is not None:
                lease.release()


def _storable(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """`dtype` as it is in the file: without what Python alone knows of it."""
    require_storable(dtype, name)
    return parse_dtype(describe_dtype(dtype))


def _named(given: Any) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """What a reader returned or yields: arrays with their names and perhaps attributes, an array alone without a name."""
    if isinstance(given, Mapping):
        for name, array in given.items():
            yield _name(name), array, {}
    elif isinstance(given, tuple) and len(given) in (2, 3) and isinstance(given[0], str):
        yield given[0], given[1], given[2] if len(given) == 3 else {}
    elif hasattr(given, "shape") or not isinstance(given, Iterable) or isinstance(given, str | bytes):
        if not hasattr(given, "shape"):
            raise TypeError(f"the reader gave {type(given).__name__}; give arrays with their names")
        yield "", given, {}
    else:
        for each in given:
            if isinstance(given, list | tuple) and not isinstance(each, Mapping | tuple) and not hasattr(each, "shape"):
                raise TypeError(
                    f"the reader gave a {type(given).__name__} of {type(each).__name__}; give arrays with their names"
                )
            if each is not None or not isinstance(given, Iterator):
                yield from _named(each)


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the reader named an array {name!r}; a name is a text")
    return name
