"""The index in memory: which stored vectors have the largest inner product with a query. FAISS is used here and nowhere else.

Up to 50,000 vectors every one is scored with numpy: exact, about as fast as FAISS, and a cold search is spared FAISS's import.
Above that a FAISS product quantizer (two bits a number) scores *all* rows in registers and the best few hundred are scored again
from the vectors as stored. Inverted lists would look at fewer rows, but a text query is not drawn like the sound vectors that
the lists were made for: its neighbours are spread over many lists, and recall falls where it matters. Nothing is trained but
each dimension's mean and spread, so the same rows always make the same index; FAISS never reads a serialized index.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from earmark_client.store.blocks import Block, slots_of
from earmark_client.store.chunks import Chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

EXACT_BELOW = 50_000
RERANKED = 400
"""Candidates that are scored again from the stored vectors: in a trial with 192 dimensions scanned, recall@10 of texts among a million was .996 with
500, .992 with 400 and .986 with 300; a hundred take a fifth of a millisecond."""
LEVELS = np.array([-1.510, -0.4528, 0.4528, 1.510], np.float32)
"""Lloyd and Max's four levels for a normal variable, in standard deviations."""
SCANNED_DIMS = 160
"""Dimensions that are scanned, those of the widest spread: a text vector's 384 share its variance nearly alike, so that half of them
can stay away; in a trial among a million, recall@10 was .993 with 192 and .991 with 160, and a scan takes less than half of what all take."""
SHARD_BLOCK = 32_768
ENCODE_ROWS = 2_048
SAMPLE_ROWS = 65_536
SCORE_STEP = np.float32(2.0**-20)
"""Scores are rounded to about 1e-6, so that equal vectors tie whatever the order in which a processor added their products."""


