"""The encrypted database: clips and vectors from the modules below, and here the words, labels and corrections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from earmark_client.records import Correction
from earmark_client.store.blobs import VectorStore
from earmark_client.store.rows import ClipRow, Counts, LabelRow, SegmentTable, StoredClip
from earmark_shared.errors import NotInLibraryError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = ["ClipRow", "Counts", "Database", "LabelRow", "SegmentTable", "StoredClip", "names_of"]


MERGED_PAGES = 1_000
"""FTS5 writes about this many pages of 4 KB in one merge: all words of 200,000 clips, in a fraction of a second."""


def names_of(paths: Iterable[str]) -> str:
    """The words by which a clip at these paths is found."""
    return " ".join(Path(path).stem for path in paths)


class Database(VectorStore):
    """One library's encrypted database; every change happens inside `with database.transaction():`."""

    def add_path(self, clip_id: int, path: str) -> None:
        """Note that the clip's file lies at `path`; what lay there before is no longer there.

        A clip whose last path that was keeps it under a name that says so: it is still below its folder, and can be forgotten with it.
        """
        before = self.clip_by_path(path)
        super().add_path(clip_id, path)
        if before is not None and before != clip_id:
            clip = self.clip(before)
            if not clip.paths:
                super().add_path(before, f"{path} (replaced {clip.content_sha256[:6]})")
            self.set_names(before)

    def forget_replaced(self) -> None:
        """Forget the clips whose files all have other content now; where people said something of one, that is theirs to do."""
        rows = self._all(
            "SELECT c.id FROM clips c LEFT JOIN clip_paths p ON p.clip_id = c.id"
            " AND p.path NOT LIKE '% (replaced ' || substr(c.content_sha256, 1, 6) || ')'"
            " WHERE p.path IS NULL AND c.id NOT IN (SELECT clip_id FROM corrections) ORDER BY c.id"
        )
        self.remove_clips([row[0] for row in rows])

    def forget_places(self, places: Mapping[int, Collection[str]]) -> int:
        """Forget paths, by clip, and the clips that lie nowhere else; returns how many clips those are."""
        elsewhere = {clip_id for clip_id, paths in places.items() if set(self.clip(clip_id).paths) - set(paths)}
        for clip_id in elsewhere:
            for path in places[clip_id]:
                self.remove_path(path)
            self.set_names(clip_id)
        gone = sorted(places.keys() - elsewhere)
        self.remove_clips(gone)
        return len(gone)

    def set_names(self, clip_id: int) -> None:
        """Replace the words of a ready clip's name by those of all its paths; what people said of it stays."""
        self._write("UPDATE words SET names = ? WHERE rowid = ?", (names_of(self.clip(clip_id).paths), clip_id))

    def set_words(self, clip_id: int, *, corrections: str) -> None:
        """Replace the words of a ready clip that people said about it; its names' words stay."""
        self._write("UPDATE words SET corrections = ? WHERE rowid = ?", (corrections, clip_id))

    def merge_words(self) -> None:
        """Merge the pieces that additions left of FTS5's index, as far as `MERGED_PAGES` go: every word is looked up in each piece."""
        self._write("INSERT INTO words (words, rank) VALUES ('merge', ?)", (-MERGED_PAGES,))

    def search_words(self, text: str, limit: int = 1000, *, also: Sequence[str] = ()) -> list[int]:
        """Clips with any of the words in `text`, and any of the words of each text in `also`: the first `limit` ids.

        Words are those of file names and of people's labels. Clips are not ranked: FTS5's BM25 looks up each match's length, a
        hundred times the work of finding it.
        """
        asked = [re.findall(r"\w+", part) for part in (text, *also)]
        if not all(asked):
            return []
        # Quoted, a word is a word: FTS5's own operators (NEAR, NOT, *) are not for a user's sentence to reach.
        any_word = (" OR ".join(f'"{word}"' for word in words) for words in asked)
        match = " AND ".join(f"({words})" for words in any_word)
        return [row[0] for row in self._all("SELECT rowid FROM words WHERE words MATCH ? LIMIT ?", (match, limit))]

    def set_labels(self, clip_id: int, labels: Sequence[tuple[str, float]], *, model_version: str) -> None:
        """Replace a clip's predicted labels (name, score in [0, 1])."""
        self._write("DELETE FROM clip_labels WHERE clip_id = ?", (clip_id,))
        self.add_labels({clip_id: labels}, model_version=model_version)

    def add_labels(self, labels: Mapping[int, Sequence[tuple[str, float]]], *, model_version: str) -> None:
        """Give clips that have none their predicted labels (name, score in [0, 1]), in a few statements."""
        self._write_many(
            "INSERT INTO clip_labels (clip_id, name, score, model_version) VALUES",
            ((clip_id, name, float(score), model_version) for clip_id, listed in labels.items() for name, score in listed),
        )

    def drop_label(self, name: str) -> None:
        """Take a predicted label off every clip; what people said of it stays."""
        self._write("DELETE FROM clip_labels WHERE name = ?", (name,))

    def labels_of(self, clip_id: int) -> list[tuple[str, float]]:
        """A clip's predicted labels, best first."""
        return self._all("SELECT name, score FROM clip_labels WHERE clip_id = ? ORDER BY score DESC, name", (clip_id,))

    def all_labels(self) -> dict[int, list[tuple[str, float]]]:
        """Every clip's predicted labels, best first."""
        labels: dict[int, list[tuple[str, float]]] = {}
        for clip_id, name, score in self._all("SELECT clip_id, name, score FROM clip_labels ORDER BY clip_id, score DESC, name"):
            labels.setdefault(clip_id, []).append((name, score))
        return labels

    def put_label(self, label: LabelRow) -> None:
        """Add a label of the user's, or replace the one of that name."""
        vector = None if label.vector is None else label.vector.astype("<f4").tobytes()
        self._write(
            "INSERT OR REPLACE INTO label_list (name, phrase, kind, model_version, threshold, vector, extra)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (label.name, label.phrase, label.kind, label.model_version, label.threshold, vector, label.extra),
        )

    def label_list(self) -> list[LabelRow]:
        """The labels that the user added or taught, by name."""
        rows = self._all("SELECT name, phrase, kind, model_version, threshold, vector, extra FROM label_list ORDER BY name")
        return [
            LabelRow(name, phrase, kind, version, threshold, None if vector is None else np.frombuffer(vector, "<f4"), extra)
            for name, phrase, kind, version, threshold, vector, extra in rows
        ]

    def remove_label(self, name: str) -> None:
        """Forget a label of the user's; NotInLibraryError if there is none."""
        if self._write("DELETE FROM label_list WHERE name = ?", (name,)).rowcount == 0:
            raise NotInLibraryError("There is no such label.", hint="`earmark labels` lists what there is.")

    def add_correction(self, correction: Correction, *, now_s: float) -> None:
        """Keep a person's yes or no; a later one about the same thing and name replaces it."""
        self._drop_correction(correction)
        self._write(
            "INSERT INTO corrections (clip_id, segment_id, name, is_present, created_at_s) VALUES (?, ?, ?, ?, ?)",
            (correction.clip_id, correction.segment_id, correction.name, int(correction.is_present), now_s),
        )
        self._set_said_words(correction.clip_id)

    def remove_correction(self, correction: Correction) -> None:
        """Forget what was said about this thing by this name."""
        self._drop_correction(correction)
        self._set_said_words(correction.clip_id)

    def _drop_correction(self, correction: Correction) -> None:
        self._write(
            "DELETE FROM corrections WHERE clip_id = ? AND segment_id IS ? AND name = ?",
            (correction.clip_id, correction.segment_id, correction.name),
        )

    def _set_said_words(self, clip_id: int) -> None:
        present = self._all("SELECT DISTINCT name FROM corrections WHERE clip_id = ? AND is_present ORDER BY name", (clip_id,))
        self.set_words(clip_id, corrections=" ".join(name for (name,) in present))

    def corrections(self, clip_ids: Collection[int] | None = None) -> list[Correction]:
        """Every correction, or those of some clips (at most some thousand), in the order they were made."""
        where = "" if clip_ids is None else f"WHERE clip_id IN ({', '.join('?' * len(clip_ids))})"
        statement = f"SELECT clip_id, segment_id, name, is_present FROM corrections {where} ORDER BY id"  # noqa: S608  marks only
        rows = self._all(statement, (*(clip_ids or ()),))
        return [Correction(row[0], row[1], row[2], bool(row[3])) for row in rows]
