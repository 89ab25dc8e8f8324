"""Chunks encoded: what a reader decodes, what they take, and which rows they vouch for."""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from shmlease.errors import SinkError
from shmlease.hdf5 import deflate
from shmlease.hdf5.chunk_encoding import ChunkEncoder, Codec, EncodedChunk
from shmlease.hdf5.filters import COMPRESSIONS, compression_named
from shmlease.hdf5.layout import Grid
from shmlease.hdf5.shuffle import shuffle

Calls = Callable[..., np.ndarray]


def codec_for(array: np.ndarray, compression: str = "gzip", chunk_bytes: int = 1 << 16) -> Codec:
    return Codec(array.dtype, Grid.fit(array.shape[1:], array.dtype.itemsize, chunk_bytes), compression)


def decode(codec: Codec, chunk: EncodedChunk, out: np.ndarray) -> np.ndarray:
    """What HDF5 makes of an encoded chunk."""
    content = io.BytesIO()
    shape = codec.grid.chunk_shape
    with h5py.File(content, "w") as file:
        filters = COMPRESSIONS[codec.compression].filters()
        dataset = file.create_dataset("chunk", shape, codec.dtype, chunks=shape, **filters)
        dataset.id.write_direct_chunk((0,) * len(shape), out[: chunk.size_bytes].tobytes(), chunk.filter_mask)
    with h5py.File(content, "r") as file:
        return file["chunk"][...]


def need(compression: str) -> None:
    try:
        compression_named(compression)
    except SinkError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("compression", list(COMPRESSIONS))
@pytest.mark.parametrize("rows", [1, 100, 2520])
def test_a_chunk_decodes_to_its_rows(compression: str, rows: int, calls: Calls) -> None:
    need(compression)
    array = calls(rows)
    codec = codec_for(array, compression)
    out = np.empty(codec.bound_bytes, np.uint8)
    chunk = ChunkEncoder(codec).encode(array, out)
    decoded = decode(codec, chunk, out)
    assert decoded[:rows].tobytes() == array.tobytes()
    assert not any(decoded[rows:].tobytes()), "the rest of a chunk is zeros"
    assert chunk.data_bytes == array.nbytes
    assert chunk.payload_crc32 == zlib.crc32(out[: chunk.size_bytes])


def test_rows_may_come_in_pieces_and_each_piece_gets_its_checksum(calls: Calls) -> None:
    array = calls(2000)
    codec = codec_for(array)
    whole, pieced = (np.empty(codec.bound_bytes, np.uint8) for _ in range(2))
    cuts = [array[:1], array[1:1500], array[1500:]]
    first = ChunkEncoder(codec).encode(array, whole)
    second = ChunkEncoder(codec).encode(cuts, pieced)
    assert whole[: first.size_bytes].tobytes() == pieced[: second.size_bytes].tobytes()
    assert second.pieces == tuple((cut.nbytes, zlib.crc32(cut.tobytes())) for cut in cuts)


