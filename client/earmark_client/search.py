"""Query -> candidates -> fused evidence -> ranked, merged hits with reasons, or nothing found.

A small library is scored whole; a large one through its index, then exactly on the best candidates' passages (`candidates.py`). Both
take the same path from there: evidence per passage in [0, 1], one fused score, passages that follow each other merged into one event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from earmark_client import ranking

if TYPE_CHECKING:
    import numpy.typing as npt

    from earmark_client.catalogue import Catalogue, Pool
    from earmark_client.model.labeler import TextQuery
    from earmark_client.records import Correction
    from earmark_client.shelf import Shelf

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

EVENT_SHARE = 0.5
"""An event reaches as far as its segments score this share of its best one."""
EXAMPLE_SEGMENTS = 65_536
"""Segments whose sound vectors are in memory at once while they are compared with an example."""


@dataclass(frozen=True)
class Target:
    """A query made comparable with stored vectors; each part may be missing."""

    text: TextQuery | None = None
    example: Floats | None = None
    """`(examples, dim)` unit sound vectors of what it should sound like."""
    minus: tuple[TextQuery | Floats, ...] = ()
    """What is not wanted: words, or the sound vectors of a taught sound."""
    words: dict[int, float] | None = None
    """Share of the query's words in a clip's names and labels, by clip id."""
    allowed: Ints | None = None
    """Ascending ids of the clips that pass the filters; None means all."""
    said: tuple[tuple[Correction, float], ...] = ()
    """What people said about the query's words: corrections and the probability each stands for."""


@dataclass(frozen=True)
class Scored:
    """A pool with its evidence: `(passages,)` probabilities or None, their fused `score`, and a `curve` `(segments,)`."""

    pool: Pool
    score: Floats
    curve: Floats
    """Evidence segment by segment: it places the moment inside a passage."""
    text: Floats | None
    example: Floats | None
    words: Floats | None
    minus: tuple[Floats, ...]
    said: Floats
    """NaN where no person said anything about it, else what they said: 0 for a no, up to 1 for a yes."""


@dataclass(frozen=True)
class Event:
    """Neighbouring passages that are one answer; `peak`, `first` and `last` are positions in the catalogue."""

    row: int
    """The best passage's row in the pool."""
    score: float
    peak: int
    first: int
    last: int


def score_pool(shelf: Shelf, target: Target, pool: Pool, calibration: ranking.Calibration) -> Scored:
    """Weigh all evidence for each passage of the pool."""
    text = example = words = None
    curve = np.ones(len(pool.ids), np.float32)
    if target.text is not None:
        text, along = _text_evidence(shelf, target.text, pool, calibration)
        curve = curve * along
    if target.example is not None:
        example, along = _example_evidence(shelf, target.example, pool, calibration)
        curve = curve * along
    if target.words or (target.text is None and target.example is None):
        named = target.words or {}
        clips = shelf.catalogue.passage_clips[pool.passages]
        words = np.array([named.get(int(clip), 0.0) for clip in clips], np.float32)
    minus = tuple(_unwanted(shelf, each, pool, calibration) for each in target.minus)
    said = _said(shelf.catalogue, target, pool, curve)
    fused = ranking.fuse(text=text, example=example, words=words, minus=minus, calibration=calibration)
    score = np.where(np.isnan(said), fused, np.where(said > 0, np.maximum(fused, said), 0.0)).astype(np.float32)
    return Scored(pool, score, curve, text, example, words, minus, said)


def _said(catalogue: Catalogue, target: Target, pool: Pool, curve: Floats) -> Floats:
    """What people said, `(passages,)`; a yes about one segment also lifts the curve there, so that it is the moment shown."""
    said = np.full(len(pool), np.nan, np.float32)
    clips = catalogue.passage_clips[pool.passages]
    for correction, probability in target.said:
        if correction.segment_id is None:
            said[clips == correction.clip_id] = probability
            continue
        here = np.flatnonzero(pool.ids == correction.segment_id)
        if len(here):
            curve[here] = 1.0 if probability else 0.0
            if probability:
                said[np.searchsorted(pool.offsets, here, side="right") - 1] = probability
    return said


def _text_evidence(shelf: Shelf, query: TextQuery, pool: Pool, calibration: ranking.Calibration) -> tuple[Floats, Floats]:
    """Probabilities by passage `(passages,)` and by segment `(segments,)`."""
    raw = shelf.text_scores(pool, query.vector)
    by_passage, along = (
        ranking.query_probability(evidence, query.similarity, query.background, calibration)
        for evidence in (ranking.clip_scores(raw, pool.offsets), raw)
    )
    return by_passage, along


def _unwanted(shelf: Shelf, what: TextQuery | Floats, pool: Pool, calibration: ranking.Calibration) -> Floats:
    """How probably each passage is what is not wanted: `(passages,)`."""
    if isinstance(what, np.ndarray):
        return _example_evidence(shelf, what, pool, calibration)[0]
    return _text_evidence(shelf, what, pool, calibration)[0]


def _example_evidence(shelf: Shelf, examples: Floats, pool: Pool, calibration: ranking.Calibration) -> tuple[Floats, Floats]:
    """Probabilities by passage `(passages,)` and by segment `(segments,)`."""
    by_passage, along = np.zeros(len(pool), np.float32), np.zeros(len(pool.ids), np.float32)
    start = 0
    while start < len(pool):
        end = max(start + 1, int(np.searchsorted(pool.offsets, pool.offsets[start] + EXAMPLE_SEGMENTS, side="right")) - 1)
        here = slice(pool.offsets[start], pool.offsets[end])
        vectors, offsets = shelf.sound.vectors(pool.ids[here]), pool.offsets[start : end + 1] - pool.offsets[start]
        by_passage[start:end] = ranking.example_probability(ranking.example_scores(examples, vectors, offsets), calibration)
        along[here] = ranking.example_probability(ranking.example_segment_scores(examples, vectors), calibration)
        start = end
    return by_passage, along


def find_events(catalogue: Catalogue, scored: Scored, *, least: float, join_from: float, limit: int | None) -> list[Event]:
    """Rank the passages that score `least` or more; neighbours that both reach `join_from` are one event.

    Returns:
        At most `limit` events, best first; equal scores in order of clip and time.
    """
    rows = np.flatnonzero(scored.score >= least)
    if not len(rows):
        return []
    passages = scored.pool.passages[rows]
    clips = catalogue.passage_clips[passages]
    strong = scored.score[rows] >= join_from
    joined = (passages[1:] - passages[:-1] == 1) & (clips[1:] == clips[:-1]) & strong[1:] & strong[:-1]
    starts = np.concatenate(([0], np.flatnonzero(~joined) + 1))
    ends = np.concatenate((starts[1:], [len(rows)]))
    best = np.maximum.reduceat(scored.score[rows], starts)
    order = np.argsort(-best, kind="stable")[:limit]
    return [_event(scored, rows[starts[run] : ends[run]], float(best[run])) for run in order]


def _event(scored: Scored, rows: Ints, score: float) -> Event:
    """Place the event of some consecutive pool rows at the segments that carry it."""
    begin, end = int(scored.pool.offsets[rows[0]]), int(scored.pool.offsets[rows[-1] + 1])
    curve = scored.curve[begin:end]
    peak = int(np.argmax(curve))
    carrying = np.flatnonzero(curve >= EVENT_SHARE * curve[peak])
    positions = scored.pool.positions[begin:end]
    row = int(rows[np.argmax(scored.score[rows])])
    return Event(row, score, int(positions[peak]), int(positions[carrying[0]]), int(positions[carrying[-1]]))
