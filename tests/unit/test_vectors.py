"""The index: exact while it is small, compressed and scored again above, the same answers every time."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from earmark_client.store import blocks
from earmark_client.store.blocks import Block, store_float16, store_int8
from earmark_client.store.chunks import CHUNK_ROWS, LARGE_CHUNK_ROWS, Chunks
from earmark_client.store.vectors import VectorIndex, _encode, _levels, _packed

DIM = 32


def unit_rows(seed, count, dim=DIM):
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def build(rows, *, first_id=1, **options):
    ids = np.arange(first_id, first_id + len(rows))
    parts = (store_float16(ids[start : start + 700], rows[start : start + 700]) for start in range(0, len(rows), 700))
    return VectorIndex.build(rows.shape[1], parts, **options)


def test_every_half_precision_number_is_widened_exactly():
    every = np.arange(65_536, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(-1, 2)
    assert np.array_equal(blocks.to_float32(every, None).view(np.uint32), every.astype(np.float32).view(np.uint32))


def test_half_precision_rows_may_have_scales():
    rows, scales = unit_rows(3, 900), np.random.default_rng(3).uniform(0, 2, 900).astype(np.float32)
    half = store_float16(np.arange(900), rows)
    scaled = Block(half.ids, half.rows, scales)
    assert np.array_equal(scaled.float32(), half.float32() * scales[:, None])
    for exact_below in (100, 10_000):
        index = VectorIndex.build(DIM, [scaled], exact_below=exact_below)
        assert np.array_equal(index.vectors(half.ids[::7]), scaled.float32()[::7])
    chunks = Chunks(DIM, "float16")
    chunks.append(scaled)
    chunks.append(half)
    assert np.array_equal(chunks.gather(np.arange(1800)), np.concatenate([scaled.float32(), half.float32()]))


@pytest.mark.parametrize("dim", [32, 384])
def test_codes_are_those_of_faiss(dim):
    rows = unit_rows(4, 3000, dim) * np.random.default_rng(4).uniform(0.1, 1, (3000, 1)).astype(np.float32)
    levels = _levels(rows)
    packed = _packed(levels, [_encode(rows[:1000], levels), _encode(rows[1000:], levels)])
    theirs = _packed(levels, [])
    theirs.add(rows)
    queries = unit_rows(5, 20, dim)
    for ours, expected in zip(packed.search(queries, 50), theirs.search(queries, 50), strict=True):
        assert np.array_equal(ours, expected)


def test_int8_rows_stay_close_and_survive_a_second_time():
    rows = unit_rows(0, 100)
    rows[7] = 0
    ids = np.arange(100)
    block = store_int8(ids, rows)
    assert np.abs(block.float32() - rows).max() <= block.scales.max() / 2 + 1e-7
    assert np.array_equal(store_int8(ids, block.float32()).rows, block.rows)
    assert np.array_equal(block.float32()[7], np.zeros(DIM))


def test_ids_survive_storing():
    for ids in ([5, 6, 7], [5], [1, 3, 9]):
        array = np.array(ids, np.int64)
        stored = blocks.ids_to_bytes(array)
        assert blocks.bytes_to_ids(stored, ids[0], len(ids)).tolist() == ids
        assert (stored is None) == (ids[-1] - ids[0] + 1 == len(ids))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_chunks_keep_their_rows_across_a_border(dtype):
    border = CHUNK_ROWS if dtype == "float32" else LARGE_CHUNK_ROWS
    count = border + 100
    rows = unit_rows(1, count, 4)
    chunks = Chunks(4, dtype)
    for start in range(0, count, 9_999):
        chunks.append(Block(np.arange(start, min(start + 9_999, count)), rows[start : start + 9_999]))
    positions = np.array([0, border - 1, border, count - 1, 5])
    bound = {"float32": 0, "float16": 0.001, "int8": 0.01}[dtype]
    assert np.abs(chunks.gather(positions) - rows[positions]).max() <= bound
    assert np.abs(np.concatenate(list(chunks.parts(1000))) - rows).max() <= bound
    assert len(chunks) == count


def test_an_empty_index_finds_nothing():
    index = VectorIndex(DIM)
    ids, scores = index.search(unit_rows(0, 2), 3)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()
    assert len(index.scores_all(unit_rows(0, 1)[0])[0]) == 0
    assert len(index) == 0
    with pytest.raises(KeyError):
        index.vectors(np.array([1]))
    assert index.vectors(np.empty(0, np.int64)).shape == (0, DIM)


def test_a_small_index_is_exact_and_needs_no_faiss():
    script = "import sys; from earmark_client.store.vectors import VectorIndex, _encode, _levels, _packed; from tests.unit.test_vectors import build, unit_rows; build(unit_rows(0, 9)).search(unit_rows(1, 1), 3); print('faiss' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("exact_below", [50_000, 500])
def test_more_than_there_is(exact_below):
    index = build(unit_rows(2, 900), exact_below=exact_below)
    ids, scores = index.search(unit_rows(3, 1), 1000)
    assert sorted(ids[0, :900].tolist()) == list(range(1, 901))
    assert (ids[0, 900:] == -1).all()
    assert (np.diff(scores[0, :900]) <= 0).all()


@pytest.mark.parametrize("exact_below", [50_000, 500])
def test_ties_go_to_the_lower_id(exact_below):
    rows = np.repeat(unit_rows(4, 40), 30, axis=0)
    index = build(rows, first_id=10, exact_below=exact_below)
    ids, scores = index.search(rows[300:301], 35)
    assert ids[0, :30].tolist() == list(range(310, 340))
    assert len(set(scores[0, :30].tolist())) == 1


@pytest.mark.parametrize(("exact_below", "dtype"), [(50_000, "float16"), (500, "float16"), (500, "int8")])
def test_the_same_rows_make_the_same_answers(exact_below, dtype):
    rows, queries = unit_rows(5, 3000), unit_rows(6, 5)
    index = build(rows, exact_below=exact_below, dtype=dtype)
    again = build(rows, exact_below=exact_below, dtype=dtype)
    together = index.search(queries, 20)
    for row, query in enumerate(queries):
        for other in (index, again):
            ids, scores = other.search(query[None], 20)
            assert np.array_equal(ids[0], together[0][row])
            assert np.array_equal(scores[0], together[1][row])


@pytest.mark.parametrize("exact_below", [50_000, 500])
def test_adding_and_removing(exact_below):
    rows = unit_rows(7, 2000)
    index = build(rows[:1500], exact_below=exact_below)
    index.add(store_float16(np.arange(1501, 2001), rows[1500:]))
    assert index.search(rows[1800:1801], 1)[0][0, 0] == 1801
    index.remove(np.array([1801, 999_999]))
    assert index.search(rows[1800:1801], 1)[0][0, 0] != 1801
    assert len(index) == 1999
    with pytest.raises(KeyError):
        index.vectors(np.array([1801]))
    index.remove(np.arange(1, 1001))  # enough for the rows to be written anew
    assert len(index) == 999
    assert index.search(rows[1200:1201], 1)[0][0, 0] == 1201
    assert np.abs(index.vectors(np.array([1201, 2000])) - rows[[1200, 1999]]).max() < 0.001
    assert 1801 not in index.scores_all(rows[0])[0]
    with pytest.raises(ValueError):
        index.add(store_float16(np.array([1300]), rows[:1]))
    with pytest.raises(ValueError):
        index.add(store_float16(np.array([3000]), unit_rows(0, 1, DIM + 2)))


def test_the_nearest_rows_can_all_be_removed_from_a_scan():
    rows = np.concatenate([np.repeat(unit_rows(8, 1), 1500, axis=0), unit_rows(9, 8500)])
    index = build(rows, exact_below=500)
    index.remove(np.arange(1, 1501))
    assert not index.is_exact
    ids, scores = index.search(rows[:1], 10)
    expected = np.sort(rows[1500:] @ rows[0])[::-1][:10]
    assert ids.min() > 1500
    assert np.abs(scores[0] - expected).max() < 0.002


def test_growing_past_the_bound_changes_the_way_and_not_the_answer():
    rows, query = unit_rows(10, 4000), unit_rows(11, 1)
    for store in (store_float16, store_int8):
        index = VectorIndex(DIM, dtype="float16" if store is store_float16 else "int8", exact_below=3000)
        answers = []
        for start in range(0, 4000, 1000):
            index.add(store(np.arange(start, start + 1000), rows[start : start + 1000]))
            answers.append((index.is_exact, index.search(query, 5)))
        assert [exact for exact, _ in answers] == [True, True, True, False]
        stored = store(np.arange(4000), rows).float32() @ query[0]
        assert answers[3][1][0][0].tolist() == np.argsort(-stored, kind="stable")[:5].tolist()
        assert np.abs(index.scores_all(query[0])[1] - stored).max() < 1e-5


def test_an_odd_number_of_dimensions():
    rows = unit_rows(12, 900, 33)
    index = build(rows, exact_below=500)
    assert index.search(rows[[5, 800]], 1)[0][:, 0].tolist() == [6, 801]


def test_two_models_are_side_by_side():
    old, new = build(unit_rows(13, 50), model_version="a"), build(unit_rows(14, 50, 48), model_version="b")
    assert (old.model_version, new.model_version) == ("a", "b")
    assert old.search(unit_rows(13, 1), 1)[0][0, 0] == new.search(unit_rows(14, 1, 48), 1)[0][0, 0] == 1


def test_searching_while_another_thread_adds():
    rows = unit_rows(15, 20_000)
    index = build(rows[:2000], exact_below=1000)

    def add():
        for start in range(2000, 20_000, 500):
            index.add(store_float16(np.arange(start + 1, start + 501), rows[start : start + 500]))

    thread = threading.Thread(target=add)
    thread.start()
    while thread.is_alive():
        assert index.search(rows[1000:1001], 1)[0][0, 0] == 1001
    thread.join()
    assert index.search(rows[19_000:19_001], 1)[0][0, 0] == 19_001


def test_rows_and_queries_that_tell_nothing():
    rows = np.zeros((2000, DIM), np.float32)
    rows[1500] = unit_rows(0, 1)[0]
    index = build(rows, exact_below=500)
    ids, scores = index.search(np.concatenate([rows[1500:1501], np.zeros((1, DIM), np.float32)]), 2)
    assert ids[0, 0] == 1501
    assert scores[0, 1] == 0
    assert ids[1].tolist() == [1, 2]
    same = build(np.ones((2000, DIM), np.float32), exact_below=500)
    assert same.search(np.ones((1, DIM), np.float32), 3)[1].tolist() == [[DIM] * 3]


@pytest.mark.parametrize("known", [range(5, 400), [3, 4, 9, 11, 40, 41], [7]])
def test_ids_are_found_where_a_binary_search_finds_them(known):
    known = np.array(known)
    for seed in range(20):
        ids = np.random.default_rng(seed).integers(0, 420, 30)
        there = ids[np.isin(ids, known)]
        assert np.array_equal(known[blocks.slots_of(there, known)], there)
        slots = blocks.slots_of(ids, known)
        assert ((slots >= 0) & (slots < len(known))).all()
        assert np.array_equal(known[slots] == ids, np.isin(ids, known))


def test_rows_are_gathered_in_the_order_asked_for():
    chunks = Chunks(4, "float16")
    rows = np.random.default_rng(1).integers(-9, 9, (LARGE_CHUNK_ROWS + 900, 4)).astype(np.float32)
    chunks.append(store_float16(np.arange(len(rows)), rows))
    for seed in range(4):
        positions = np.random.default_rng(seed).integers(0, len(rows), 300)
        assert np.array_equal(chunks.gather(positions), rows[positions])
        assert np.array_equal(chunks.gather(np.sort(positions)), rows[np.sort(positions)])
