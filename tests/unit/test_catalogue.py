"""Segments in order, passages inside clips, and the pools a search scores."""

import numpy as np

from earmark_client.catalogue import PASSAGE_S, Catalogue


def catalogue(*clips: tuple[int, int]) -> Catalogue:
    """Clips `(clip_id, segments)` whose segments were stored interleaved, half a second apart."""
    rows = [(clip, 0.5 * number) for clip, count in clips for number in range(count)]
    rows.sort(key=lambda row: row[1])
    ids = np.arange(1, len(rows) + 1)
    clip_ids = np.array([clip for clip, _ in rows])
    start_s = np.array([start for _, start in rows])
    return Catalogue.order(ids, clip_ids, start_s, start_s + 1.0)


def test_segments_are_ordered_by_clip_and_time():
    table = catalogue((7, 4), (3, 3))
    assert table.clip_ids.tolist() == [3] * 3 + [7] * 4
    assert (np.diff(table.start_s)[table.clip_ids[1:] == table.clip_ids[:-1]] > 0).all()


def test_a_short_clip_is_one_passage_and_a_long_one_is_cut():
    table = catalogue((1, 10), (2, 45))
    assert table.passage_clips.tolist() == [1, 2, 2, 2]
    starts = table.start_s[table.offsets[:-1]]
    assert starts.tolist() == [0.0, 0.0, PASSAGE_S, 2 * PASSAGE_S]


def test_positions_find_ids_and_leave_out_strangers():
    table = catalogue((1, 3), (2, 3))
    found = table.positions(np.array([4, 99, 2, -1]))
    assert table.ids[found].tolist() == [4, 2]


def test_a_pool_of_some_passages_holds_just_their_segments():
    table = catalogue((1, 10), (2, 45), (3, 2))
    pool = table.pool(np.array([1, 4]))
    assert len(pool) == 2
    assert pool.offsets.tolist() == [0, 20, 22]
    assert set(table.clip_ids[pool.positions].tolist()) == {2, 3}
    assert pool.ids.tolist() == table.ids[pool.positions].tolist()


def test_a_pool_of_everything_is_the_catalogue():
    table = catalogue((1, 10), (2, 45))
    pool = table.pool(None)
    assert pool.ids.tolist() == table.ids.tolist()
    assert pool.offsets.tolist() == table.offsets.tolist()


def test_an_empty_library_has_no_passages():
    empty = Catalogue.order(*(np.zeros(0, kind) for kind in (np.int64, np.int64, float, float)))
    assert len(empty.pool(None)) == 0
    assert not len(empty.positions(np.array([1])))


def test_passages_of_positions():
    table = catalogue((1, 30))
    assert table.passages_of(np.array([0, 19, 20, 29])).tolist() == [0, 0, 1, 1]
