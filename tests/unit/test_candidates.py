"""Choosing what to score exactly: all of a small library, ever more of a large one."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from tests.support.calibrations import CALIBRATION

from earmark_client import candidates
from earmark_client.candidates import NOTHING, choose_pools
from earmark_client.catalogue import Catalogue
from earmark_client.records import Correction
from earmark_client.search import Target

TEXT = SimpleNamespace(vector=np.ones(3, np.float32), similarity=1.0, background=None)


def catalogue(*lengths: int) -> Catalogue:
    """Clips 1, 2, … of so many segments, half a second apart: a passage has twenty."""
    clip_ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    start_s = np.concatenate([0.5 * np.arange(length) for length in lengths])
    return Catalogue.order(np.arange(100, 100 + len(clip_ids)), clip_ids, start_s, start_s + 1.0)


class FakeShelf:
    """A shelf whose indexes are large: they name ids, best first, at falling scores."""

    def __init__(self, table: Catalogue, ids: list[int], *, is_exact: bool = False) -> None:
        self.catalogue = table
        self.text = self.sound = self
        self.is_exact = is_exact
        self._ids = np.array([ids])
        self.asked = []

    def search(self, queries, count):
        self.asked.append(count)
        ids = np.repeat(self._ids, len(queries), axis=0)
        scores = np.broadcast_to(np.linspace(0.9, 0.1, ids.shape[1], dtype=np.float32), ids.shape)
        return ids[:, :count], scores[:, :count]


def pools(shelf, target, limit=1):
    return list(choose_pools(shelf, target, CALIBRATION, limit=limit))


def passages(shelf, target, limit=1):
    return next(choose_pools(shelf, target, CALIBRATION, limit=limit)).pool.passages.tolist()


@pytest.fixture
def few(monkeypatch):
    """Two passages are enough at first, and hundreds too many for an index."""
    monkeypatch.setattr(candidates, "MOST_PASSAGES", 2)
    monkeypatch.setattr(candidates, "CANDIDATES", 8)
    monkeypatch.setattr(candidates, "MOST_CANDIDATES", 200)
    monkeypatch.setattr(candidates, "EXACT_SEGMENTS", 30)


def test_a_small_library_is_scored_whole():
    assert passages(FakeShelf(catalogue(30, 30), [], is_exact=True), Target(text=TEXT)) == [0, 1, 2, 3]


def test_a_large_library_is_scored_where_the_index_points():
    assert passages(FakeShelf(catalogue(30, 30, 30), [185, 101]), Target(text=TEXT)) == [0, 5]


def test_ranking_everything_leaves_nothing_to_an_index():
    assert passages(FakeShelf(catalogue(30, 30), [100]), Target(text=TEXT), limit=None) == [0, 1, 2, 3]


def test_so_many_hits_that_an_index_is_no_help_are_looked_for_everywhere():
    shelf = FakeShelf(catalogue(30, 30), [100])
    assert passages(shelf, Target(text=TEXT), limit=100_000) == [0, 1, 2, 3]
    assert shelf.asked == []


def test_filters_that_leave_few_are_answered_exactly():
    assert passages(FakeShelf(catalogue(30, 30, 30), [100]), Target(text=TEXT, allowed=np.array([2]))) == [2, 3]


def test_under_a_filter_only_what_passes_it_takes_places(few):
    table = catalogue(*[20] * 12)
    shelf = FakeShelf(table, table.ids.tolist())
    target = Target(text=TEXT, allowed=np.arange(7, 13), words=dict.fromkeys(range(1, 9), 1.0))
    found = [each.pool.passages.tolist() for each in pools(shelf, target)]
    assert found[0] == [6]  # named by a word; the index's best eight are all outside
    assert found[-1] == [6, 7, 8, 9, 10, 11]
    assert all(set(smaller) <= set(larger) for smaller, larger in pairwise(found))


def test_each_pool_says_what_the_best_of_the_rest_can_score(few):
    table = catalogue(*[20] * 12)
    shelf = FakeShelf(table, table.ids.reshape(12, 20).T.ravel().tolist())
    rest = [each.rest for each in pools(shelf, Target(text=TEXT))]
    assert rest == sorted(rest, reverse=True)
    assert 0.5 < rest[0] < 0.9
    assert rest[-1] == NOTHING
    assert shelf.asked == sorted(set(shelf.asked))  # never the same twice


def test_names_and_words_of_people_that_found_no_room_may_still_be_hits(few):
    table = catalogue(*[20] * 12)
    unheard = FakeShelf(table, [100])
    named = pools(unheard, Target(text=TEXT, words={3: 1.0, 4: 1.0}))
    assert [each.pool.passages.tolist() for each in named[:2]] == [[0, 2], [0, 2, 3]]
    assert named[0].rest > 0.9 > named[1].rest
    said = tuple((Correction(clip, None, "x", True), 1.0) for clip in (3, 4))
    spoken = pools(unheard, Target(text=TEXT, said=said))
    assert [each.pool.passages.tolist() for each in spoken[:2]] == [[0, 2], [0, 2, 3]]
    assert (spoken[0].rest, spoken[1].rest < 1.0) == (1.0, True)


def test_a_moment_that_somebody_named_is_a_candidate_wherever_it_lies():
    table = catalogue(30, 2000)
    said = ((Correction(2, int(table.ids[1500]), "x", True), 1.0), (Correction(1, int(table.ids[0]), "x", False), 0.0))
    assert passages(FakeShelf(table, [100]), Target(text=TEXT, said=said)) == [0, int(table.passages_of(np.array([1500]))[0])]


def test_clips_named_by_words_are_candidates_too():
    table = catalogue(30, 30, 30)
    assert passages(FakeShelf(table, [100]), Target(text=TEXT, words={3: 1.0})) == [0, 4, 5]


@pytest.mark.parametrize("most", [1, 3, 7, 50])
def test_passages_come_in_the_order_in_which_segments_name_them(most):
    table = catalogue(30, 30, 30, 30)
    for seed in range(20):
        ids = np.random.default_rng(seed).permutation(table.ids)[:60]
        reach = np.linspace(1, 0, 60, dtype=np.float32)
        order = table.passages_of(table.positions(ids)).tolist()
        expected = list(dict.fromkeys(order))[:most]
        found = candidates._first_passages(table, candidates._Listed(ids, reach), None, most)
        assert found.passages.tolist() == expected
        left = [score for passage, score in zip(order, reach.tolist(), strict=True) if passage not in expected]
        assert found.left >= max(left, default=0.0)


def test_rows_that_an_index_does_not_have_are_no_passages():
    table = catalogue(30)
    listed = candidates._Listed(np.array([101, -1, 125, -1]), np.array([0.9, 0.8, 0.7, 0.1], np.float32))
    assert candidates._first_passages(table, listed, None, 5).passages.tolist() == [0, 1]
