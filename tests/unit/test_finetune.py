"""Private training: what it draws from, what it costs, what it learns, what it refuses."""

import dataclasses
import os

import numpy as np
import pytest
from tests.support.privacy import ReplayableEntropy, small_head, small_schema, training_set

from earmark_client.learn import finetune
from earmark_client.learn.finetune import MAX_SEGMENTS, ClipBatches, TrainingPlan, planned_event, train
from earmark_shared.errors import BudgetError, NoiseError
from earmark_shared.head import MAX_WEIGHT, correct, flatten, unflatten

SCHEMA = small_schema()
PLAN = TrainingPlan(clipping_bound=1.0, noise_multiplier=1.0, expected_clips=16, steps=5, learning_rate=0.5)
WEAK_TORCH = ["normal", "randn", "rand", "randint", "randperm", "randn_like", "rand_like", "bernoulli", "multinomial", "poisson"]
WEAK_TENSOR = ["normal_", "uniform_", "random_", "bernoulli_", "exponential_"]
WEAK_NUMPY = [
    "normal",
    "rand",
    "randn",
    "random",
    "choice",
    "permutation",
    "shuffle",
    "standard_normal",
    "default_rng",
    "poisson",
]


@pytest.fixture(scope="module", autouse=True)
def torch():
    """The library that trains, loaded when the first of these tests runs: collecting them costs nothing."""
    import torch

    import earmark_client.learn.correction  # noqa: F401  before generators are forbidden: scipy, imported by it, draws an example

    torch.set_num_threads(1)
    return torch


def run(plan=PLAN, data=None, *, schema=SCHEMA, head=None, entropy=None):
    data = data if data is not None else training_set(schema)
    head = head or small_head(schema)
    return train(schema, head, data, plan, paid=planned_event(plan, data.clip_count), entropy=entropy or ReplayableEntropy())


def forbid_weak_generators(monkeypatch, torch):
    def refuse(*_, **__):
        raise AssertionError("a generator that is not cryptographic was called")

    for owner, names in ((torch, WEAK_TORCH), (torch.Tensor, WEAK_TENSOR), (np.random, WEAK_NUMPY)):
        for name in names:
            monkeypatch.setattr(owner, name, refuse)


def test_training_calls_no_weak_generator(monkeypatch, torch):
    data, head = training_set(SCHEMA), small_head(SCHEMA)
    forbid_weak_generators(monkeypatch, torch)
    assert run(data=data, head=head, entropy=os.urandom).update.any()


def test_control_a_weak_generator_would_be_noticed(monkeypatch, torch):
    forbid_weak_generators(monkeypatch, torch)
    for call in (lambda: torch.normal(0.0, 1.0, (1,)), lambda: torch.zeros(1).normal_(), lambda: np.random.normal(0.0)):
        with pytest.raises(AssertionError, match="not cryptographic"):
            call()


def test_everything_random_comes_from_the_entropy_passed_in():
    assert (run().update == run().update).all()
    assert not (run().update == run(entropy=ReplayableEntropy(b"other")).update).all()
    assert not (run(entropy=os.urandom).update == run(entropy=os.urandom).update).any()


def test_with_little_noise_it_learns():
    data, head = training_set(SCHEMA, clips=128), small_head(SCHEMA)
    plan = dataclasses.replace(PLAN, noise_multiplier=1e-3, steps=40, learning_rate=1.0)

    def accuracy(arrays):
        scores = correct(arrays, data.encoder_outputs, data.text) @ data.label_vectors.T
        return float((data.targets[np.arange(len(scores)), scores.argmax(axis=1)] == 1).mean())

    learned = unflatten(SCHEMA, flatten(SCHEMA, head) + run(plan, data, head=head).update, head)
    assert accuracy(learned) > accuracy(head) + 0.3


@pytest.mark.parametrize("value", [MAX_WEIGHT, -MAX_WEIGHT])
def test_no_head_makes_training_fail(value):
    """Weights at the limit would be over it or not by the noisy gradient's sign: a refusal would tell that, and cost nothing."""
    head = small_head(SCHEMA)
    head["up"] = np.full_like(head["up"], value)
    update = run(head=head).update
    after = flatten(SCHEMA, head).astype(np.float64) + update
    assert np.abs(after).max() <= MAX_WEIGHT * (1 + 1e-6)
    assert (update != 0).any()


def test_every_coordinate_gets_noise():
    """Section 2.11: a label or a direction that nobody here has must not show as a zero."""
    data = training_set(SCHEMA)
    still = dataclasses.replace(data, encoder_outputs=np.zeros_like(data.encoder_outputs), text=np.zeros_like(data.text))
    assert (run(dataclasses.replace(PLAN, steps=1), still).update != 0).all()


