"""Turning scored passages into events: the arithmetic of search without any model."""

import numpy as np
import pytest

from earmark_client import search
from earmark_client.catalogue import Catalogue
from earmark_client.hits import said_of
from earmark_client.records import Correction
from earmark_client.search import Scored, Target, find_events

HOP_S = 0.5


def catalogue(*lengths: int) -> Catalogue:
    """Clips 1, 2, … of so many segments, half a second apart."""
    clip_ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    start_s = np.concatenate([HOP_S * np.arange(length) for length in lengths])
    return Catalogue.order(np.arange(100, 100 + len(clip_ids)), clip_ids, start_s, start_s + 1.0)


def scored(table: Catalogue, score: list[float], curve: dict[int, float] | None = None) -> Scored:
    """All passages with these scores; the curve is flat but for some positions."""
    pool = table.pool(None)
    along = np.full(len(table), 0.01, np.float32)
    for position, height in (curve or {}).items():
        along[position] = height
    return Scored(pool, np.array(score, np.float32), along, None, None, None, (), np.full(len(pool), np.nan, np.float32))


def test_events_come_best_first_and_below_the_least_score_not_at_all():
    table = catalogue(4, 4, 4)
    events = find_events(table, scored(table, [0.6, 0.2, 0.9]), least=0.5, join_from=0.5, limit=None)
    assert [round(event.score, 3) for event in events] == [0.9, 0.6]


def test_equal_scores_keep_the_order_of_clips():
    table = catalogue(4, 4, 4)
    events = find_events(table, scored(table, [0.7, 0.7, 0.7]), least=0.5, join_from=0.5, limit=2)
    assert table.clip_ids[[event.peak for event in events]].tolist() == [1, 2]


def test_neighbouring_passages_of_one_clip_are_one_event():
    table = catalogue(60, 4)
    events = find_events(table, scored(table, [0.8, 0.9, 0.1, 0.7]), least=0.5, join_from=0.5, limit=None)
    assert [(int(table.clip_ids[event.first]), round(event.score, 1)) for event in events] == [(1, 0.9), (2, 0.7)]


def test_passages_below_the_joining_score_stay_apart_even_when_all_are_ranked():
    table = catalogue(60)
    assert len(find_events(table, scored(table, [0.1, 0.2, 0.1]), least=0.0, join_from=0.5, limit=None)) == 3


def test_a_gap_between_strong_passages_makes_two_events():
    table = catalogue(60)
    assert len(find_events(table, scored(table, [0.8, 0.2, 0.9]), least=0.5, join_from=0.5, limit=None)) == 2


def test_an_event_begins_and_ends_where_its_segments_carry_it():
    table = catalogue(20)
    event = find_events(table, scored(table, [0.9], {5: 0.5, 6: 0.9, 7: 0.6}), least=0.5, join_from=0.5, limit=1)[0]
    assert (event.first, event.peak, event.last) == (5, 6, 7)


def test_nothing_reaches_the_score_and_nothing_is_found():
    table = catalogue(4)
    assert find_events(table, scored(table, [0.1]), least=0.5, join_from=0.5, limit=None) == []


def test_a_word_about_a_moment_is_no_word_about_others():
    clip, moment = Correction(1, None, "dog", True), Correction(1, 105, "cat", True)
    said = [clip, moment, Correction(2, None, "owl", True)]
    assert said_of(said, 1, np.arange(100, 105)) == [clip]
    assert said_of(said, 1, np.arange(105, 110)) == [clip, moment]


@pytest.mark.parametrize(("probability", "expected"), [(1.0, 1.0), (0.0, 0.0)])
def test_a_word_about_a_clip_holds_for_all_its_passages(probability, expected):
    table = catalogue(30, 4)
    pool = table.pool(None)
    target = Target(said=((Correction(1, None, "dog", bool(probability)), probability),))
    said = search._said(table, target, pool, np.ones(len(table), np.float32))
    assert said[:2].tolist() == [expected, expected]
    assert np.isnan(said[2])


def test_a_word_about_a_moment_lifts_the_curve_there():
    table = catalogue(30)
    pool, curve = table.pool(None), np.full(30, 0.2, np.float32)
    said = search._said(table, Target(said=((Correction(1, 125, "dog", True), 1.0),)), pool, curve)
    assert np.argmax(curve) == 25
    assert np.isnan(said[0])
    assert said[1] == 1.0
