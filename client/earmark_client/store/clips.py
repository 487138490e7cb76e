"""Clips, the paths they were found at, and their segments' times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from earmark_client.records import Clip
from earmark_client.store.connection import Connection
from earmark_client.store.rows import ClipRow, Counts, SegmentTable, StoredClip
from earmark_shared.errors import NotInLibraryError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

CLIP_COLUMNS = "id, content_sha256, duration_s, sample_rate_hz, channels, added_at_s, recorded_at_s"


class ClipStore(Connection):
    """The half of the database that is about sound files; vectors are in `blobs.py`."""

    def insert_clip(self, clip: ClipRow, path: str) -> int:
        """Begin a clip; it is pending, which search doesn't see, until `finish_clip`."""
        cursor = self._write(
            "INSERT INTO clips (content_sha256, duration_s, sample_rate_hz, channels, size_bytes, added_at_s, recorded_at_s,"
            " model_version, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending')",
            (
                clip.content_sha256,
                clip.duration_s,
                clip.sample_rate_hz,
                clip.channels,
                clip.size_bytes,
                clip.added_at_s,
                clip.recorded_at_s,
                clip.model_version,
            ),
        )
        clip_id = int(cursor.lastrowid or 0)
        self.add_path(clip_id, path)
        return clip_id

    def finish_clip(self, clip_id: int, *, duration_s: float, names: str = "") -> None:
        """Make a clip searchable, in the transaction that stored its last segments; `names` are its path's words."""
        version = self._one("SELECT model_version FROM clips WHERE id = ?", (clip_id,))[0]
        self._write("UPDATE clips SET state = 'ready', duration_s = ? WHERE id = ?", (duration_s, clip_id))
        self._write("INSERT OR IGNORE INTO described (clip_id, model) VALUES (?, ?)", (clip_id, self.model_id(version)))
        self._write("INSERT OR REPLACE INTO words (rowid, names, corrections) VALUES (?, ?, '')", (clip_id, names))

    def set_recorded_at(self, clip_id: int, recorded_at_s: float) -> None:
        """Take over another date of the clip's file (Unix time)."""
        self._write("UPDATE clips SET recorded_at_s = ? WHERE id = ?", (recorded_at_s, clip_id))

    def clip_by_hash(self, content_sha256: str) -> StoredClip | None:
        """The clip with these file bytes, pending or ready."""
        row = self._first("SELECT id, state, model_version FROM clips WHERE content_sha256 = ?", (content_sha256,))
        if row is None:
            return None
        return StoredClip(row[0], row[1] == "ready", self.stored_until_s(row[0]), row[2])

    def pending_clips(self) -> list[tuple[StoredClip, str]]:
        """Clips that a crash or Ctrl-C left unfinished, each with a path to go on from."""
        rows = self._all(
            "SELECT c.id, c.model_version, min(p.path) FROM clips c LEFT JOIN clip_paths p ON p.clip_id = c.id"
            " WHERE c.state = 'pending' GROUP BY c.id ORDER BY c.id"
        )
        return [(StoredClip(row[0], False, self.stored_until_s(row[0]), row[1]), row[2] or "") for row in rows]

    def stored_until_s(self, clip_id: int) -> float:
        """The end of the clip's last stored segment, 0 if it has none."""
        return float(self._one("SELECT ifnull(max(end_s), 0.0) FROM all_segments WHERE clip_id = ?", (clip_id,))[0])

    def model_in_force(self) -> str | None:
        """The version of the model whose segments are searched; None before the first clip."""
        row = self._first(
            "SELECT version FROM models WHERE id = ifnull((SELECT value FROM meta WHERE key = 'model_in_force'), 1)", ()
        )
        return None if row is None else str(row[0])

    def set_model_in_force(self, version: str) -> None:
        """Let this model's segments be the ones that are searched, and no others."""
        self._write("INSERT OR REPLACE INTO meta VALUES ('model_in_force', ?)", (self.model_id(version),))

    def model_id(self, version: str) -> int:
        """The number that a model's segments carry; a new one for a model that is not known."""
        known = self._known_model(version)
        return known or int(self._write("INSERT INTO models (version) VALUES (?)", (version,)).lastrowid or 0)

    def _known_model(self, version: str) -> int:
        row = self._first("SELECT id FROM models WHERE version = ?", (version,))
        return 0 if row is None else int(row[0])

    def all_models(self) -> list[str]:
        """The versions of all models that ever described a clip here and were not forgotten."""
        return [row[0] for row in self._all("SELECT version FROM models ORDER BY id")]

    def described_clips(self, version: str) -> set[int]:
        """The clips whose segments this model has made, all of them."""
        return {row[0] for row in self._all("SELECT clip_id FROM described WHERE model = ?", (self._known_model(version),))}

    def unheard(self, version: str) -> int:
        """How many searchable clips this model has not described."""
        statement = (
            "SELECT count(*) FROM clips WHERE state = 'ready' AND id NOT IN (SELECT clip_id FROM described WHERE model = ?)"
        )
        return int(self._one(statement, (self._known_model(version),))[0])

    def is_described(self, clip_id: int, version: str) -> bool:
        """Whether this model has made all segments of a clip."""
        values = (clip_id, self._known_model(version))
        return self._first("SELECT 1 FROM described WHERE clip_id = ? AND model = ?", values) is not None

    def described_until_s(self, clip_id: int, version: str) -> float:
        """The end of the last segment that was made beside the ones in force, 0 if there is none."""
        statement = "SELECT ifnull(max(end_s), 0.0) FROM all_segments WHERE clip_id = ? AND model = ?"
        return float(self._one(statement, (clip_id, -self._known_model(version)))[0])

    def finish_describing(self, clip_id: int, version: str) -> None:
        """A clip's segments that were made beside are complete: they are this model's."""
        model = self.model_id(version)
        self._write("UPDATE all_segments SET model = ? WHERE clip_id = ? AND model = ?", (model, clip_id, -model))
        self._write("INSERT OR IGNORE INTO described (clip_id, model) VALUES (?, ?)", (clip_id, model))

    def add_path(self, clip_id: int, path: str) -> None:
        """Note that the clip's file lies at `path`; what lay there before is no longer there."""
        self._write(
            "INSERT INTO clip_paths (path, clip_id) VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET clip_id = excluded.clip_id",
            (path, clip_id),
        )

    def remove_path(self, path: str) -> None:
        """Forget a path; the clip stays."""
        self._write("DELETE FROM clip_paths WHERE path = ?", (path,))

    def clip_by_path(self, path: str) -> int | None:
        """The id of the clip at `path`, or None."""
        row = self._first("SELECT clip_id FROM clip_paths WHERE path = ?", (path,))
        return None if row is None else int(row[0])

    def paths_at(self, path: str) -> dict[int, set[str]]:
        """The clip at `path`, with this path; nothing if there is none."""
        clip_id = self.clip_by_path(path)
        return {} if clip_id is None else {clip_id: {path}}

    def paths_below(self, folder: str) -> dict[int, set[str]]:
        """The clips below `folder` at any depth, pending or ready, by id, each with its paths there."""
        found: dict[int, set[str]] = {}
        statement = "SELECT clip_id, path FROM clip_paths WHERE path >= ? AND path < ? ORDER BY clip_id"
        for clip_id, path in self._all(statement, _below(folder)):
            found.setdefault(clip_id, set()).add(path)
        return found

    def clip(self, clip_id: int) -> Clip:
        """One clip, pending or ready; NotInLibraryError."""
        return self.clips_by_id((clip_id,))[clip_id]

    def clips_by_id(self, clip_ids: Collection[int]) -> dict[int, Clip]:
        """These clips (at most some thousand), pending or ready, by id; NotInLibraryError."""
        # One statement for both tables: in an encrypted database its beginning and end cost more than its rows.
        columns = ", ".join(f"c.{name}" for name in CLIP_COLUMNS.split(", "))
        rows = self._all(
            f"SELECT p.path, {columns} FROM clips c LEFT JOIN clip_paths p ON p.clip_id = c.id"  # noqa: S608  (constants)
            f" WHERE c.id IN ({', '.join('?' * len(clip_ids))}) ORDER BY p.path",
            (*clip_ids,),
        )
        paths: dict[int, list[str]] = {}
        for path, clip_id, *_ in rows:
            paths.setdefault(clip_id, []).extend([] if path is None else [path])
        clips = {row[1]: _clip(row[1:], paths[row[1]]) for row in rows}
        for missing in set(clip_ids) - clips.keys():
            raise NotInLibraryError(f"There is no clip {missing}.", hint="`earmark list` shows what there is.")
        return clips

    def clips(
        self, *, folder: str | None = None, after_s: float | None = None, before_s: float | None = None, label: str | None = None
    ) -> list[Clip]:
        """The searchable clips that pass every filter given, by id."""
        wanted = self.clip_ids(folder=folder, after_s=after_s, before_s=before_s, label=label)
        paths: dict[int, list[str]] = {}
        for clip_id, path in self._all("SELECT clip_id, path FROM clip_paths ORDER BY path"):
            paths.setdefault(clip_id, []).append(path)
        chosen = set(wanted.tolist())
        rows = self._all(f"SELECT {CLIP_COLUMNS} FROM clips WHERE state = 'ready' ORDER BY id")  # noqa: S608  (constants only)
        return [_clip(row, paths.get(row[0], ())) for row in rows if row[0] in chosen]

    def clip_ids(
        self, *, folder: str | None = None, after_s: float | None = None, before_s: float | None = None, label: str | None = None
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Ids of the clips that `clips` would give, and of pending ones, (n,) int64: what an interrupted `add` left is forgotten too.

        `folder` holds what is below it at any depth; the dates bound `recorded_at_s` (Unix time; `before_s` itself is not before); `label`
        is a predicted name that nobody denied for the whole clip, or one that somebody affirmed, of a moment too, and nobody denied since.
        """
        where: list[str] = []
        values: list[str | float] = []
        if folder is not None:
            where.append("id IN (SELECT clip_id FROM clip_paths WHERE path >= ? AND path < ?)")
            values += _below(folder)
        if after_s is not None:
            where.append("recorded_at_s >= ?")
            values.append(after_s)
        if before_s is not None:
            where.append("recorded_at_s < ?")
            values.append(before_s)
        if label is not None:
            where.append(
                "id IN (SELECT clip_id FROM clip_labels WHERE name = ? EXCEPT SELECT clip_id FROM corrections WHERE name = ?"
                " AND NOT is_present AND segment_id IS NULL UNION SELECT yes.clip_id FROM corrections yes WHERE yes.name = ?"
                " AND yes.is_present AND NOT EXISTS (SELECT 1 FROM corrections no WHERE no.clip_id = yes.clip_id AND no.name = yes.name"
                " AND NOT no.is_present AND no.segment_id IS NULL AND no.id > yes.id))"
            )
            values += [label] * 3
        rows = self._all(f"SELECT id FROM clips WHERE {' AND '.join(where) or '1'} ORDER BY id", values)  # noqa: S608  (constants only)
        return np.array([row[0] for row in rows], dtype=np.int64)

    def counts(self) -> Counts:
        """How much the library holds."""
        ready = self._one(
            "SELECT count(*), ifnull(sum(duration_s), 0.0), ifnull(sum(size_bytes), 0) FROM clips WHERE state = 'ready'"
        )
        pending = self._one("SELECT count(*) FROM clips WHERE state = 'pending'")[0]
        segments = self._one("SELECT count(*) FROM segments")[0]
        return Counts(ready[0], pending, segments, ready[1], ready[2])

    def segments(self, model_version: str | None = None) -> SegmentTable:
        """Every segment of the model in force, or of another, that is searchable; a million take about a second."""
        pending = self._all("SELECT id FROM clips WHERE state = 'pending'")
        source = "segments" if model_version is None else "all_segments WHERE model = ?"
        values = () if model_version is None else (self._known_model(model_version),)
        table = self._segment_table(f"SELECT id, clip_id, start_s, end_s FROM {source} ORDER BY id", values)  # noqa: S608  (constants)
        if not pending:
            return table
        keep = ~np.isin(table.clip_ids, [row[0] for row in pending])
        return SegmentTable(table.ids[keep], table.clip_ids[keep], table.start_s[keep], table.end_s[keep])

    def segments_of(self, clip_id: int) -> SegmentTable:
        """The segments that the model in force made of one clip, pending or ready."""
        return self._segment_table("SELECT id, clip_id, start_s, end_s FROM segments WHERE clip_id = ? ORDER BY id", (clip_id,))

    def _segment_table(self, statement: str, values: tuple[int, ...]) -> SegmentTable:
        cursor = self._sql(statement, values)
        kind = np.dtype([("id", "<i8"), ("clip", "<i8"), ("start", "<f8"), ("end", "<f8")])
        parts = [np.empty(0, kind)]
        while rows := self._fetch(cursor):
            parts.append(np.array(rows, dtype=kind))
        table = np.concatenate(parts)
        return SegmentTable(table["id"].copy(), table["clip"].copy(), table["start"].copy(), table["end"].copy())


def _below(folder: str) -> tuple[str, str]:
    """What is below a folder as a range of paths; '0' follows '/' in ASCII, and a pattern would be changed by a path's own %."""
    start = folder.rstrip("/") + "/"
    return start, start[:-1] + "0"


def _clip(row: tuple[Any, ...], paths: Iterable[str]) -> Clip:
    clip_id, sha, duration_s, rate, channels, added_at_s, recorded_at_s = row
    return Clip(clip_id, sha, tuple(paths), duration_s, rate, channels, added_at_s, recorded_at_s)
