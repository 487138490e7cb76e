"""Ranking is arithmetic on arrays: each function against a plain loop that says what it means."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earmark_client import ranking
from earmark_client.ranking import Calibration
from earmark_shared.errors import ModelError

CALIBRATION = Calibration(
    text_slope=1.0, text_offset=0.0, text_similarity=0.0, example_slope=10.0, example_offset=-5.0, word_weight=0.9, threshold=0.5
)


def unit_rows(seed, rows, dim=16):
    values = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def offsets_of(lengths):
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)


def plain_clip_scores(raw, offsets):
    scores = []
    for begin, end in itertools.pairwise(offsets):
        best = np.sort(raw[begin:end])[::-1][:3]
        scores.append(best.mean() if len(best) else 0.0)
    return np.array(scores, np.float32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=12), st.integers(0, 2**16), st.booleans())
def test_a_clip_scores_the_mean_of_its_best_three_segments(lengths, seed, has_ties):
    offsets = offsets_of(lengths)
    raw = np.random.default_rng(seed).uniform(-1, 1, offsets[-1]).astype(np.float32)
    if has_ties:
        raw = np.round(raw)
    kept = raw.copy()
    np.testing.assert_allclose(ranking.clip_scores(raw, offsets), plain_clip_scores(raw, offsets), atol=1e-6)
    np.testing.assert_array_equal(raw, kept)


def test_one_segment_of_a_million_is_still_found():
    lengths = np.full(100_000, 10)
    raw = np.zeros(1_000_000, np.float32)
    raw[500_003:500_006] = 0.9
    scores = ranking.clip_scores(raw, offsets_of(lengths))
    assert scores.argmax() == 50_000
    assert scores[50_000] == pytest.approx(0.9)


def test_segment_scores_are_strength_times_inner_product():
    text, query = unit_rows(1, 5), unit_rows(2, 1)[0]
    strength = np.array([0, 1, 2, 3, 4], np.float32)
    np.testing.assert_allclose(
        ranking.segment_scores(text, strength, query), [s * (t @ query) for s, t in zip(strength, text, strict=True)], atol=1e-6
    )


@pytest.mark.parametrize(
    "function",
    [lambda raw: ranking.text_probability(raw, 0.5, CALIBRATION), lambda raw: ranking.example_probability(raw, CALIBRATION)],
)
def test_probabilities_rise_with_the_evidence_and_stay_inside(function):
    raw = np.linspace(-2, 2, 101, dtype=np.float32)
    scores = function(raw)
    assert scores.dtype == np.float32
    assert np.all(np.diff(scores) >= 0)
    assert np.all((scores >= 0) & (scores <= 1))
    assert scores[-1] > 0.9
    assert scores[0] < 0.1


def test_half_the_evidence_is_an_even_chance_when_the_calibration_says_so():
    assert ranking.text_probability(np.float32(0.5), 0.3, CALIBRATION) == pytest.approx(0.5)
    assert ranking.example_probability(np.float32(0.5), CALIBRATION) == pytest.approx(0.5)


ASKED = dataclasses.replace(CALIBRATION, query_slope=1.0, query_offset=1.0, query_similarity=2.0, query_background=0.5)


def test_words_without_constants_of_their_own_are_judged_as_labels_are():
    raw = np.linspace(0, 1, 50, dtype=np.float32)
    found = ranking.query_probability(raw, 0.3, 0.9, CALIBRATION)
    assert np.array_equal(found, ranking.text_probability(raw, 0.3, CALIBRATION))


@pytest.mark.parametrize("is_log_odds", [0.0, 1.0])
def test_words_whose_background_nobody_knows_are_judged_as_labels_are(is_log_odds):
    """An imported model has the shipped one's constants, and no background of its own classes."""
    raw = np.linspace(-8, 1, 50, dtype=np.float32)
    inherited = dataclasses.replace(ASKED, is_log_odds=is_log_odds)
    found = ranking.query_probability(raw, 0.3, None, inherited)
    assert np.array_equal(found, ranking.text_probability(raw, 0.3, inherited))
    assert not np.allclose(found, ranking.query_probability(raw, 0.3, 0.0, inherited))


@given(raw=st.floats(0.01, 0.99), similarity=st.floats(-1, 1), background=st.floats(0.01, 0.99))
def test_a_query_is_judged_by_its_evidence_its_words_and_its_background(raw, similarity, background):
    def odds(share):
        return math.log(share / (1 - share))

    wanted = odds(raw) + 2 * similarity + 0.5 * odds(background) + 1
    found = ranking.query_probability(np.float32(raw), similarity, background, ASKED)
    assert float(found) == pytest.approx(1 / (1 + math.exp(-wanted)), abs=1e-4)


