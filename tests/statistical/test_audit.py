"""D7, D8, D10: two thousand white-box canaries in the head's own training. What leaks is within the claim, and a fault is seen.

Every canary is a clip whose gradient lies along a coordinate of its own, ten times the clipping bound long; a coin decides
whether it is in the training set. The attacker knows everything and reads the trained head, coordinate by coordinate. Only the
gradients are put in; drawing, clipping, grid, noise and steps are the product's.
"""

import math
import os

import numpy as np
import pytest
from tests.statistical.test_noise import complaints, in_a_fork
from tests.support.auditing import auc, gaussian_epsilon, one_run_epsilon
from tests.support.privacy import ReplayableEntropy

from earmark_client.learn.finetune import TrainingPlan, TrainingSet, planned_event, train
from earmark_shared.head import HeadSchema, first_head
from earmark_shared.privacy import mechanism
from earmark_shared.privacy.accountant import RECORD_DELTA, record_epsilon

CANARIES = 2000
RUNS = 4
CLAIMS = [2.0, 8.0]
RISK = 0.05 / (RUNS * 3 * 2)
"""Bonferroni over runs, claims (with the sampled one) and methods."""
SCHEMA = HeadSchema(inputs=1, outputs=40, rank=49, trained=("up", "bias"), labels=tuple(map(str, range(40))))
"""As many labels as outputs: an update keeps every direction, so that each canary shows in one coordinate."""
BOUND = 0.5


class CanaryGradients:
    """Stands in for the gradients of clips: each row along the coordinate that its clip's one encoder output names."""

    def __init__(self, *_):
        pass

    def prepared(self, data):
        return data

    def of(self, weights, batch):
        rows = np.zeros((len(batch.targets), weights.size))
        places = batch.encoder_outputs[:, 0, 0].astype(int)
        real = places >= 0
        rows[np.flatnonzero(real), places[real]] = -10.0 * BOUND
        return rows


@pytest.fixture(autouse=True)
def canaries(monkeypatch):
    assert SCHEMA.size == CANARIES
    monkeypatch.setattr("earmark_client.learn.correction.ClipGradients", CanaryGradients)


def noise_for(epsilon, **sampling):
    """The least noise multiplier that may claim `epsilon`."""
    low, high = 0.1, 50.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if record_epsilon([planned_event(plan(middle, **sampling), 1400)]) > epsilon else (low, middle)
    return high


def plan(noise, *, expected=1024, steps=1):
    return TrainingPlan(clipping_bound=BOUND, noise_multiplier=noise, expected_clips=expected, steps=steps, learning_rate=1.0)


def attack(noise, seed, **sampling):
    """Train once; return every canary's score and whether it was there."""
    present = np.random.default_rng(seed).random(CANARIES) < 0.5
    # Others beside the canaries, so that the public bucket is 1024 however the coins fall.
    places = np.concatenate([np.flatnonzero(present), np.full(400, -1)])
    clips = len(places)
    data = TrainingSet(
        encoder_outputs=places[:, None].astype("f4"),
        text=np.ones((clips, 40), "f4"),
        clips=np.arange(clips),
        targets=np.ones((clips, 40), np.int8),
        label_vectors=np.eye(40, dtype="f4"),
    )
    chosen = plan(noise, **sampling)
    trained = train(SCHEMA, first_head(SCHEMA, b""), data, chosen, paid=planned_event(chosen, clips), entropy=os.urandom)
    return trained.update.astype(np.float64), present