def test_a_step_in_which_no_clip_is_drawn_still_adds_noise(monkeypatch):
    monkeypatch.setattr(finetune, "poisson_sample", lambda *_: np.array([], dtype=np.int64))
    update = run(dataclasses.replace(PLAN, steps=1)).update
    seen = len(SCHEMA.labels) / SCHEMA.outputs
    assert np.linalg.norm(update) == pytest.approx(0.5 * np.sqrt(SCHEMA.size * seen) / 16, rel=0.3)


def moved_out_of_sight(update):
    labels = np.linalg.qr(training_set(SCHEMA).label_vectors.T.astype(np.float64))[0]
    up = unflatten(SCHEMA, update, small_head(SCHEMA))["up"]
    return np.linalg.norm(up - labels @ (labels.T @ up)) / np.linalg.norm(up)


def test_noise_moves_text_vectors_only_where_a_label_can_see_it(monkeypatch):
    assert moved_out_of_sight(run().update) < 1e-6
    monkeypatch.setattr(finetune, "label_span", lambda _: None)
    assert moved_out_of_sight(run().update) > 0.3


def test_many_labels_see_everything():
    assert finetune.label_span(np.eye(6, 4, dtype=np.float32)) is None


def test_a_clip_that_gives_no_number_changes_nothing_and_stops_nothing():
    data = training_set(SCHEMA)
    spoilt = data.encoder_outputs.copy()
    spoilt[data.clips == 3] = np.nan
    update = run(data=dataclasses.replace(data, encoder_outputs=spoilt)).update
    assert np.isfinite(update).all()


def test_the_pull_back_keeps_the_update_short():
    plan = dataclasses.replace(PLAN, steps=20)
    free, pulled = run(plan).update, run(dataclasses.replace(plan, proximal=1.0)).update
    assert np.linalg.norm(pulled) < 0.8 * np.linalg.norm(free)


def test_the_event_names_the_public_bucket_only():
    events = {planned_event(PLAN, clips) for clips in range(64, 128)}
    assert {(event.noise_multiplier, event.sampling_probability, event.steps) for event in events} == {(1.0, 0.25, 5)}


def test_what_was_paid_for_is_what_runs():
    data = training_set(SCHEMA)
    for paid in (
        planned_event(dataclasses.replace(PLAN, steps=4), data.clip_count),
        planned_event(dataclasses.replace(PLAN, noise_multiplier=2.0), data.clip_count),
        planned_event(PLAN, 200),
    ):
        with pytest.raises(BudgetError):
            train(SCHEMA, small_head(SCHEMA), data, PLAN, paid=paid, entropy=os.urandom)


def test_too_few_clips_do_not_train():
    with pytest.raises(NoiseError):
        planned_event(PLAN, 63)


@pytest.mark.parametrize("change", [{"noise_multiplier": 0.0}, {"expected_clips": 65}, {"expected_clips": 0}, {"steps": 0}])
def test_a_plan_that_protects_nothing_is_refused(change):
    with pytest.raises(NoiseError):
        planned_event(dataclasses.replace(PLAN, **change), 80)


@pytest.mark.parametrize("field", ["encoder_outputs", "text", "targets", "label_vectors"])
def test_arrays_that_do_not_fit_are_refused(field):
    data = training_set(SCHEMA)
    with pytest.raises(NoiseError, match=field):
        run(data=dataclasses.replace(data, **{field: getattr(data, field)[:, :-1]}))


def test_a_clip_without_a_segment_is_refused():
    data = training_set(SCHEMA)
    with pytest.raises(NoiseError, match="segment"):
        run(data=dataclasses.replace(data, clips=np.where(data.clips == 5, 6, data.clips)))


def test_a_long_clip_costs_no_more_than_a_bounded_one():
    data = training_set(SCHEMA, clips=64)
    rows = np.concatenate([np.arange(len(data.clips)), np.zeros(1000, dtype=np.int64)])
    long = dataclasses.replace(
        data, encoder_outputs=data.encoder_outputs[rows], text=data.text[rows], clips=data.clips[rows], targets=data.targets[rows]
    )
    (batch,) = ClipBatches(long).of(np.arange(64))
    assert batch.encoder_outputs.shape == (64, MAX_SEGMENTS, SCHEMA.inputs)
    assert batch.weights.sum(axis=1) == pytest.approx(np.ones(64))


def test_many_clips_come_in_bounded_batches():
    data = training_set(SCHEMA, clips=150)
    assert [len(part.targets) for part in ClipBatches(data).of(np.arange(150))] == [64, 64, 22]


def test_the_persons_thread_setting_is_left_as_it_was(torch):
    before = torch.get_num_threads()
    run()
    assert torch.get_num_threads() == before
