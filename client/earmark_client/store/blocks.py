"""Rows of vectors as they are stored, and what they are as float32: each way of storing beside its inverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from earmark_shared.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows: TypeAlias = NDArray[Any] | tuple[NDArray[np.int8], NDArray[np.float32]]
DTYPES = ("float16", "float32", "int8")
FLOAT16_BITS = np.array(0x8FFFE000, np.uint32).view(np.int32)


@dataclass(frozen=True)
class Block:
    """Vectors of some segments: `ids` (n,) int64, `rows` (n, dim) as stored, `scales` (n,) float32: int8 rows have them, others may."""

    ids: NDArray[np.int64]
    rows: NDArray[Any]
    scales: NDArray[np.float32] | None = None

    def float32(self) -> NDArray[np.float32]:
        """The vectors, (n, dim) float32: the inverse of `store_int8`, and of a rounding to float16."""
        return to_float32(self.rows, self.scales)

    def int8(self) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Whole numbers and their scales, which is how encoder outputs are stored; ModelError if there are no scales."""
        if self.scales is None:
            raise ModelError("The stored encoder outputs have no scales.")
        return self.rows.astype(np.int8), self.scales

    def take(self, which: NDArray[Any]) -> Block:
        """The rows that a mask or an index array names."""
        return Block(self.ids[which], self.rows[which], None if self.scales is None else self.scales[which])


def store_float16(ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> Block:
    """Round to half precision: a unit vector's inner products stay within 0.0005."""
    return Block(ids, vectors.astype(np.float16))


def store_int8(ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> Block:
    """Keep each row as whole numbers in [-127, 127] and one float32 scale, its largest magnitude / 127."""
    scales = (np.abs(vectors).max(axis=1, initial=0.0) / 127.0).astype(np.float32)
    safe = np.where(scales > 0, scales, np.float32(1.0))
    return Block(ids, np.rint(vectors / safe[:, None]).astype(np.int8), scales)


def to_float32(rows: NDArray[Any], scales: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """What stored rows stand for, (n, dim) float32."""
    vectors = _widen(rows) if rows.dtype == np.float16 else rows.astype(np.float32)
    if scales is not None:
        vectors *= scales[:, None]
    return vectors


def _widen(rows: NDArray[np.float16]) -> NDArray[np.float32]:
    """float16 -> float32 of finite numbers, exactly, four times faster than `astype`, which converts one by one.

    Sign, exponent and mantissa move to their places in a float32; the power of two makes up for the other exponent bias.
    """
    bits = rows.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= FLOAT16_BITS
    vectors = bits.view(np.float32)
    vectors *= np.float32(2.0**112)
    return vectors


def slots_of(ids: NDArray[np.int64], known: NDArray[np.int64], order: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Where `ids` stand, or would stand, among `known` (n > 0), which ascends or does so by `order`: `(ids,)` in [0, n).

    Ids are given out one after another, so that most stand where counting from the first puts them: no need to look for those.
    """
    if order is None:
        counted: NDArray[np.int64] = np.minimum(np.maximum(ids - known[0], 0), len(known) - 1)
        if (known[counted] == ids).all():
            return counted
    return np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)


def ids_to_bytes(ids: NDArray[np.int64]) -> bytes | None:
    """Ascending ids as bytes, or None if they are an unbroken run, which its first id says."""
    if len(ids) and ids[-1] - ids[0] + 1 == len(ids):
        return None
    return ids.astype("<i8").tobytes()


def bytes_to_ids(stored: bytes | None, first_id: int, rows: int) -> NDArray[np.int64]:
    """The inverse of `ids_to_bytes`."""
    if stored is None:
        return np.arange(first_id, first_id + rows, dtype=np.int64)
    return np.frombuffer(stored, dtype="<i8")