def bounds(noise, seed, *, risk=RISK, **sampling):
    scores, present = attack(noise, seed, **sampling)
    return (
        one_run_epsilon(scores, present, delta=RECORD_DELTA, risk=risk),
        gaussian_epsilon(scores, present, delta=RECORD_DELTA, risk=risk),
    )


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("seed", range(RUNS))
def test_what_an_audit_finds_is_within_the_claim(claim, seed):
    one_run, gaussian = bounds(noise_for(claim), seed)
    print(f"claimed {claim}: one run {one_run:.2f}, Gaussian {gaussian:.2f}")
    assert max(one_run, gaussian) <= claim


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(RUNS))
def test_what_an_audit_finds_with_sampling_is_within_the_claim(seed):
    sampling = {"expected": 256, "steps": 8}
    one_run, gaussian = bounds(noise_for(8.0, **sampling), seed, **sampling)
    assert one_run <= 8.0
    assert gaussian <= 8.0


def weaken(monkeypatch, fault):
    if fault == "no noise":
        monkeypatch.setattr(mechanism, "discrete_gaussian", lambda stddev, size, entropy: np.zeros(size, dtype=np.int64))
    elif fault == "a tenth of the noise":
        right = mechanism.discrete_gaussian
        monkeypatch.setattr(mechanism, "discrete_gaussian", lambda stddev, size, entropy: right(stddev / 10, size, entropy))
    else:
        monkeypatch.setattr(mechanism, "_clip_to_grid", lambda rows, bound: np.trunc(rows / bound * mechanism.GRID_STEPS))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["no noise", "a tenth of the noise", "no clipping"])
