"""Vectors of segments in blobs of at most a megabyte; a blob is never changed but to leave out what must be forgotten.

A row a vector would cost ten seconds for 50,000 of them; a blob holds some thousand and is read at the disk's speed. Removing a
clip rewrites the blobs that hold its rows in the same transaction, so its vectors are gone and not merely marked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from earmark_client.store.blocks import DTYPES, Block, bytes_to_ids, ids_to_bytes
from earmark_client.store.clips import ClipStore
from earmark_shared.errors import NotInLibraryError, TamperedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from earmark_client.store.blocks import Rows

BLOB_BYTES = 1 << 20


class VectorStore(ClipStore):
    """Segments together with their vectors, which are added and forgotten together."""

    def add_segments(
        self,
        clip_ids: Sequence[int] | NDArray[np.int64],
        starts_s: Sequence[float] | NDArray[np.float64],
        ends_s: Sequence[float] | NDArray[np.float64],
        *,
        model_version: str,
        vectors: Mapping[str, Rows],
        beside: bool = False,
    ) -> NDArray[np.int64]:
        """Store n segments, of one clip or of many, and their vectors: kind -> (n, dim) rows, or (int8 rows, (n,) scales).

        Gives their ids (n,) int64, ascending. Aim at 500 segments a call: each call makes its own blobs. Segments that are made
        `beside` those of a clip that is searchable are seen by nobody until `finish_describing`.
        """
        model = self.model_id(model_version) * (-1 if beside else 1)
        last = int(self._one("SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'all_segments'", ())[0])
        ids = np.arange(last + 1, last + 1 + len(clip_ids), dtype=np.int64)
        rows = zip(ids.tolist(), map(int, clip_ids), map(float, starts_s), map(float, ends_s), [model] * len(ids), strict=True)
        self._write_many("INSERT INTO all_segments (id, clip_id, start_s, end_s, model) VALUES", rows)
        self.add_vectors(ids, model_version=model_version, vectors=vectors)
        return ids

    def add_vectors(self, ids: NDArray[np.int64], *, model_version: str, vectors: Mapping[str, Rows]) -> None:
        """Store vectors for segments that exist (ascending ids), such as those of a second model."""
        for kind, stored in vectors.items():
            rows, scales = stored if isinstance(stored, tuple) else (stored, None)
            _check(kind, ids, rows, scales)
            size = max(1, BLOB_BYTES // (rows.shape[1] * rows.itemsize))
            for start in range(0, len(ids), size):
                part = slice(start, start + size)
                self._insert_blob(kind, model_version, Block(ids[part], rows[part], None if scales is None else scales[part]))

    def delete_vectors(self, model_version: str, kind: str | None = None) -> None:
        """Forget a model's vectors, all kinds or one."""
        self._write("DELETE FROM vector_blobs WHERE model_version = ? AND ifnull(kind = ?, 1)", (model_version, kind))

    def model_versions(self) -> list[str]:
        """The models whose vectors are stored, oldest first."""
        return [row[0] for row in self._all("SELECT model_version FROM vector_blobs GROUP BY model_version ORDER BY min(id)")]

    def blocks(self, kind: str, model_version: str, *, pending: bool = False) -> Iterator[Block]:
        """The stored vectors of a kind in ascending order of id, about a megabyte at a time; of pending clips only if asked."""
        hidden = np.empty(0, np.int64) if pending else self._pending_segments()
        for blob_id in self._blob_ids(kind, model_version):
            block = self._blob(blob_id)
            if block is None:
                continue
            if len(hidden) and block.ids[0] <= hidden[-1] and hidden[0] <= block.ids[-1]:
                block = block.take(~np.isin(block.ids, hidden))
            if len(block.ids):
                yield block

    def fetch(self, kind: str, model_version: str, ids: NDArray[np.int64]) -> Block:
        """The stored vectors of these segments, in this order; NotInLibraryError if one has none."""
        wanted = _distinct(ids)
        ranges = self._all(
            "SELECT id, first_id, last_id FROM vector_blobs WHERE kind = ? AND model_version = ? AND last_id >= ? AND first_id <= ?",
            (kind, model_version, int(wanted[0]), int(wanted[-1])) if len(wanted) else (kind, model_version, 1, 0),
        )
        found = []
        for blob_id, first_id, last_id in ranges:
            if np.searchsorted(wanted, first_id) == np.searchsorted(wanted, last_id, side="right"):
                continue
            block = self._blob(blob_id)
            if block is not None:
                found.append(block.take(np.isin(block.ids, wanted)))
        return _join(found, ids)

    def vector_ids(self, kind: str, model_version: str) -> NDArray[np.int64]:
        """Segments that have a vector of this kind and model, pending or ready, ascending: `(n,)`. Reads no vector."""
        rows = self._all(
            "SELECT first_id, rows, ids FROM vector_blobs WHERE kind = ? AND model_version = ?", (kind, model_version)
        )
        found = [bytes_to_ids(ids, first_id, count) for first_id, count, ids in rows]
        return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)

    def remove_clip(self, clip_id: int) -> None:
        """Forget a clip: row, paths, segments, vectors, words, labels, corrections; NotInLibraryError if there is none."""
        self.clip(clip_id)
        self.remove_clips((clip_id,))

    def remove_clips(self, clip_ids: Collection[int]) -> None:
        """Forget many clips that exist; each blob that holds something of them is written anew once."""
        self._forget_segments(clip_ids)
        for clip_id in clip_ids:
            self._write("DELETE FROM words WHERE rowid = ?", (clip_id,))
            self._write("DELETE FROM clips WHERE id = ?", (clip_id,))

    def forget_described(self, clip_id: int, version: str) -> None:
        """Forget what was made beside of a clip, segments and vectors."""
        self._forget_segments((clip_id,), -self.model_id(version))

    def forget_model(self, version: str) -> None:
        """Forget a model that is not in force: its segments, its vectors, and that there was one."""
        model = self.model_id(version)
        self.delete_vectors(version)
        self._write("DELETE FROM all_segments WHERE model IN (?, ?)", (model, -model))
        self._write("DELETE FROM described WHERE model = ?", (model,))
        self._write("DELETE FROM models WHERE id = ?", (model,))

    def rename_model(self, version: str, new: str) -> None:
        """Let all that a model made be another's, but for vectors, which have their own name on them; one that hears alike."""
        self._write("UPDATE models SET version = ? WHERE version = ?", (new, version))
        self._write("UPDATE clips SET model_version = ? WHERE model_version = ?", (new, version))
        taught = (
            "UPDATE label_list SET model_version = ? WHERE substr(model_version, 1, instr(model_version || '+', '+') - 1) = ?"
        )
        self._write(taught, (new, version))

    def _forget_segments(self, clip_ids: Collection[int], model: int | None = None) -> None:
        """Forget clips' segments and their vectors: of all models, or of one."""
        where = "FROM all_segments WHERE clip_id = ? AND ifnull(model = ?, 1)"
        found = [row[0] for clip_id in clip_ids for row in self._all("SELECT id " + where, (clip_id, model))]
        gone = np.sort(np.array(found, np.int64))
        if len(gone):
            touched = self._all(
                "SELECT id, first_id, rows, ids FROM vector_blobs WHERE last_id >= ? AND first_id <= ?",
                (int(gone[0]), int(gone[-1])),
            )
            for blob_id, first_id, rows, ids in touched:
                if np.isin(bytes_to_ids(ids, first_id, rows), gone).any():
                    self._rewrite_blob(blob_id, gone)
        for clip_id in clip_ids:
            self._write("DELETE " + where, (clip_id, model))

    def _rewrite_blob(self, blob_id: int, gone: NDArray[np.int64]) -> None:
        kind, model_version = self._one("SELECT kind, model_version FROM vector_blobs WHERE id = ?", (blob_id,))
        block = self._blob(blob_id)
        self._write("DELETE FROM vector_blobs WHERE id = ?", (blob_id,))
        if block is not None:
            kept = block.take(~np.isin(block.ids, gone))
            if len(kept.ids):
                self._insert_blob(kind, model_version, kept)

    def _insert_blob(self, kind: str, model_version: str, block: Block) -> None:
        ids, rows = block.ids, np.ascontiguousarray(block.rows)
        scales = None if block.scales is None else block.scales.astype("<f4").tobytes()
        self._write(
            "INSERT INTO vector_blobs (kind, model_version, first_id, last_id, rows, dim, dtype, ids, scales, data)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                kind,
                model_version,
                int(ids[0]),
                int(ids[-1]),
                len(ids),
                rows.shape[1],
                rows.dtype.name,
                ids_to_bytes(ids),
                scales,
                rows.data if rows.size else b"",
            ),
        )

    def _blob_ids(self, kind: str, model_version: str) -> list[int]:
        rows = self._all(
            "SELECT id FROM vector_blobs WHERE kind = ? AND model_version = ? ORDER BY first_id", (kind, model_version)
        )
        return [row[0] for row in rows]

    def _blob(self, blob_id: int) -> Block | None:
        row = self._first("SELECT first_id, rows, dim, dtype, ids, scales, data FROM vector_blobs WHERE id = ?", (blob_id,))
        if row is None:  # a writer rewrote it since its id was read
            return None
        first_id, rows, dim, dtype, ids, scales, data = row
        if dtype not in DTYPES or len(data) != rows * dim * np.dtype(dtype).itemsize:
            raise TamperedError
        values = np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<")).reshape(rows, dim)
        return Block(bytes_to_ids(ids, first_id, rows), values, None if scales is None else np.frombuffer(scales, "<f4"))

    def _pending_segments(self) -> NDArray[np.int64]:
        rows = self._all(
            "SELECT s.id FROM clips c JOIN all_segments s ON s.clip_id = c.id WHERE c.state = 'pending'"
            " UNION SELECT id FROM all_segments WHERE model < 0 ORDER BY 1"
        )
        return np.array([row[0] for row in rows], np.int64)


