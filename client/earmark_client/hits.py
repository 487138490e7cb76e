"""An event becomes a hit: its place, its labels and the reasons it was found for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from earmark_client.candidates import choose_pools
from earmark_client.records import Answer, Evidence, Hit, Label
from earmark_client.search import find_events, score_pool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    import numpy.typing as npt

    from earmark_client.describe import Floats, Model
    from earmark_client.records import Clip, Correction, Query
    from earmark_client.search import Event, Scored, Target
    from earmark_client.shelf import Shelf
    from earmark_client.store.database import Database

MOST_LABELLED_SEGMENTS = 6
"""An event's labels come from at most this many of its segments, three seconds around its best one: they tell of the moment."""

EVENTS_AT_ONCE = 32


def label_scores(shelf: Shelf, ids: npt.NDArray[np.int64]) -> Floats:
    """Scores `(segments, labels)` of stored segments."""
    labels = shelf.labels
    weighted = shelf.text.vectors(ids)
    sound = shelf.sound.vectors(ids) if labels.needs_sound else None
    return labels.scores(weighted, np.ones(len(ids), np.float32), sound)


def label_events(shelf: Shelf, events: Sequence[Event]) -> list[list[Label]]:
    """The labels of each event's segments, best first; all events at once, for that is what takes the least time."""
    spans = [_labelled_segments(shelf, event) for event in events]
    ids = np.concatenate(spans)
    rows = np.full((len(spans), MOST_LABELLED_SEGMENTS), -1, np.int64)
    rows[np.arange(MOST_LABELLED_SEGMENTS) < np.array([len(span) for span in spans])[:, None]] = np.arange(len(ids))
    labels = shelf.labels
    sound = shelf.sound.vectors(ids) if labels.needs_sound else None
    return [labels.top(scores) for scores in labels.span_scores(shelf.text.vectors(ids), sound, rows)]


def _labelled_segments(shelf: Shelf, event: Event) -> npt.NDArray[np.int64]:
    first = max(event.first, event.peak - MOST_LABELLED_SEGMENTS // 2)
    return shelf.catalogue.ids[first : min(event.last + 1, first + MOST_LABELLED_SEGMENTS)]


def said_of(corrections: Sequence[Correction], clip_id: int, ids: npt.NDArray[np.int64]) -> list[Correction]:
    """The corrections about a clip, or about one of these segments of it: a word about a moment says nothing about the others."""
    held = set(ids.tolist())
    return [each for each in corrections if each.clip_id == clip_id and (each.segment_id is None or each.segment_id in held)]


def correct_labels(labels: list[Label], corrections: Sequence[Correction]) -> tuple[Label, ...]:
    """What people said beats what the model says: their yes comes first, their no goes."""
    said = {correction.name: correction.is_present for correction in corrections}
    yes = [Label(name, 1.0) for name, is_present in said.items() if is_present]
    return (*yes, *(label for label in labels if label.name not in said))


class HitMaker:
    """Makes the hits of one answer."""

    def __init__(self, database: Database, shelf: Shelf, beside: Executor) -> None:
        """Take places, labels and corrections from the shelf and paths from the database, those in a thread `beside` this one."""
        self._database = database
        self._shelf = shelf
        self._beside = beside

    def answer(self, model: Model, query: Query, target: Target) -> Answer:
        """Score the target, a query made comparable: the hits, or the nearest miss if there are none."""
        calibration, shelf = model.labeler.calibration, self._shelf
        answer = Answer((), None, model.version, is_names_only=bool(query.text) and not model.labeler.knows_words)
        least = calibration.threshold if query.min_score is None else query.min_score
        join_from = max(least, calibration.threshold)
        for candidates in choose_pools(shelf, target, calibration, limit=query.limit):
            if not len(candidates.pool):
                continue
            scored = score_pool(shelf, target, candidates.pool, calibration)
            events = find_events(shelf.catalogue, scored, least=least, join_from=join_from, limit=query.limit)
            if len(events) == query.limit or candidates.rest < least:
                break
        else:  # nothing passes the filters, or nothing was ever added
            return answer
        if events:
            return replace(answer, hits=self.make_all(events, scored, query))
        nearest = find_events(shelf.catalogue, scored, least=0.0, join_from=join_from, limit=1)
        return replace(answer, nearest_miss=self.make_all(nearest, scored, query)[0])

    def make_all(self, events: list[Event], scored: Scored, query: Query) -> tuple[Hit, ...]:
        """Make hits in the order of the events."""
        hits: list[Hit] = []
        for start in range(0, len(events), EVENTS_AT_ONCE):
            group = events[start : start + EVENTS_AT_ONCE]
            clip_ids = [int(self._shelf.catalogue.clip_ids[event.peak]) for event in group]
            distinct = set(clip_ids)
            rows = self._beside.submit(self._database.clips_by_id, distinct)
            labelled = label_events(self._shelf, group)
            clips = rows.result()
            corrections = [each for each in self._shelf.corrections if each.clip_id in distinct]
            for event, clip_id, found in zip(group, clip_ids, labelled, strict=True):
                ids = self._shelf.catalogue.ids[event.first : event.last + 1]
                shown = correct_labels(found, said_of(corrections, clip_id, ids))
                hits.append(self._make(event, clips[clip_id], shown, self._reasons(event, scored, query, clips[clip_id], found)))
        return tuple(hits)

    def _make(self, event: Event, clip: Clip, labels: tuple[Label, ...], why: list[Evidence]) -> Hit:
        catalogue = self._shelf.catalogue
        return Hit(
            clip_id=clip.id,
            segment_id=int(catalogue.ids[event.peak]),
            path=clip.paths[0] if clip.paths else "",
            start_s=float(catalogue.start_s[event.first]),
            end_s=float(catalogue.end_s[event.last]),
            peak_s=float(catalogue.start_s[event.peak]),
            score=event.score,
            labels=labels,
            why=tuple(why),
        )

    def _reasons(self, event: Event, scored: Scored, query: Query, clip: Clip, labels: list[Label]) -> list[Evidence]:
        reasons = []
        row = event.row
        said = scored.said[row]
        if not np.isnan(said):
            reasons.append(Evidence("you", "you labelled it" if said else "you said it is not", float(said)))
        if scored.text is not None:
            heard = ", ".join(label.name for label in labels[:3]) or "nothing that has a name"
            reasons.append(Evidence("sound", f"sounds like {heard}", float(scored.text[row])))
        if scored.example is not None:
            like = query.like.name if query.like else query.text
            reasons.append(Evidence("example", f"sounds like {like}", float(scored.example[row])))
        if scored.words is not None and scored.words[row] > 0:
            reasons.append(Evidence("words", f"in its name or your labels: {_name(clip)}", float(scored.words[row])))
        for unwanted, probability in zip(query.exclude, scored.minus, strict=True):
            reasons.append(Evidence("not", f"how much it sounds like {unwanted}", float(probability[row])))
        return reasons


def _name(clip: Clip) -> str:
    return ", ".join(dict.fromkeys(path.rsplit("/", 1)[-1] for path in clip.paths)) or f"clip {clip.id}"