@pytest.mark.parametrize("claim", [1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("seed", range(2))
def test_control_a_broken_mechanism_is_caught(monkeypatch, fault, claim, seed):
    noise = noise_for(claim)
    weaken(monkeypatch, fault)
    one_run, gaussian = bounds(noise, seed, risk=0.05)
    print(f"claimed {claim}, {fault}: one run {one_run:.2f}, Gaussian {gaussian:.2f}")
    assert gaussian > claim
    if claim <= 4.0:
        assert one_run > claim


@pytest.mark.slow
@pytest.mark.parametrize("claim", [1.0, 2.0, 4.0, 8.0])
def test_canaries_are_told_apart_no_better_than_theory_allows(claim):
    noise = noise_for(claim)
    ceiling = 0.5 * math.erfc(-1.0 / noise / 2.0)
    # One run's area has a standard error of .011 and would pass two of them now and then; the mean of eight runs has .004.
    found = float(np.mean([auc(*attack(noise, seed)) for seed in range(99, 107)]))
    print(f"claimed {claim}: AUC {found:.3f}, theory {ceiling:.3f}")
    assert abs(found - ceiling) <= 0.016


# ---- one clip that is not clipped: no audit of one run sees it, many runs do -------------------------------------------------------
def one_canary_of_many_runs(noise, runs=400):
    """Train `runs` times with a coin each; only clip 0 is a canary, and the one coordinate that it moves is its score."""
    chosen, present = plan(noise, expected=64), np.random.default_rng(7).random(runs) < 0.5
    scores = np.zeros(runs)
    for run in range(runs):
        places = np.full(70, -1)
        places[0] = 0 if present[run] else -1
        data = TrainingSet(
            encoder_outputs=places[:, None].astype("f4"),
            text=np.ones((70, 2), "f4"),
            clips=np.arange(70),
            targets=np.ones((70, 1), np.int8),
            label_vectors=np.ones((1, 2), "f4"),
        )
        trained = train(SMALL, first_head(SMALL, b""), data, chosen, paid=planned_event(chosen, 70), entropy=os.urandom)
        scores[run] = trained.update[0]
    return gaussian_epsilon(scores, present, delta=RECORD_DELTA, risk=0.05)


SMALL = HeadSchema(inputs=1, outputs=2, rank=1, trained=("up", "bias"), labels=("label",))


def one_is_not_clipped(monkeypatch):
    clipped = mechanism._clip_to_grid

    def all_but_the_first(rows, bound):
        done = clipped(rows, bound)
        done[:1] = np.trunc(rows[:1] / bound * mechanism.GRID_STEPS)
        return done

    monkeypatch.setattr(mechanism, "_clip_to_grid", all_but_the_first)


@pytest.mark.slow
@pytest.mark.parametrize("claim", [1.0, 2.0, 4.0, 8.0])
def test_control_one_clip_that_is_not_clipped_is_caught(monkeypatch, claim):
    noise = noise_for(claim)
    right = one_canary_of_many_runs(noise)
    one_is_not_clipped(monkeypatch)
    wrong = one_canary_of_many_runs(noise)
    print(f"claimed {claim}: clipped {right:.2f}, one not clipped {wrong:.2f}")
    assert right <= claim < wrong


# ---- what an audit can't see, the distribution of the noise shows: D2 on what training itself gives ----------------------------------
WIDE = HeadSchema(inputs=1, outputs=400, rank=61, trained=("up", "bias"), labels=tuple(f"label {at}" for at in range(400)))
"""As many labels as outputs: with fewer, training keeps the noise to what the labels span, and its coordinates are related."""
MULTIPLIER = 1.2


def noise_of_a_training(entropy):
    """Train one step on clips without gradient; return the noise alone, `(24800,)` in steps of the grid."""
    chosen = plan(MULTIPLIER, expected=64)
    data = TrainingSet(
        encoder_outputs=np.full((64, 1), -1, "f4"),
        text=np.ones((64, 400), "f4"),
        clips=np.arange(64),
        targets=np.ones((64, 400), np.int8),
        label_vectors=np.ones((400, 400), "f4"),
    )
    trained = train(WIDE, first_head(WIDE, b""), data, chosen, paid=planned_event(chosen, 64), entropy=entropy)
    return np.rint(trained.update.astype(np.float64) * 64 * mechanism.GRID_STEPS / BOUND)


def complaints_about_training(entropies):
    """D2 on 41 trainings, a million draws: what is wrong with them together, and whether two of them are related."""
    draws = np.array([noise_of_a_training(entropy) for entropy in entropies])
    found = complaints(draws.ravel(), MULTIPLIER * (mechanism.GRID_STEPS + mechanism.SLACK_STEPS))
    related = np.abs(np.corrcoef(draws)[np.triu_indices(len(draws), 1)]).max() > 6 / math.sqrt(WIDE.size)
    return [*found, *(["two trainings are related"] if related else [])]


@pytest.mark.slow
def test_the_noise_of_a_million_trained_coordinates_is_what_is_claimed(monkeypatch):
    assert complaints_about_training([os.urandom] * 41) == []
    right = mechanism.discrete_gaussian
    monkeypatch.setattr(mechanism, "discrete_gaussian", lambda stddev, size, entropy: right(stddev / 2, size, entropy))
    assert "variance" in complaints_about_training([os.urandom] * 41), "half the noise, which the audit alone may miss"


@pytest.mark.slow
def test_control_a_seed_that_is_used_again_is_noticed():
    assert "two trainings are related" in complaints_about_training([ReplayableEntropy(b"fixed") for _ in range(41)])


@pytest.mark.slow
def test_a_training_after_a_fork_draws_other_noise():
    theirs = in_a_fork(lambda: noise_of_a_training(os.urandom).astype(np.int64))
    ours = noise_of_a_training(os.urandom).astype(np.int64)
    assert abs(np.corrcoef(theirs, ours)[0, 1]) < 6 / math.sqrt(WIDE.size)
    kept = ReplayableEntropy(b"kept across a fork")
    theirs = in_a_fork(lambda: noise_of_a_training(kept).astype(np.int64))
    assert (theirs == noise_of_a_training(kept).astype(np.int64)).all(), "the control: a generator that is kept"


def test_a_short_audit_sees_right_from_wrong(monkeypatch):
    noise = noise_for(4.0)
    assert max(bounds(noise, 5)) <= 4.0
    weaken(monkeypatch, "a tenth of the noise")
    assert min(bounds(noise, 5, risk=0.05)) > 4.0
