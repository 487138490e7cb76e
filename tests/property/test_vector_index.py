"""The index against scoring every row in double precision."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numbers

from earmark_client.store.blocks import Block
from earmark_client.store.vectors import SCORE_STEP, VectorIndex

DIM = 6
values = st.floats(-1, 1, width=16)


@st.composite
def libraries(draw):
    count = draw(st.integers(1, 60))
    rows = draw(numbers.arrays(np.float16, (count, DIM), elements=values))
    ids = np.array(draw(st.permutations(range(100, 100 + count))), np.int64)
    removed = draw(st.sets(st.sampled_from(range(100, 100 + count))))
    cut = draw(st.integers(0, count))
    return rows, ids, np.array(sorted(removed), np.int64), cut


@settings(max_examples=120, deadline=None)
@given(
    libraries(),
    numbers.arrays(np.float32, (2, DIM), elements=st.floats(-1, 1, width=32)),
    st.integers(1, 70),
    st.sampled_from([10, 1000]),
)
def test_the_index_is_the_brute_force_oracle(library, queries, k, exact_below):
    rows, ids, removed, cut = library
    index = VectorIndex.build(DIM, [Block(ids[:cut], rows[:cut])], exact_below=exact_below)
    index.add(Block(ids[cut:], rows[cut:]))
    index.remove(removed)
    alive = ~np.isin(ids, removed)
    assert len(index) == alive.sum()
    found_ids, found_scores = index.search(queries, k)
    for query, found, scores in zip(queries, found_ids, found_scores, strict=True):
        truth = dict(zip(ids[alive].tolist(), (rows[alive].astype(np.float64) @ query.astype(np.float64)).tolist(), strict=True))
        expected = sorted(truth.values(), reverse=True)[:k]
        count = len(expected)
        assert (found[count:] == -1).all()
        assert len(set(found[:count].tolist())) == count
        assert np.allclose(scores[:count], expected, atol=3 * SCORE_STEP, rtol=0)
        assert np.allclose(scores[:count], [truth[number] for number in found[:count].tolist()], atol=3 * SCORE_STEP, rtol=0)
        order = sorted(zip((-scores[:count]).tolist(), found[:count].tolist(), strict=True))
        assert [number for _, number in order] == found[:count].tolist()


@settings(max_examples=40, deadline=None)
@given(libraries())
def test_vectors_come_back(library):
    rows, ids, removed, _ = library
    index = VectorIndex.build(DIM, [Block(ids, rows)])
    index.remove(removed)
    kept = np.setdiff1d(ids, removed)
    assert np.array_equal(index.vectors(kept), rows[[int(np.nonzero(ids == number)[0][0]) for number in kept]].astype(np.float32))


def clustered(seed, count, dim, clusters):
    chooser = np.random.default_rng(seed)
    centres = chooser.standard_normal((clusters, dim)).astype(np.float32)
    rows = centres[chooser.integers(0, clusters, count)] + 0.6 * chooser.standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_recall_above_the_exact_size(dtype):
    rows = clustered(0, 60_000, 128, 1_200)
    queries = np.concatenate(
        [clustered(0, 60_000, 128, 1_200)[::3_000], clustered(9, 20, 128, 20)]
    )  # like the rows, and not at all
    index = VectorIndex.build(128, [Block(np.arange(60_000), rows)], dtype=dtype)
    assert not index.is_exact
    truth = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    found, scores = index.search(queries, 10)
    shared = [len(set(expected) & set(answer)) / 10 for expected, answer in zip(truth.tolist(), found.tolist(), strict=True)]
    assert np.mean(shared) >= 0.97
    exact = np.take_along_axis(queries @ rows.T, found, axis=1)
    assert np.abs(exact - scores).max() <= (0.001 if dtype == "float16" else 0.004)
