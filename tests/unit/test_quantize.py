"""Updates become integers within their bound, without bias, and come back as a mean."""

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.support.fleet import Fleet, Stream

from earmark_shared.errors import NormError
from earmark_shared.secagg import quantize as module
from earmark_shared.secagg.quantize import clip_to_norm, dequantize, norm_bound, quantize


def plan_of(d, **changes):
    return replace(Fleet(1, d=d).plan, **changes)


@pytest.mark.parametrize(
    ("d", "log2_scale", "inflation"), [(1_000_000, 12, 1.0076), (1_000_000, 14, 1.0005), (50_000, 14, 1.0001)]
)
def test_norm_bound_is_the_designs(d, log2_scale, inflation):
    assert norm_bound(plan_of(d, log2_scale_c=log2_scale)) / 2**log2_scale == pytest.approx(inflation, abs=5e-5)


@pytest.mark.parametrize("length", [0.0, 1e-30, 0.5, 1.0, 3.0, 1e30])
def test_quantized_updates_stay_within_the_bound(length):
    rng = np.random.default_rng(1)
    update = rng.standard_normal(4096)
    update *= length / np.linalg.norm(update)
    plan = plan_of(4096)
    steps = quantize(update, plan, Stream(1))
    assert (steps.dtype, steps.shape) == (np.int32, (4096,))
    assert np.linalg.norm(steps.astype(float)) <= norm_bound(plan)
    wanted = update * min(1, 1 / length if length else 1) * plan.scale
    assert np.abs(steps - wanted).max() <= 1


def test_rounding_has_no_bias_and_only_neighbours():
    plan = plan_of(20_000, clip_c=1.0, log2_scale_c=14)
    value = 0.3 / plan.scale
    steps = quantize(np.full(20_000, value), plan, Stream(2))
    assert set(np.unique(steps)) == {0, 1}
    assert steps.mean() == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 20_000))
    below = quantize(np.full(20_000, -value), plan, Stream(3))
    assert set(np.unique(below)) == {-1, 0}
    assert below.mean() == pytest.approx(-0.3, abs=4 * math.sqrt(0.3 * 0.7 / 20_000))


def test_whole_steps_are_kept():
    plan = plan_of(64, clip_c=1.0)
    whole = np.arange(-32, 32)
    assert np.array_equal(quantize(whole / plan.scale, plan, Stream(4)), whole)


def test_every_draw_rounds_anew():
    plan, update = plan_of(500), np.full(500, 0.01)
    assert not np.array_equal(quantize(update, plan, Stream(5)), quantize(update, plan, Stream(6)))
    assert np.array_equal(quantize(update, plan, Stream(5)), quantize(update, plan, Stream(5)))


def test_a_mean_comes_back():
    plan = plan_of(1000)
    rng = np.random.default_rng(7)
    updates = [clip_to_norm(rng.standard_normal(1000), 1.0) for _ in range(30)]
    total = sum(quantize(update, plan, Stream(place)).astype(np.int64) for place, update in enumerate(updates))
    assert dequantize(total, plan, count=30) == pytest.approx(np.mean(updates, axis=0), abs=1 / plan.scale)


@pytest.mark.parametrize("clip_c", [0.1, 1.0, 10.0])
def test_scale_follows_the_clip(clip_c):
    plan = plan_of(100, clip_c=clip_c)
    update = np.full(100, clip_c)  # ten times too long
    assert np.linalg.norm(quantize(update, plan, Stream(8)) / plan.scale) == pytest.approx(clip_c, rel=0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    update = np.zeros(10)
    update[3] = bad
    with pytest.raises(NormError, match="not finite"):
        quantize(update, plan_of(10), Stream(0))


@pytest.mark.parametrize("shape", [(9,), (11,), (10, 1), ()])
def test_another_shape_is_refused(shape):
    with pytest.raises(NormError, match="shape"):
        quantize(np.zeros(shape), plan_of(10), Stream(0))


@pytest.mark.parametrize("largest", [1e300, 1e-300, 5e-324])
def test_clipping_neither_overflows_nor_vanishes(largest):
    clipped = clip_to_norm(np.array([largest, -largest, 0.0]), 1.0)
    assert np.linalg.norm(clipped) <= 1 + 1e-12
    assert np.isfinite(clipped).all()
    short = np.array([0.1, 0.2])
    assert np.array_equal(clip_to_norm(short, 1.0), short)


def test_a_rounding_that_is_too_long_is_drawn_again_and_at_last_refused(monkeypatch):
    plan, bounds = plan_of(50), iter([0.0, 0.0, 1e9])
    monkeypatch.setattr(module, "norm_bound", lambda plan: next(bounds))
    assert quantize(np.full(50, 0.1), plan, Stream(0)).any()
    monkeypatch.setattr(module, "norm_bound", lambda plan: 0.0)
    with pytest.raises(NormError, match="no rounding"):
        quantize(np.full(50, 0.1), plan, Stream(0))
