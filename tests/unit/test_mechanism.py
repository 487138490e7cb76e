"""D4: whatever a clip's gradient is, the sum moves by at most the clipping bound."""

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.support.privacy import ReplayableEntropy

from earmark_shared.errors import NoiseError
from earmark_shared.privacy import mechanism
from earmark_shared.privacy.mechanism import GRID_STEPS, add_grid_noise, clip_to_norm, grid_sum, poisson_sample, public_bucket

D = 300
BOUND = 0.7


def one_hot(value):
    row = np.zeros(D)
    row[7] = value
    return row


def adversarial():
    rng = np.random.default_rng(3)
    plain = rng.normal(size=D)
    return {
        "a million times": plain * 1e6,
        "beyond float64's square": plain * 1e200,
        "smallest": np.full(D, 5e-324),
        "one hot": one_hot(1e6),
        "one hot, just at the bound": one_hot(BOUND),
        "one hot, a hair over": one_hot(np.nextafter(BOUND, 1)),
        "all equal": np.full(D, 3.0),
        "equal, float32": np.full(D, 3.0, dtype=np.float32),
        "alternating": np.resize([1.0, -1.0], D) * BOUND,
        "not a number": np.where(np.arange(D) == 5, np.nan, plain),
        "infinite": np.where(np.arange(D) == 5, -np.inf, plain),
        "zero": np.zeros(D),
    }


def change(others, row):
    """How far one clip more moves the sum, in clipping bounds (l2)."""
    moved = grid_sum(np.vstack([others, row]), BOUND) - grid_sum(others, BOUND)
    return math.sqrt(sum(int(step) ** 2 for step in moved)) / GRID_STEPS


@pytest.mark.parametrize("name", adversarial())
def test_one_clip_moves_the_sum_by_at_most_the_bound(name):
    others = np.random.default_rng(4).normal(size=(9, D)) * 10.0
    assert change(others, adversarial()[name]) <= 1.0
    assert change(np.vstack(list(adversarial().values())), adversarial()[name]) <= 1.0


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float64, D, elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_any_clip_moves_the_sum_by_at_most_the_bound(row):
    assert change(np.ones((1, D)), row) <= 1.0


def test_control_without_clipping_a_clip_moves_the_sum_far(monkeypatch):
    monkeypatch.setattr(mechanism, "_clip_to_grid", lambda rows, bound: np.trunc(rows / bound * GRID_STEPS))
    assert change(np.ones((1, D)), adversarial()["all equal"]) > 10.0


def test_a_short_gradient_is_only_cut_to_the_grid():
    rows = np.random.default_rng(5).normal(size=(4, D)) * 1e-3
    found = grid_sum(rows, BOUND) * (BOUND / GRID_STEPS)
    assert np.abs(found - rows.sum(axis=0)).max() <= 4 * BOUND / GRID_STEPS


def test_a_long_gradient_keeps_its_direction():
    row = np.random.default_rng(6).normal(size=D) * 50
    found = grid_sum(row[None], BOUND) * (BOUND / GRID_STEPS)
    assert np.abs(found - BOUND * row / np.linalg.norm(row)).max() <= BOUND / GRID_STEPS


def test_no_clip_at_all_is_a_sum_of_zeros():
    assert grid_sum(np.zeros((0, D)), BOUND).tolist() == [0] * D


def test_noise_lies_on_the_grid_and_has_the_stated_size():
    total = np.arange(100_000, dtype=np.int64)
    noisy = add_grid_noise(total, BOUND, 1.5, ReplayableEntropy())
    steps = noisy / (BOUND / GRID_STEPS)
    assert np.abs(steps - np.round(steps)).max() < 1e-6
    assert np.std(noisy - total * (BOUND / GRID_STEPS)) == pytest.approx(1.5 * BOUND, rel=0.01)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.nan, math.inf])
def test_no_noise_is_refused(multiplier):
    with pytest.raises(NoiseError):
        add_grid_noise(np.zeros(3, dtype=np.int64), BOUND, multiplier, os.urandom)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_no_bound_is_refused(bound):
    for act in (lambda: grid_sum(np.ones((1, 3)), bound), lambda: clip_to_norm(np.ones(3), bound)):
        with pytest.raises(NoiseError):
            act()


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float64, 40, elements=st.floats(-1e300, 1e300)), st.floats(1e-3, 10.0))
def test_an_update_is_never_longer_than_the_bound(vector, bound):
    clipped = clip_to_norm(vector, bound)
    assert math.hypot(*clipped.tolist()) <= bound
    if math.hypot(*vector.tolist()) <= bound * 0.999999:
        assert (clipped == vector).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_no_number_is_refused(value):
    with pytest.raises(NoiseError):
        clip_to_norm([0.0, value], 1.0)


def test_clips_are_drawn_one_by_one():
    entropy = ReplayableEntropy()
    draws = np.zeros((2000, 100), dtype=bool)
    for row in draws:
        row[poisson_sample(100, 0.2, entropy)] = True
    assert draws.mean() == pytest.approx(0.2, abs=5 * math.sqrt(0.16 / 200_000))
    assert np.abs(draws.mean(axis=0) - 0.2).max() < 5 * math.sqrt(0.16 / 2000)
    # Independent, so the number drawn varies as a binomial's does; a sample of fixed size would not.
    assert draws.sum(axis=1).var() == pytest.approx(16.0, rel=0.2)
    assert np.abs(np.corrcoef(draws[:, :10].T)[np.triu_indices(10, 1)]).max() < 5 / math.sqrt(2000)


def test_probability_one_draws_everything_and_the_smallest_nothing():
    assert poisson_sample(50, 1.0, os.urandom).tolist() == list(range(50))
    assert poisson_sample(50, 2.0**-70, os.urandom).tolist() == []


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, math.nan])
def test_what_is_no_probability_is_refused(probability):
    with pytest.raises(NoiseError):
        poisson_sample(10, probability, os.urandom)


def test_the_public_bucket_rounds_down():
    assert [public_bucket(count) for count in (64, 65, 127, 128, 1000)] == [64, 64, 64, 128, 512]
    with pytest.raises(NoiseError):
        public_bucket(63)
