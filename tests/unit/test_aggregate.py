"""Sums become a mean: exact for few shards, trimmed for many, and no further than a poisoned shard can push."""

from types import SimpleNamespace

import numpy as np
import pytest
from scripts.in_process import NOW_S
from tests.support.rounds import SCHEMA, Small

from earmark_server.aggregate import aggregate, apply_update, trimmed_mean
from earmark_shared.errors import CountError, ModelError
from earmark_shared.head import first_head, flatten


@pytest.fixture
def plan(tmp_path):
    return Small(tmp_path / "rounds", 1).coordinator.begin(NOW_S).plan


def shard(plan, mean, devices):
    steps = np.rint(np.asarray(mean) * plan.scale * devices).astype("<i4")
    return SimpleNamespace(steps=steps, survivors=tuple(bytes([place]) * 16 for place in range(devices)))


def test_every_device_counts_the_same_whatever_its_shard(plan):
    ones = np.ones(plan.d)
    found = aggregate([shard(plan, ones, 30), shard(plan, 2 * ones, 10)], plan)
    assert np.allclose(found, 1.25, atol=1e-4)


def test_one_poisoned_shard_of_five_moves_nothing_far(plan):
    rng = np.random.default_rng(0)
    honest = [rng.normal(0, 0.01, plan.d) + 0.1 for _ in range(4)]
    for poison in (np.full(plan.d, 0.25), np.full(plan.d, -0.25), np.full(plan.d, 5.0)):
        found = aggregate([shard(plan, mean, 20) for mean in (*honest, poison)], plan)
        assert np.abs(found - 0.1).max() < 0.04
    plain = np.mean([*honest, np.full(plan.d, -0.25)], axis=0)
    assert np.abs(plain - 0.1).max() > 0.06, "the control: a plain mean follows the poison"


def test_a_trimmed_mean_leaves_out_a_fifth_on_each_side():
    assert trimmed_mean(np.array([[-100.0], [1.0], [2.0], [3.0], [100.0]])) == [2.0]


def test_nothing_opened_is_nothing_to_learn_from(plan):
    with pytest.raises(CountError):
        aggregate([], plan)


def test_a_head_that_ran_away_is_refused():
    head = first_head(SCHEMA, b"t")
    moved = apply_update(SCHEMA, head, np.full(SCHEMA.size, 0.5), rate=0.5)
    assert np.allclose(flatten(SCHEMA, moved) - flatten(SCHEMA, head), 0.25)
    for wild in (np.nan, np.inf, 1e9):
        with pytest.raises(ModelError):
            apply_update(SCHEMA, head, np.full(SCHEMA.size, wild))
