"""Any Python object as the content of one segment: a pickle of protocol 5 whose buffers lie beside it, out of band.

A header comes first, then where each buffer lies, the pickle, and the buffers, each at a multiple of 64 bytes. Objects are
made anew with their arrays on the segment itself; what a library pickles in band (strings, small things) is copied out.

Numpy leaves subclasses, dates and non-contiguous arrays in band, torch and polars everything; `_REDUCERS` lays their memory
out of band as well. A tensor cannot be made read-only, and writing to a read-only page ends the process: an object with
tensors is mapped copy-on-write.

In a writable mapping an array is writable, also if what was pickled was not: it is a copy, as an array from a pipe is.
"""

from __future__ import annotations

import functools
import io
import pickle
import struct
import types
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np

from shmlease.client.copying import copy_into
from shmlease.errors import ObjectError
from shmlease.units import format_bytes

__all__ = ["PackedObject", "pack", "unpack"]

Array = np.ndarray[Any, Any]
Reduced = tuple[Callable[..., Any], tuple[Any, ...]]

# A cache line, and the widest vector register: what Arrow, numpy and BLAS like their arrays to begin at.
ALIGNMENT: Final = 64
_HEADER: Final = struct.Struct("<8sQQ")  # magic, number of buffers, bytes of the pickle
_MAGIC: Final = b"shmlobj1"
_PLACE: Final = np.dtype([("offset", "<u8"), ("nbytes", "<u8")])
_NO_PLACES: Final = np.zeros(0, _PLACE)


class PackedObject(msgspec.Struct, frozen=True):
    """An object ready to be written.

    Attributes
    ----------
    stream : bytes
        The pickle, which is all there is of an object without `buffers`.
    nbytes : int
        What it takes in a segment.
    needs_private : bool
        It holds what cannot be made read-only: it is to be mapped copy-on-write.
    """

    stream: bytes
    buffers: list[Array]
    places: Array
    nbytes: int
    needs_private: bool

    def write_into(self, content: Array) -> None:
        """Write it into `content`, bytes of which there are `nbytes`."""
        head = _HEADER.pack(_MAGIC, len(self.buffers), len(self.stream)) + self.places.tobytes() + self.stream
        content[: len(head)] = np.frombuffer(head, np.uint8)
        for (offset, nbytes), buffer in zip(self.places.tolist(), self.buffers, strict=True):
            copy_into(content[offset : offset + nbytes], buffer)


def pack(
    value: object,
    *,
    min_nbytes: int = 0,
    pickler: type[pickle.Pickler] = pickle.Pickler,
    reduce: Callable[[Any], Any] | None = None,
) -> PackedObject:
    """`value` pickled, the memory of its arrays beside the pickle and not copied yet; `RegistryHandle.put` takes it.

    Parameters
    ----------
    value : object
        What is to be shared.
    min_nbytes : int
        Bytes that an array or a buffer has at least to lie beside the pickle; smaller ones are part of it.
    pickler : type
        What pickles all else: a subclass of `pickle.Pickler` that takes ``protocol`` and ``buffer_callback``.
    reduce : callable, optional
        Is asked first how an object is to be pickled; as `pickle.Pickler.reducer_override`.

    Raises
    ------
    Exception
        What pickling `value` raises.
    """
    buffers: list[Array] = []

    def set_aside(buffer: pickle.PickleBuffer) -> bool:
        """Whether the pickler is to keep the buffer in the pickle."""
        content = np.frombuffer(buffer.raw(), np.uint8)
        if content.nbytes < min_nbytes:
            return True
        buffers.append(content)
        return False

    stream = io.BytesIO()
    made_by: Any = pickler
    packer = _laying_out(made_by)(stream, protocol=5, buffer_callback=set_aside)
    packer.min_nbytes, packer.reduce = min_nbytes, reduce
    packer.dump(value)
    if not buffers:
        nbytes = _HEADER.size + stream.tell()
        return PackedObject(stream.getvalue(), buffers, _NO_PLACES, nbytes, packer.needs_private)
    places = np.zeros(len(buffers), _PLACE)
    end = _HEADER.size + places.nbytes + stream.tell()
    for number, buffer in enumerate(buffers):
        start = _aligned(end)
        places[number] = start, buffer.nbytes
        end = start + buffer.nbytes
    return PackedObject(stream.getvalue(), buffers, places, end, packer.needs_private)


