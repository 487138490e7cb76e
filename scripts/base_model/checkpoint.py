"""Read a TensorFlow checkpoint ("tensor bundle") without TensorFlow.

A bundle is a LevelDB table (``variables.index``: sorted keys, each value a BundleEntryProto) beside one flat data file.
Only what this one format needs is here: uncompressed blocks, one shard, float32 tensors.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE_MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
DT_FLOAT = 1


class CheckpointError(Exception):
    """The checkpoint is not one that this reader understands."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in the data file."""

    dtype: int
    shape: tuple[int, ...]
    offset: int
    size: int


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (number, value) pairs of a protobuf message: varints and fixed32 as int, the rest as bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif kind == 2:
            length, at = _varint(message, at)
            yield tag >> 3, message[at : at + length]
            at += length
        elif kind == 5:
            yield tag >> 3, struct.unpack_from("<I", message, at)[0]
            at += 4
        else:
            raise CheckpointError(f"protobuf wire type {kind} has no place in a bundle entry")


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The (key, value) pairs of one LevelDB block; keys share prefixes with the one before."""
    if table[offset + size] != 0:
        raise CheckpointError("compressed table blocks are not read here")
    data = table[offset : offset + size]
    (restarts,) = struct.unpack_from("<I", data, size - 4)
    end, at, key = size - 4 - 4 * restarts, 0, b""
    while at < end:
        shared, at = _varint(data, at)
        fresh, at = _varint(data, at)
        length, at = _varint(data, at)
        key = key[:shared] + data[at : at + fresh]
        at += fresh
        yield key, data[at : at + length]
        at += length


def _handle(data: bytes, at: int = 0) -> tuple[int, int, int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return offset, size, at


def _entry(message: bytes) -> Entry:
    dtype = offset = size = 0
    shape: tuple[int, ...] = ()
    for number, value in _fields(message):
        if isinstance(value, bytes):
            if number == 2:
                dims = [dict(_fields(dim)) for tag, dim in _fields(value) if tag == 2 and isinstance(dim, bytes)]
                shape = tuple(int(dim.get(1, 0)) for dim in dims)
        elif number == 1:
            dtype = value
        elif number == 4:
            offset = value
        elif number == 5:
            size = value
    return Entry(dtype, shape, offset, size)


def read_checkpoint(table: bytes, data: bytes) -> dict[str, np.ndarray]:
    """Every float32 tensor of a checkpoint, by its key, from its ``.index`` table and its only data shard.

    Raises:
        CheckpointError: the table is no table, is compressed, or an entry does not fit its tensor.
    """
    footer = table[-FOOTER_BYTES:]
    if len(footer) != FOOTER_BYTES or struct.unpack_from("<Q", footer, 40)[0] != TABLE_MAGIC:
        raise CheckpointError("the index is not a LevelDB table")
    _, _, at = _handle(footer)
    index_offset, index_size, _ = _handle(footer, at)
    tensors: dict[str, np.ndarray] = {}
    for _, handle in _block(table, index_offset, index_size):
        offset, size, _ = _handle(handle)
        for key, value in _block(table, offset, size):
            entry = _entry(value)
            if not key or entry.dtype != DT_FLOAT:
                continue  # the header, and strings such as the object graph
            if entry.size != 4 * int(np.prod(entry.shape)):
                raise CheckpointError(f"{key.decode()}: {entry.size} bytes for shape {entry.shape}")
            raw = np.frombuffer(data, dtype="<f4", count=entry.size // 4, offset=entry.offset)
            tensors[key.decode()] = raw.reshape(entry.shape).astype(np.float32)
    return tensors