def test_a_background_of_nothing_is_a_small_one():
    raw = np.linspace(0, 1, 50, dtype=np.float32)
    none, small, large = (ranking.query_probability(raw, 0.3, reached, ASKED) for reached in (0.0, 1e-3, 0.1))
    assert np.array_equal(none, small)
    assert np.all(small < large)


def test_part_of_a_query_calibration_is_refused():
    part = {name: value for name, value in dataclasses.asdict(ASKED).items() if value is not None}
    assert Calibration.read(part) == ASKED
    del part["query_background"]
    with pytest.raises(ModelError, match="incomplete"):
        Calibration.read(part)


def test_an_example_is_most_like_itself():
    sound = unit_rows(3, 12)
    offsets = offsets_of([4, 0, 5, 3])
    scores = ranking.example_scores(sound[4:9], sound, offsets)
    assert scores.argmax() == 2
    assert scores[1] == -1
    assert np.all(np.abs(scores) <= 1 + 1e-6)


def test_example_scores_are_centroids_and_best_matches():
    query, sound, offsets = unit_rows(4, 3), unit_rows(5, 7), offsets_of([2, 5])
    expected = []
    for begin, end in ((0, 2), (2, 7)):
        clip = sound[begin:end]
        likeness = clip @ query.T
        directions = [rows.sum(0) / np.linalg.norm(rows.sum(0)) for rows in (clip, query)]
        expected.append(0.4 * directions[0] @ directions[1] + 0.3 * likeness.max(0).mean() + 0.3 * likeness.max(1).mean())
    np.testing.assert_allclose(ranking.example_scores(query, sound, offsets), expected, atol=1e-6)


def test_clips_are_as_like_each_other_both_ways():
    left, right = unit_rows(6, 3), unit_rows(7, 6)
    there = ranking.example_scores(left, right, offsets_of([6]))
    back = ranking.example_scores(right, left, offsets_of([3]))
    np.testing.assert_allclose(there, back, atol=1e-6)


def test_a_segment_alone_scores_as_a_clip_of_one():
    query, sound = unit_rows(8, 4), unit_rows(9, 6)
    single = [ranking.example_scores(query, sound[row : row + 1], offsets_of([1]))[0] for row in range(6)]
    np.testing.assert_allclose(ranking.example_segment_scores(query, sound), single, atol=1e-6)


def test_no_example_is_like_nothing():
    assert np.all(ranking.example_scores(np.empty((0, 16), np.float32), unit_rows(1, 3), offsets_of([3])) == -1)
    assert ranking.example_scores(unit_rows(1, 2), np.empty((0, 16), np.float32), offsets_of([0])).tolist() == [-1]


def fuse(**parts):
    return ranking.fuse(calibration=CALIBRATION, **{name: np.array(part, np.float32) for name, part in parts.items()})


def test_one_kind_of_evidence_passes_unchanged():
    np.testing.assert_allclose(fuse(text=[0.2, 0.8]), [0.2, 0.8])
    np.testing.assert_allclose(fuse(example=[0.2, 0.8]), [0.2, 0.8])


def test_words_heard_and_example_must_both_hold():
    np.testing.assert_allclose(fuse(text=[0.9, 0.9], example=[0.9, 0.1]), [0.9, 0.3], atol=1e-6)


def test_a_name_is_evidence_of_its_own():
    np.testing.assert_allclose(fuse(text=[0.5, 0.5], words=[0.0, 1.0]), [0.5, 0.95], atol=1e-6)
    np.testing.assert_allclose(fuse(words=[0.0, 1.0]), [0.0, 0.9], atol=1e-6)


def test_what_is_not_wanted_takes_its_part_away():
    scores = ranking.fuse(
        calibration=CALIBRATION, text=np.array([0.8, 0.8], np.float32), minus=[np.array([0.0, 0.9], np.float32)]
    )
    np.testing.assert_allclose(scores, [0.8, 0.08], atol=1e-6)


def test_nothing_to_fuse_is_an_error():
    with pytest.raises(ValueError, match="no evidence"):
        fuse()


def test_jaccard_counts_what_is_shared():
    assert ranking.jaccard({"dog", "rain"}, {"rain", "wind"}) == pytest.approx(1 / 3)
    assert ranking.jaccard(set(), set()) == 1
    assert ranking.jaccard({"dog"}, set()) == 0


def test_a_calibration_is_read_whole_or_not_at_all():
    part = {name: value for name, value in dataclasses.asdict(CALIBRATION).items() if value is not None}
    assert Calibration.read({**part, "templates": ["{}"]}) == CALIBRATION
    for broken in (
        {**part, "threshold": None},
        {**part, "threshold": "high"},
        {key: value for key, value in part.items() if key != "text_slope"},
    ):
        with pytest.raises(ModelError, match="calibration"):
            Calibration.read(broken)