def unpack(content: Array, subject: str) -> Any:
    """The object in `content`, the bytes of `subject`; its arrays lie there, and hold it.

    Raises
    ------
    ObjectError
        There is no object, or not the whole of one; or it needs a library that is not installed.
    """
    size = len(content)
    if size < _HEADER.size:
        raise _malformed(subject, f"it holds {format_bytes(size)}, less than the header of one")
    magic, count, stream_nbytes = _HEADER.unpack(content[: _HEADER.size].tobytes())
    if magic != _MAGIC:
        raise _malformed(subject, f"it begins with {magic!r}, not {_MAGIC!r}")
    places_end = _HEADER.size + count * _PLACE.itemsize
    if places_end + stream_nbytes > size:
        raise _malformed(subject, f"it is cut short: {format_bytes(places_end + stream_nbytes)} at least are missing some")
    places = content[_HEADER.size : places_end].tobytes()
    buffers = []
    for offset, nbytes in np.frombuffer(places, _PLACE).tolist():
        if offset + nbytes > size:
            raise _malformed(subject, f"it is cut short: a buffer ends at byte {offset + nbytes}, the segment at {size}")
        buffers.append(content[offset : offset + nbytes].data)  # no array: `if memory` and `memory == b""` are to work
    try:
        return pickle.loads(content[places_end : places_end + stream_nbytes].data, buffers=buffers)  # noqa: S301 - this user's own
    except ModuleNotFoundError as error:
        library = (error.name or str(error)).partition(".")[0]
        raise ObjectError(
            f"the object in {subject} needs {library}, which is not installed here: pip install {library}", library=library
        ) from error
    except (pickle.UnpicklingError, EOFError, IndexError, AttributeError, ImportError) as error:
        raise _malformed(subject, f"it cannot be loaded: {error}") from error


def _malformed(subject: str, why: str) -> ObjectError:
    return ObjectError(
        f"{subject} holds no object that can be loaded: {why}; `put` writes them, `attach` reads any segment"
    )


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


@functools.cache
def _laying_out(base: Any) -> Any:
    """A pickler as `base` that lays the memory of arrays out of band, also where their library does not."""
    reduced_by_base = getattr(base, "reducer_override", None)

    class Pickler(base):  # type: ignore[misc]
        min_nbytes = 0
        reduce: Callable[[Any], Any] | None = None
        needs_private = False

        def reducer_override(self, value: Any) -> Any:
            if self.reduce is not None and (reduced := self.reduce(value)) is not NotImplemented:
                return reduced
            cls = type(value)
            if cls is np.ndarray and value.nbytes < self.min_nbytes:
                return value.__reduce__()  # in the pickle, and writable where it arrives
            reduce = None if cls in _WITHOUT_MEMORY else _REDUCERS.get(f"{cls.__module__}.{cls.__qualname__}")
            if reduce is None:
                return NotImplemented if reduced_by_base is None else reduced_by_base(self, value)
            self.needs_private |= reduce is _reduce_tensor
            return reduce(value)

    return Pickler


# --- numpy -----------------------------------------------------------------------------------------------------------


def _reduce_array(array: Array) -> Any:
    if array.dtype.hasobject or array.dtype.kind == "T" or not array.nbytes:
        return NotImplemented
    if not array.flags.c_contiguous and not array.flags.f_contiguous:
        array = np.ascontiguousarray(array)
    order = "C" if array.flags.c_contiguous else "F"
    cls = np.recarray if type(array) is np.recarray else np.ndarray
    content = np.ndarray(array.nbytes, np.uint8, buffer=_memory_of(array))
    return _array, (pickle.PickleBuffer(content.data), array.dtype, array.shape, order, cls)


