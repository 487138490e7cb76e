"""Stores what `ingest` reads: events in, transactions out, a report at the end.

One transaction holds many small clips, or a stretch of a long one, so that a crash costs half a second's work, besides what is
still being described, and never a clip that was committed. A file that turns out to be damaged takes back all that was stored of it.

What a crash leaves: a clip is committed in steps while it is *pending*, which no search sees, and becomes *ready* in the
transaction that stores its last segment. The next `add` of the same content goes on after the last stored segment. The encoder is
bit-reproducible, so a resumed clip equals one that was never interrupted.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from earmark_client.audio.find import FindProblem, FoundSound, PassedOver, find_sounds
from earmark_client.audio.opening import is_gone
from earmark_client.ingest import Batch, Begun, Claims, Encoded, Finished, Ingest, Known, Refused
from earmark_client.labelling import best_rows, stored_best
from earmark_client.model.head import quantize_output
from earmark_client.naming import absolute
from earmark_client.store.database import ClipRow, names_of
from earmark_client.tally import AddProgress, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from earmark_client.describe import Floats, Model
    from earmark_client.ingest import Event
    from earmark_client.labelling import LabelSet
    from earmark_client.records import Clip
    from earmark_client.store.blocks import Rows
    from earmark_client.store.database import Database
    from earmark_client.tally import AddReport
    from earmark_shared.errors import EarmarkError

COMMIT_SEGMENTS = 4096
COMMIT_S = 0.5
"""A transaction closes after so many segments or seconds: what a crash can cost."""


class Intake:
    """Applies the events of one `add` to the database; the only writer."""

    def __init__(self, database: Database, model: Model, labels: LabelSet, *, clock: Callable[[], float] = time.time) -> None:
        """Store vectors under the model's version, and each clip's best labels of the list as words; `clock` gives Unix seconds."""
        self._database = database
        self._model = model
        self._labels = labels
        self._clock = clock
        self._clips: dict[str, int] = {}
        self._best: dict[int, Floats] = {}
        self._waiting: dict[str, list[Known]] = {}
        self._refused: dict[str, EarmarkError] = {}
        self._batches: list[tuple[int, Batch]] = []
        self._finished: list[Finished] = []
        self._is_beside = False

    def store(self, events: Iterator[Event], tally: Tally, on_progress: Callable[[AddProgress], None] | None = None) -> AddReport:
        """Apply all events, committing as it goes.

        Raises:
            StoreError: the database can't take more; what was committed stays.
        """
        started_s = time.monotonic()
        more = True
        while more:
            with self._database.transaction():
                more = self._fill(events, tally)
                self._flush(tally)
                if not more:  # and not before: a file that was replaced may turn up under another name
                    self._database.forget_replaced()
                    self._database.merge_words()
            if on_progress:
                elapsed_s = time.monotonic() - started_s
                on_progress(AddProgress(tally.done_files, tally.total_files, tally.sound_s, elapsed_s, tally.current))
        return tally.report(time.monotonic() - started_s)

    def _fill(self, events: Iterator[Event], tally: Tally) -> bool:
        """Apply events until it is time to commit; False when there are no more."""
        until_s = time.monotonic() + COMMIT_S
        segments = 0
        for event in events:
            segments += self._apply(event, tally)
            if segments >= COMMIT_SEGMENTS or time.monotonic() > until_s:
                return True
        return False

    def _apply(self, event: Event, tally: Tally) -> int:
        """Apply one event; the number of segments it holds."""
        match event:
            case Begun():
                self._begin(event)
            case Encoded():
                clip_id = self._clips[event.content_sha256]
                self._batches.append((clip_id, event.batch))
                self._best[clip_id] = best_rows(self._best.get(clip_id), event.batch.best_labels)
                tally.sound_s += float(event.batch.end_s[-1] - event.batch.start_s[0])
                return len(event.batch.start_s)
            case Finished():
                self._finished.append(event)
            case Known():
                self._recognize(event, tally)
            case Refused():
                self._take_back(event, tally)
        return 0

    def _begin(self, event: Begun) -> None:
        stored = self._database.clip_by_hash(event.content_sha256)
        if stored is not None:
            self._add_path(self._database.clip(stored.id), event.path)
            self._clips[event.content_sha256] = stored.id
            self._best[stored.id] = stored_best(self._database, self._model, self._labels, stored.id)
            return
        row = ClipRow(
            content_sha256=event.content_sha256,
            duration_s=0.0,
            sample_rate_hz=event.info.sample_rate_hz,
            channels=event.info.channels,
            size_bytes=event.size_bytes,
            added_at_s=self._clock(),
            recorded_at_s=event.recorded_at_s,
            model_version=self._model.base_version,
        )
        self._clips[event.content_sha256] = self._database.insert_clip(row, str(event.path))

    def _recognize(self, event: Known, tally: Tally) -> None:
        refusal = self._refused.get(event.content_sha256)
        stored = self._database.clip_by_hash(event.content_sha256)
        if refusal is not None:
            tally.problems.append((str(event.path), refusal))
        elif stored is not None and stored.is_ready:
            self._meet(stored.id, event, tally)
        else:  # another lane has taken it on: wait for how that ends
            self._waiting.setdefault(event.content_sha256, []).append(event)

    def _meet(self, clip_id: int, event: Known, tally: Tally) -> None:
        """Count a path of a stored clip, be it known, new or the one it moved to; the clip's date is its first file's."""
        clip = self._database.clip(clip_id)
        has_moved = self._add_path(clip, event.path)
        if str(event.path) in clip.paths[:1] and clip.recorded_at_s != event.recorded_at_s:
            self._database.set_recorded_at(clip_id, event.recorded_at_s)
        tally.current = str(event.path)
        tally.moved += has_moved
        tally.known += not has_moved

    def _add_path(self, clip: Clip, path: Path) -> bool:
        """Give a stored clip one more path; paths that are gone from the disk give way: then the file has moved."""
        if str(path) in clip.paths:
            return False
        gone = [old for old in clip.paths if is_gone(old)]
        for old in gone:
            self._database.remove_path(old)
        self._database.add_path(clip.id, str(path))
        self._database.set_names(clip.id)
        return bool(gone)

    def _take_back(self, event: Refused, tally: Tally) -> None:
        tally.problems.append((str(event.path), event.error))
        if event.content_sha256 is None:
            return
        self._refused[event.content_sha256] = event.error
        tally.problems += [(str(known.path), event.error) for known in self._waiting.pop(event.content_sha256, [])]
        clip_id = self._forget(event.content_sha256)
        if clip_id is not None:
            self._database.remove_clip(clip_id)

    def _forget(self, content_sha256: str) -> int | None:
        """Drop what waits to be written of a begun clip; its id."""
        clip_id = self._clips.pop(content_sha256, None)
        if clip_id is not None:
            self._batches = [(owner, batch) for owner, batch in self._batches if owner != clip_id]
            self._finished = [event for event in self._finished if event.content_sha256 != content_sha256]
            self._best.pop(clip_id, None)
        return clip_id

    def _flush(self, tally: Tally) -> None:
        """Write the batches at hand as one block, then make the clips ready that are complete."""
        if self._batches:
            self._write([clip_id for clip_id, _ in self._batches], [batch for _, batch in self._batches])
            self._batches = []
        labels = {}
        for event in self._finished:
            clip_id = self._clips.pop(event.content_sha256)
            self._finish(event, clip_id, tally)
            labels[clip_id] = self._best_labels(clip_id)
        self._database.add_labels(labels, model_version=self._model.version)
        self._finished = []

    def _finish(self, event: Finished, clip_id: int, tally: Tally) -> None:
        clip = self._database.clip(clip_id)
        self._database.finish_clip(clip_id, duration_s=event.duration_s, names=names_of(clip.paths))
        tally.added += 1
        best = self._best.get(clip_id)
        tally.silent += best is None or not len(best)  # no segment was kept
        tally.current = clip.paths[0] if clip.paths else ""
        for known in self._waiting.pop(event.content_sha256, []):
            self._meet(clip_id, known, tally)

    def _best_labels(self, clip_id: int) -> list[tuple[str, float]]:
        best = self._best.pop(clip_id, None)
        if best is None or not len(best):  # silence: no segment was kept
            return []
        return [(label.name, label.score) for label in self._labels.top(best.mean(axis=0))]

    def _write(self, owners: list[int], batches: list[Batch]) -> None:
        clip_ids = np.repeat(owners, [len(batch.start_s) for batch in batches])
        text = np.concatenate([batch.vectors.text for batch in batches])
        sound = np.concatenate([batch.vectors.sound for batch in batches])
        strength = np.concatenate([batch.vectors.strength for batch in batches])
        vectors: dict[str, Rows] = {
            "text": text.astype(np.float16),
            "sound": sound.astype(np.float16),
            "strength": strength[:, None],
        }
        if self._model.keeps_output:
            vectors["encoder"] = quantize_output(np.concatenate([batch.output for batch in batches]))
        ids = self._database.add_segments(
            clip_ids,
            np.concatenate([batch.start_s for batch in batches]),
            np.concatenate([batch.end_s for batch in batches]),
            model_version=self._model.base_version,
            vectors=vectors,
            beside=self._is_beside,
        )
        if self._model.correction is not None:
            corrected = np.concatenate([batch.vectors.searched for batch in batches]).astype(np.float16)
            self._database.add_vectors(ids, model_version=self._model.version, vectors={"text": corrected})


def add_sounds(
    database: Database,
    model: Model,
    labels: LabelSet,
    paths: Sequence[Path],
    *,
    jobs: int | None = None,
    on_progress: Callable[[AddProgress], None] | None = None,
) -> AddReport:
    """Find the sounds under `paths`, read them and store them; the caller holds the home's lock."""
    found = list(find_sounds(dict.fromkeys(map(absolute, paths))))
    files = [(sound.path, sound.root) for sound in found if isinstance(sound, FoundSound)]
    passed_over = sum(isinstance(sound, PassedOver) for sound in found)
    tally = Tally(len(found) - passed_over, passed_over=passed_over)
    tally.problems = [(str(problem.path), problem.error) for problem in found if isinstance(problem, FindProblem)]
    ingest = Ingest(model, labels, _claims(database, model.base_version), jobs=jobs)
    with closing(ingest.run(files)) as events:
        return Intake(database, model, labels).store(events, tally, on_progress)


def _claims(database: Database, model_version: str) -> Claims:
    """What is stored already; a clip that another model began is begun again."""
    pending = {}
    for stored, _ in database.pending_clips():
        if stored.model_version != model_version:
            with database.transaction():
                database.remove_clip(stored.id)
            continue
        pending[database.clip(stored.id).content_sha256] = stored.stored_until_s
    return Claims((clip.content_sha256 for clip in database.clips()), pending)