class VectorIndex:
    """Vectors of one kind and one model version, by segment id."""

    def __init__(self, dim: int, *, dtype: str = "float16", model_version: str = "", exact_below: int = EXACT_BELOW) -> None:
        """Begin empty; `dtype` is how rows are kept above `exact_below` rows (float16 or int8), float32 below."""
        self.dim, self.dtype, self.model_version = dim, dtype, model_version
        self._exact_below = exact_below
        self._chunks = Chunks(dim, "float32")
        self._ids = np.empty(0, np.int64)
        self._new_ids: list[NDArray[np.int64]] = []
        self._order: NDArray[np.int64] | None = None  # positions by id, where ids do not ascend
        self._alive, self._live = np.empty(0, bool), 0  # counted once, not a million a search
        self._scan: _Scan | None = None
        self._lock = threading.RLock()  # FAISS crashes if a scan meets an addition

    @classmethod
    def build(
        cls, dim: int, blocks: Iterable[Block], *, dtype: str = "float16", model_version: str = "", exact_below: int = EXACT_BELOW
    ) -> Self:
        """An index of all rows in `blocks`, read once."""
        index = cls(dim, dtype=dtype, model_version=model_version, exact_below=exact_below)
        for block in blocks:
            index._append(block)
        index._settle()
        return index

    def __len__(self) -> int:
        """How many vectors can be found."""
        return self._live

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids (n,) that can be found, in the order stored."""
        return self._ids[self._alive]

    @property
    def is_exact(self) -> bool:
        """Whether every row is scored exactly on every query."""
        return self._scan is None

    def add(self, block: Block) -> None:
        """Make more vectors findable; an id that is in the index already is a ValueError."""
        if len(self._ids) and len(block.ids) and block.ids.min() <= self._ids.max() and np.isin(block.ids, self._ids).any():
            raise ValueError("an id is in the index already")
        with self._lock:
            self._append(block)
            self._settle()

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Let vectors be found no more; ids that are not in the index are ignored."""
        with self._lock:
            self._alive &= ~np.isin(self._ids, ids)
            self._live = int(np.count_nonzero(self._alive))
            if 5 * len(self) < 4 * len(self._alive):
                self._compact()

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """For each of (q, dim) queries the k best ids (q, k) and their inner products, best first, ties by lower id.

        Where there are fewer than k vectors, the rest is id -1 and score -inf.
        """
        ids = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for row, query in enumerate(queries):
            with self._lock:
                positions, values = self._candidates(query, k)
                found = self._ids[positions]
            best = _best(values, found, k)
            ids[row, : len(best)] = found[best]
            scores[row, : len(best)] = values[best]
        return ids, scores

    def scores_all(self, query: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Every id (n,) in the order stored, and its exact inner product with `query` (dim,)."""
        with self._lock:
            return self._ids[self._alive], self._score_every_row(query)[self._alive]

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of these ids, (n, dim) float32; KeyError if one is not in the index."""
        positions = np.empty(0, np.int64)
        if len(self._ids):
            slots = slots_of(ids, self._ids, self._order)
            positions = slots if self._order is None else self._order[slots]
        if len(positions) != len(ids) or (self._ids[positions] != ids).any() or not self._alive[positions].all():
            raise KeyError("an id is not in the index")
        return self._chunks.gather(positions)

    def _candidates(self, query: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        wanted = min(len(self), max(RERANKED, k))
        asked = wanted
        while self._scan is not None and asked < len(self._ids):
            positions = self._scan.search(query, asked)
            positions = np.sort(positions[self._alive[positions]])
            if len(positions) >= wanted:
                return positions, _inner_products(self._chunks.gather(positions), query)
            asked *= 4  # removed rows took the places of others
        positions = np.nonzero(self._alive)[0]
        return positions, self._score_every_row(query)[positions]

    def _score_every_row(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = [_inner_products(part, query) for part in self._chunks.parts(SHARD_BLOCK)]
        return np.concatenate(scores)[: len(self._ids)] if scores else np.empty(0, np.float32)

    def _append(self, block: Block) -> None:
        if len(self._chunks) + len(block.ids) > self._exact_below and self._chunks.dtype == "float32":
            self._change_dtype()
        self._chunks.append(block)
        self._new_ids.append(np.asarray(block.ids, np.int64))

    def _change_dtype(self) -> None:
        chunks = Chunks(self.dim, self.dtype)
        for part in self._chunks.parts():
            chunks.append(Block(np.zeros(len(part), np.int64), part))
        self._chunks = chunks

    def _settle(self) -> None:
        self._ids = np.concatenate([self._ids, *self._new_ids])
        self._live += len(self._ids) - len(self._alive)
        self._alive = np.concatenate([self._alive, np.ones(len(self._ids) - len(self._alive), bool)])
        self._new_ids = []
        self._order = None if (self._ids[1:] > self._ids[:-1]).all() else np.argsort(self._ids, kind="stable")
        if self._chunks.dtype == "float32":
            return
        if self._scan is None:
            self._scan = _Scan(self._chunks)
        self._scan.take_in(self._chunks)

    def _compact(self) -> None:
        kept = VectorIndex(self.dim, dtype=self.dtype, model_version=self.model_version, exact_below=self._exact_below)
        start = 0
        for part in self._chunks.parts():
            alive = self._alive[start : start + len(part)]
            kept._append(Block(self._ids[start : start + len(part)][alive], part[alive]))
            start += len(part)
        kept._settle()
        self._chunks, self._scan = kept._chunks, kept._scan
        self._ids, self._order, self._alive, self._live = kept._ids, kept._order, kept._alive, kept._live


class _Scan:
    """All rows as 4-bit codes for two numbers each, in two halves that two threads scan at once."""

    def __init__(self, chunks: Chunks) -> None:
        sample = chunks.gather(np.unique(np.linspace(0, len(chunks) - 1, min(SAMPLE_ROWS, len(chunks)), dtype=np.int64)))
        self._kept = np.sort(np.argsort(-sample.std(axis=0), kind="stable")[:SCANNED_DIMS])
        levels = _levels(self._padded(sample))
        codes: tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]] = ([], [])
        for half, rows in self._parts(chunks, 0):
            codes[half].append(_encode(rows, levels))
        self._halves = _packed(levels, codes[0]), _packed(levels, codes[1])
        self._length = len(chunks)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="scan")

    def take_in(self, chunks: Chunks) -> None:
        """Encode the rows that were appended since the last time."""
        for half, rows in self._parts(chunks, self._length):
            self._halves[half].add(rows)
        self._length = len(chunks)

    def _parts(self, chunks: Chunks, start: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The rows from `start` on, each part with its half; every SHARD_BLOCK rows the other half is used."""
        while start < len(chunks):
            block, at = divmod(start, SHARD_BLOCK)
            count = min(ENCODE_ROWS, SHARD_BLOCK - at, len(chunks) - start)
            yield block % 2, self._padded(chunks.span(start, start + count))
            start += count

    def search(self, query: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Positions of about the `count` best rows, in no order."""
        padded = self._padded(query[None])
        other = self._pool.submit(_scan_half, self._halves[1], padded, count)
        scores, local = _scan_half(self._halves[0], padded, count)
        other_scores, other_local = other.result()
        positions = np.concatenate([_position(local, 0), _position(other_local, 1)])
        if len(positions) <= count:
            return positions
        best = np.argpartition(-np.concatenate([scores, other_scores]), count)[:count]
        return positions[best]

    def _padded(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The dimensions that are scanned, and zeros up to a multiple of four."""
        kept = len(self._kept)
        rows = rows if kept == rows.shape[1] else rows[:, self._kept]
        return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, -kept % 4))) if kept % 4 else rows, np.float32)


def _levels(sample: NDArray[np.float32]) -> NDArray[np.float32]:
    """The four values (dim, 4) that each dimension is rounded to."""
    mean, spread = sample.mean(axis=0, dtype=np.float64), sample.std(axis=0, dtype=np.float64)
    levels: NDArray[np.float32] = (mean[:, None] + spread[:, None] * LEVELS).astype(np.float32)
    return levels


def _encode(rows: NDArray[np.float32], levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The nearest levels' numbers, four dimensions a byte (n, dim / 4): what FAISS's own encoder gives, five times faster."""
    bounds = (levels[:, 1:] + levels[:, :-1]).T / 2
    level = (rows > bounds[0]).view(np.uint8)
    for bound in bounds[1:]:
        level += (rows > bound).view(np.uint8)
    pairs = (level[:, 0::2] << 2) + level[:, 1::2]
    codes: NDArray[np.uint8] = pairs[:, 0::2] | (pairs[:, 1::2] << 4)
    return codes


def _packed(levels: NDArray[np.float32], codes: list[NDArray[np.uint8]]) -> Any:  # noqa: ANN401  (faiss has no types)
    """A FAISS index of rows that `_encode` encoded; its centres (dim / 2, 16, 2) are every pair of two neighbours' levels."""
    import faiss

    pairs = levels.reshape(-1, 2, 4)
    centres = np.stack([np.repeat(pairs[:, 0], 4, axis=1), np.tile(pairs[:, 1], (1, 4))], axis=2)
    plain: Any = faiss.IndexPQ(len(levels), len(levels) // 2, 4, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(np.ascontiguousarray(centres).ravel(), plain.pq.centroids)
    plain.is_trained = True
    if codes:
        plain.add_sa_codes(np.concatenate(codes))
    return faiss.IndexPQFastScan(plain)


def _scan_half(half: Any, query: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:  # noqa: ANN401
    count = min(count, int(half.ntotal))
    if count == 0:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    scores, local = half.search(query, count)
    found = local[0] >= 0
    return scores[0][found], local[0][found]


def _position(local: NDArray[np.int64], half: int) -> NDArray[np.int64]:
    block, at = np.divmod(local, SHARD_BLOCK)
    return (2 * block + half) * SHARD_BLOCK + at


def _inner_products(rows: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = np.rint((rows @ query) / SCORE_STEP) * SCORE_STEP
    return scores


def _best(scores: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Indices of the k largest scores, best first, ties by lower id, also where the k-th place is tied."""
    among = np.arange(len(scores))
    if k < len(scores):
        bound = np.partition(scores, len(scores) - k)[len(scores) - k] if k else np.inf
        among = np.nonzero(scores >= bound)[0]
    return among[np.lexsort((ids[among], -scores[among]))][:k]