def _check(kind: str, ids: NDArray[np.int64], rows: NDArray[Any], scales: NDArray[np.float32] | None) -> None:
    if rows.ndim != 2 or len(rows) != len(ids) or rows.dtype.name not in DTYPES:
        raise ValueError(f"{kind}: {len(ids)} segments need ({len(ids)}, dim) rows of {DTYPES}, not {rows.shape} {rows.dtype}")
    if (scales is not None and scales.shape != ids.shape) or (scales is None) == (rows.dtype == np.int8):
        raise ValueError(f"{kind}: int8 rows, and only those, come with one scale a row")
    if not np.isfinite(rows if scales is None else scales).all():
        raise ValueError(f"{kind}: vectors must be finite")


def _distinct(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ascending, each once: np.unique would import numpy.ma, a twentieth of a cold search."""
    ordered = np.sort(ids)
    distinct: NDArray[np.int64] = ordered[np.concatenate([np.ones(min(1, len(ids)), bool), ordered[1:] != ordered[:-1]])]
    return distinct


def _join(found: list[Block], ids: NDArray[np.int64]) -> Block:
    if not found and len(ids) == 0:
        return Block(ids, np.empty((0, 0), np.float32))
    stored = np.concatenate([block.ids for block in found]) if found else np.empty(0, np.int64)
    order = np.argsort(stored)
    at = np.searchsorted(stored, ids, sorter=order)
    if not len(stored) or (at >= len(stored)).any() or (stored[order[at]] != ids).any():
        raise NotInLibraryError("A segment has no stored vector.")
    rows = np.concatenate([block.rows for block in found])
    scales = [block.scales for block in found if block.scales is not None]
    return Block(stored, rows, np.concatenate(scales) if scales else None).take(order[at])