@pytest.mark.parametrize("compression", list(COMPRESSIONS))
def test_noise_is_stored_as_it_is_and_never_takes_more_than_the_bound(compression: str) -> None:
    need(compression)
    noise = np.random.default_rng(0).integers(0, 256, (1 << 16) // 8 * 8, dtype=np.uint8).view("u8")
    codec = codec_for(noise, compression)
    out = np.empty(codec.bound_bytes, np.uint8)
    chunk = ChunkEncoder(codec).encode(noise, out)
    assert chunk.size_bytes == codec.bound_bytes
    assert chunk.filter_mask == COMPRESSIONS[compression].skip_all
    assert decode(codec, chunk, out).tobytes() == noise.tobytes()


def test_floats_that_repeat_are_left_unshuffled_and_integers_are_not() -> None:
    random = np.random.default_rng(0)
    values = random.random(50)
    floats = values[random.integers(0, 50, 1 << 13)]
    for array, mask in ((floats, 0b01), (np.cumsum(random.integers(0, 9, 1 << 14)).astype("i4"), 0)):
        codec = codec_for(array)
        out = np.empty(codec.bound_bytes, np.uint8)
        chunk = ChunkEncoder(codec).encode(array, out)
        assert chunk.filter_mask == mask
        assert decode(codec, chunk, out).tobytes() == array.tobytes()


def test_an_encoder_remembers_what_was_smallest_and_looks_again_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    real = deflate.compress

    def compress(data: np.ndarray, window_bits: int) -> bytes:
        tried.append(window_bits)
        return real(data, window_bits)

    monkeypatch.setattr(deflate, "compress", compress)
    array = np.tile(np.random.default_rng(0).integers(0, 2**31, 1 << 11), 4)
    encoder = ChunkEncoder(codec_for(array))
    out = np.empty(encoder.codec.bound_bytes, np.uint8)
    for _ in range(33):
        encoder.encode(array, out)
    assert tried == [1, 15] + 31 * [15] + [1, 15]


def test_padding_is_stored_as_zeros_whatever_memory_held() -> None:
    dtype = np.dtype([("flag", "i1"), ("value", "f8")], align=True)
    dirty = np.frombuffer(np.random.default_rng(0).bytes(100 * dtype.itemsize), dtype).copy()
    clean = np.zeros(100, dtype)
    clean["flag"], clean["value"] = dirty["flag"], dirty["value"]
    codec = codec_for(clean)
    first, second = (np.empty(codec.bound_bytes, np.uint8) for _ in range(2))
    assert ChunkEncoder(codec).encode(dirty, first) == ChunkEncoder(codec).encode(clean, second)
    chunk = ChunkEncoder(codec).encode(dirty, first)
    assert decode(codec, chunk, first)[:100].tobytes() == clean.tobytes()


def test_rows_may_lie_in_memory_in_any_way(calls: Calls) -> None:
    grid = np.asfortranarray(np.arange(6000.0).reshape(60, 100))
    codec = codec_for(grid, chunk_bytes=60 * 800)
    out = np.empty(codec.bound_bytes, np.uint8)
    assert np.array_equal(decode(codec, ChunkEncoder(codec).encode(grid, out), out), grid)
    every_other = calls(400)[::2]
    codec = codec_for(every_other)
    out = np.empty(codec.bound_bytes, np.uint8)
    assert np.array_equal(decode(codec, ChunkEncoder(codec).encode(every_other, out), out)[:200], every_other)


def test_read_only_rows_and_a_larger_buffer_will_do(calls: Calls) -> None:
    array = calls(10)
    array.flags.writeable = False
    codec = codec_for(array)
    out = np.full(codec.bound_bytes + 5, 7, np.uint8)
    ChunkEncoder(codec).encode(array, out)
    assert list(out[-5:]) == [7] * 5


def test_what_does_not_fit_is_refused(calls: Calls) -> None:
    array = calls(10_000)
    codec = codec_for(array)
    out = np.empty(codec.bound_bytes, np.uint8)
    with pytest.raises(SinkError, match="chunks hold 1 to"):
        ChunkEncoder(codec).encode(array, out)
    with pytest.raises(SinkError, match="chunks hold 1 to"):
        ChunkEncoder(codec).encode(array[:0], out)
    with pytest.raises(SinkError, match="it needs"):
        ChunkEncoder(codec).encode(array[:10], out[:-1])
    with pytest.raises(SinkError, match="a piece of dtype float64"):
        ChunkEncoder(codec).encode(np.zeros(3), out)


def test_codec_and_chunk_travel_between_processes(calls: Calls) -> None:
    codec = codec_for(calls(1))
    assert pickle.loads(pickle.dumps(codec)) == codec
    chunk = ChunkEncoder(codec).encode(calls(1), np.empty(codec.bound_bytes, np.uint8))
    assert pickle.loads(pickle.dumps(chunk)) == chunk


@pytest.mark.parametrize("recipe", deflate.RECIPES)
@pytest.mark.parametrize("make", [deflate._with_isal, deflate._with_zlib])
def test_every_recipe_makes_a_zlib_stream(recipe: deflate.Recipe, make: Callable, calls: Calls) -> None:
    try:
        compress = make()
    except ImportError:
        pytest.skip("isal is not to be had on this platform")
    data = calls(5000).view(np.uint8)
    assert zlib.decompress(compress(data, recipe.window_bits)) == data.tobytes()


def test_an_unknown_compression_is_refused_with_the_list_of_those_there_are() -> None:
    with pytest.raises(SinkError, match="choose one of none, gzip, lzf, zstd, blosc2"):
        compression_named("snappy")


def test_a_missing_plugin_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "hdf5plugin", None)
    with pytest.raises(SinkError, match=r"pip install 'shmlease\[hdf5plugin\]'"):
        compression_named("zstd")


@pytest.mark.parametrize("itemsize", [1, 2, 3, 8, 15, 16, 17, 26, 32, 33, 100])
@pytest.mark.parametrize("counts", [(1,), (16,), (5, 40, 3), (100, 0, 17), (64, 64)])
def test_planes_are_those_of_numpy(itemsize: int, counts: tuple[int, ...]) -> None:
    random = np.random.default_rng(itemsize)
    parts = [random.integers(0, 256, count * itemsize, np.uint8) for count in counts]
    room = sum(counts) + 7
    out = np.full(room * itemsize, 0xAA, np.uint8)
    shuffle(parts, itemsize, out)
    expected = np.zeros((room, itemsize), np.uint8)
    expected[: sum(counts)] = np.concatenate(parts).reshape(-1, itemsize)
    assert out.tobytes() == expected.T.tobytes()
