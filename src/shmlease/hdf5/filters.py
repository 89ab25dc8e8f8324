"""The compressions a sink offers: the filters that HDF5 is given for each, and encoding through HDF5 itself.

Deflate has an encoder of its own (see `deflate`). The others are encoded by the filter that will decode them: a dataset
of one chunk in an HDF5 file in memory, read back as it was stored. That needs no second implementation of any format,
and runs in any process.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from shmlease.errors import SinkError

__all__ = [
    "COMPRESSIONS",
    "LIBVER",
    "ROOM_BYTES",
    "Compression",
    "compression_named",
    "compressions_named",
    "filter_through_hdf5",
]

LIBVER = ("v108", "v108")  # of the file format: every HDF5 since 1.8 (2008) reads it, and so do other readers
# HDF5 1.14 ends the process (SIGSEGV) where it gets no memory while it opens a file, for which it took 0.5 MiB.
ROOM_BYTES = 4 << 20
_serial = itertools.count()


class Compression(msgspec.Struct, frozen=True):
    """One compression.

    Attributes
    ----------
    filters : callable
        Keywords for h5py's ``create_dataset``.
    skip_all : int
        The filter mask of a chunk stored as it is: one bit for each filter.
    encoded_by : str
        ``"copy"``, ``"deflate"`` or ``"hdf5"``.
    """

    filters: Callable[[], dict[str, Any]]
    skip_all: int
    encoded_by: str


def _plugin(name: str, **options: Any) -> dict[str, Any]:
    try:
        import hdf5plugin  # noqa: PLC0415 - an extra
    except ImportError:
        raise SinkError(
            f"compression {name.lower()!r} needs the package hdf5plugin, which is not installed; "
            f"run: pip install 'shmlease[hdf5plugin]'",
            compression=name.lower(),
        ) from None
    return dict(getattr(hdf5plugin, name)(**options))


COMPRESSIONS = {
    "none": Compression(dict, 0, "copy"),
    "gzip": Compression(lambda: {"shuffle": True, "compression": "gzip", "compression_opts": 1}, 0b11, "deflate"),
    "lzf": Compression(lambda: {"shuffle": True, "compression": "lzf"}, 0b11, "hdf5"),
    "zstd": Compression(lambda: {"shuffle": True, **_plugin("Zstd", clevel=1)}, 0b11, "hdf5"),
    # filters=1 is Blosc2's own byte shuffle
    "blosc2": Compression(lambda: _plugin("Blosc2", cname="lz4", clevel=5, filters=1), 0b1, "hdf5"),
}


def compression_named(name: str) -> Compression:
    """The compression called `name`, ready for use.

    Raises
    ------
    SinkError
        There is none of that name, or the package it needs is not installed.
    """
    if name not in COMPRESSIONS:
        raise SinkError(f"compression {name!r} is unknown; choose one of {', '.join(COMPRESSIONS)}", compression=name)
    compression = COMPRESSIONS[name]
    compression.filters()
    return compression


def compressions_named(text: str) -> tuple[str, dict[str, str]]:
    """The compression of a file and those of single columns, from ``"gzip,name=zstd,id=none"``, ready for use.

    Raises
    ------
    SinkError
        There is none of that name, or the package it needs is not installed.
    """
    general, own = "gzip", {}
    for part in text.split(","):
        column, equals, name = part.rpartition("=")
        compression_named(name.strip())
        if equals:
            own[column.strip()] = name.strip()
        else:
            general = name.strip()
    return general, own


def filter_through_hdf5(data: np.ndarray[Any, Any], chunk_shape: tuple[int, ...], compression: str) -> tuple[bytes, int]:
    """One whole chunk as HDF5 would store it: (payload, filter mask).

    `data` holds the chunk's elements in C order.
    """
    import h5py  # noqa: PLC0415 - importing shmlease must not import h5py

    name = f"shmlease-{os.getpid()}-{next(_serial)}"  # HDF5 refuses two open files of one name, in memory too
    with h5py.File(name, "w", driver="core", backing_store=False, libver=LIBVER) as file:
        dataset = file.create_dataset(
            "chunk", shape=chunk_shape, chunks=chunk_shape, dtype=data.dtype, **COMPRESSIONS[compression].filters()
        )
        dataset[...] = data.reshape(chunk_shape)
        dataset.flush()
        mask, payload = dataset.id.read_direct_chunk((0,) * len(chunk_shape))
    return payload, mask
