"""Vectors in memory: fixed chunks that are filled and never moved, so that growing never needs the old copy and the new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from earmark_client.store.blocks import Block, store_float16, store_int8, to_float32

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CHUNK_ROWS = 65_536
"""Rows of a chunk of float32, which small libraries hold."""
LARGE_CHUNK_ROWS = 262_144
"""Rows of a chunk of float16 or int8: rows are gathered chunk by chunk, and each search gathers three times."""


class Chunks:
    """Rows (n, dim) of one dtype: float32, or float16 or int8 with a float32 scale a row. Positions count from 0 and never change."""

    def __init__(self, dim: int, dtype: str) -> None:
        """Begin empty; `dim` is the vectors' length."""
        self.dim, self.dtype = dim, dtype
        self._chunk_rows = CHUNK_ROWS if dtype == "float32" else LARGE_CHUNK_ROWS
        self._rows: list[NDArray[Any]] = []
        self._scales: list[NDArray[np.float32]] = []
        self._length = 0

    def __len__(self) -> int:
        """How many rows there are."""
        return self._length

    def append(self, block: Block) -> None:
        """Copy a block's rows behind the others, converting where it was stored in another way."""
        block = self._convert(block)
        start = 0
        while start < len(block.ids):
            chunk, at = divmod(self._length, self._chunk_rows)
            if chunk == len(self._rows):
                # The system hands out memory when it is touched: a chunk that is a tenth full takes a tenth.
                self._rows.append(np.empty((self._chunk_rows, self.dim), self.dtype))
                self._scales.append(np.ones(0 if self.dtype == "float32" else self._chunk_rows, np.float32))
            count = min(self._chunk_rows - at, len(block.ids) - start)
            self._rows[chunk][at : at + count] = block.rows[start : start + count]
            if block.scales is not None:
                self._scales[chunk][at : at + count] = block.scales[start : start + count]
            self._length += count
            start += count

    def parts(self, rows: int = CHUNK_ROWS) -> Iterator[NDArray[np.float32]]:
        """All rows in order as float32, at most `rows` at a time (and never across a chunk's end); float32 ones are not copied."""
        for start in range(0, self._length, self._chunk_rows):
            stop = min(start + self._chunk_rows, self._length)
            for low in range(start, stop, rows):
                yield self.span(low, min(low + rows, stop))

    def gather(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The rows at these positions, (n, dim) float32."""
        if (positions[1:] < positions[:-1]).any():
            order = np.argsort(positions, kind="stable")
            back = np.empty(len(order), np.int64)
            back[order] = np.arange(len(order))
            return self.gather(positions[order])[back]
        rows = np.empty((len(positions), self.dim), self.dtype)
        scales = None if self.dtype == "float32" else np.empty(len(positions), np.float32)
        cuts = np.searchsorted(positions, np.arange(len(self._rows) + 1) * self._chunk_rows)
        for chunk in np.flatnonzero(np.diff(cuts)):
            here = slice(cuts[chunk], cuts[chunk + 1])
            at = positions[here] - chunk * self._chunk_rows
            # "clip" spares take a copy of its answer; positions are within bounds.
            np.take(self._rows[chunk], at, axis=0, out=rows[here], mode="clip")
            if scales is not None:
                np.take(self._scales[chunk], at, out=scales[here], mode="clip")
        return rows if scales is None else to_float32(rows, scales)

    def span(self, low: int, high: int) -> NDArray[np.float32]:
        """The rows from `low` up to `high` as float32; both in one chunk."""
        chunk, at = divmod(low, self._chunk_rows)
        part = slice(at, at + high - low)
        rows = self._rows[chunk][part]
        if self.dtype == "float32":
            return rows
        return to_float32(rows, self._scales[chunk][part])

    def _convert(self, block: Block) -> Block:
        if block.rows.shape[1] != self.dim:
            raise ValueError(f"vectors of {block.rows.shape[1]} numbers in an index of {self.dim}")
        if block.rows.dtype.name == self.dtype:
            return block
        if self.dtype == "float32":
            return Block(block.ids, block.float32())
        return (store_float16 if self.dtype == "float16" else store_int8)(block.ids, block.float32())