def _memory_of(array: Array) -> Array:
    """The bytes of a contiguous array: numpy offers those of dates to nobody, but as integers."""
    flat = np.asarray(array).reshape(-1, order="A")
    return flat.view(f"V{flat.dtype.itemsize}").view(np.uint8)


def _array(buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any, cls: type[Array]) -> Array:
    memory = getattr(buffer, "obj", buffer)  # of an array that was read-only, pickle gives a read-only view of its memory
    return np.ndarray.__new__(cls, shape, dtype, buffer=memory, order=order)


def _reduce_masked(array: Any) -> Any:
    if array.dtype.hasobject:
        return NotImplemented
    mask = array.mask if array.mask is not np.ma.nomask else None
    return _masked, (array.data, mask, array.fill_value, array.hardmask)


def _masked(data: Array, mask: Array | None, fill_value: Any, hard_mask: bool) -> Any:
    return np.ma.MaskedArray(data, np.ma.nomask if mask is None else mask, fill_value=fill_value, hard_mask=hard_mask)


# --- libraries that pickle their memory in band --------------------------------------------------------------------------


def _reduce_tensor(tensor: Any) -> Any:
    import torch  # noqa: PLC0415 - it is there: this is one of its objects

    plain = tensor.device.type == "cpu" and tensor.layout is torch.strided and not tensor.is_quantized and tensor.numel()
    if not plain or tensor.is_conj() or tensor.is_neg():
        return NotImplemented
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)  # as it lies in memory: "channels last", say
    laid_out = tensor.detach().permute(order)
    if not laid_out.is_contiguous():  # it has gaps, or elements that lie on each other
        order, laid_out = list(range(tensor.dim())), tensor.detach().contiguous()
    content = laid_out.reshape(-1).view(torch.uint8).numpy()
    return _tensor, (content, tensor.dtype, tuple(laid_out.shape), order, tensor.requires_grad)


def _tensor(content: Array, dtype: Any, shape: tuple[int, ...], order: list[int], requires_grad: bool) -> Any:
    import torch  # noqa: PLC0415 - only who loads a tensor needs it

    laid_out = torch.from_numpy(content).view(dtype).reshape(shape)
    return laid_out.permute([order.index(dimension) for dimension in range(len(order))]).requires_grad_(requires_grad)


def _reduce_polars(frame: Any) -> Any:
    try:
        import polars as pl  # noqa: PLC0415 - it is there: this is one of its objects

        table = frame.to_frame() if isinstance(frame, pl.Series) else frame
        arrow = table.to_arrow(compat_level=pl.CompatLevel.newest())
    except (ImportError, TypeError, ValueError):  # no pyarrow, or Python objects in a column
        return NotImplemented
    return _polars, (arrow, isinstance(frame, pl.Series))


def _polars(arrow: Any, is_series: bool) -> Any:
    import polars as pl  # noqa: PLC0415 - only who loads a frame needs it

    frame = pl.from_arrow(arrow, rechunk=False)
    return frame.to_series() if is_series else frame  # type: ignore[union-attr]


# Most of what is in a small message, beside what the pickler itself knows.
_WITHOUT_MEMORY: Final = frozenset(
    [types.FunctionType, types.BuiltinFunctionType, type, *(type(np.dtype(code)) for code in np.typecodes["All"])]
)
# By the full name of the class: nothing is imported to look for what is not there.
_REDUCERS: Final[dict[str, Callable[[Any], Any]]] = {
    "numpy.ndarray": _reduce_array,
    "numpy.memmap": _reduce_array,
    "numpy.rec.recarray": _reduce_array,
    "numpy.recarray": _reduce_array,
    "numpy.ma.MaskedArray": _reduce_masked,
    "numpy.ma.core.MaskedArray": _reduce_masked,
    "torch.Tensor": _reduce_tensor,
    "polars.dataframe.frame.DataFrame": _reduce_polars,
    "polars.series.series.Series": _reduce_polars,
}
