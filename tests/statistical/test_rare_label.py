"""D12: only one device holds label X. Its update doesn't show it: no coordinate is exactly zero, and a guess is within epsilon.

A worst case: every label's sound excites one feature of the head that no other sound does, so that without noise a device's update is
zero wherever it has heard nothing. The attacker sees the update alone, unmasked, and knows all but whether the one clip was there.
"""

import os

import numpy as np
import pytest
from tests.support.auditing import auc
from tests.support.privacy import ReplayableEntropy

from earmark_client.federation.device import training_plan
from earmark_client.learn.finetune import TrainingSet, planned_event, train
from earmark_shared.base_head import base_schema
from earmark_shared.head import HeadSchema, first_head, unit_rows
from earmark_shared.privacy import mechanism
from earmark_shared.privacy.accountant import record_epsilon

CLIPS, FEATURES, RARE = 64, 8, 7
RUNS = 300
"""Trainings with the clip, and as many without."""
DELTAS = (1e-5, 1e-3, 0.01, 0.03, 0.1, 0.2)


def world(outputs):
    """A head with a feature for each label's sound, and the labels' vectors; with more outputs than labels noise is kept to their span."""
    schema = HeadSchema(FEATURES, outputs, FEATURES, base_schema().trained, tuple(f"label {place}" for place in range(FEATURES)))
    still = {"down": np.eye(FEATURES, dtype="f4"), "shift": np.zeros(FEATURES, "f4")}
    vectors = unit_rows(np.random.default_rng(0).normal(size=(FEATURES, outputs)).astype("f4"))
    return schema, first_head(schema, b"rare") | still, vectors


def clips_of(labels, vectors):
    """One clip of one segment for each of `labels`."""
    said = np.eye(FEATURES)[labels]
    text = unit_rows(np.random.default_rng(1).normal(size=(len(labels), vectors.shape[1])).astype("f4"))
    return TrainingSet(said.astype("f4"), text, np.arange(len(labels)), said.astype(np.int8), vectors)


def update(held, entropy, outputs=FEATURES):
    """What a device that holds these clips sends, before masking: `(outputs, features)` by the shipped plan."""
    schema, arrays, vectors = world(outputs)
    plan = training_plan(len(held), is_lab=False)
    trained = train(schema, arrays, clips_of(held, vectors), plan, paid=planned_event(plan, len(held)), entropy=entropy)
    return trained.update.reshape(outputs, FEATURES)


def common(seed=2):
    """Labels of clips none of which is rare."""
    return np.random.default_rng(seed).integers(0, RARE, CLIPS)


HOLDINGS = {"one label": np.zeros(CLIPS, int), "all but one": common(), "the rare one, too": np.append(common(), RARE)}


@pytest.fixture
def noiseless(monkeypatch):
    monkeypatch.setattr(mechanism, "discrete_gaussian", lambda stddev, size, entropy: np.zeros(size, dtype=np.int64))


@pytest.mark.parametrize("outputs", [FEATURES, 2 * FEATURES], ids=["all directions", "the labels' span"])
@pytest.mark.parametrize("held", HOLDINGS.values(), ids=HOLDINGS)
def test_no_coordinate_of_an_update_is_zero_whatever_labels_a_device_holds(held, outputs):
    assert update(held, ReplayableEntropy(b"rare"), outputs).all()


@pytest.mark.parametrize("held", HOLDINGS.values(), ids=HOLDINGS)
def test_control_without_noise_zeros_say_what_a_device_holds(noiseless, held):
    drawn = ReplayableEntropy(b"drawn: the rare clip as well")
    assert np.flatnonzero(update(held, drawn).any(axis=0)).tolist() == sorted(set(held))


def area():
    """How well the best linear score tells updates with the rare clip from those without: the AUC, and its standard error at chance."""
    without, present = common(), np.arange(2 * RUNS) % 2 == 1
    sent = np.array([update(np.append(without, RARE) if there else without, os.urandom)[:, RARE] for there in present])
    _, _, vectors = world(FEATURES)
    pull = vectors[RARE] - vectors.mean(axis=0)  # a yes draws text vectors to its label, and from the others
    return auc(sent @ pull, present), np.sqrt((2 * RUNS + 1) / (12 * RUNS**2))


def most_that_epsilon_allows(event):
    """The largest AUC that the accountant's (epsilon, delta) allow, at several deltas at once: one minus the area below their trade-off."""
    alarms = np.linspace(0.0, 1.0, 10_001)
    missed = np.zeros_like(alarms)
    for delta in DELTAS:
        factor = np.exp(record_epsilon([event], delta=delta))
        missed = np.maximum(missed, np.maximum(1.0 - delta - factor * alarms, (1.0 - delta - alarms) / factor))
    return 1.0 - float(np.trapezoid(missed, alarms))


@pytest.mark.slow
def test_whether_a_device_holds_the_rare_label_is_told_no_better_than_epsilon_allows():
    found, error = area()
    most = most_that_epsilon_allows(planned_event(training_plan(CLIPS, is_lab=False), CLIPS))
    print(f"AUC {found:.3f}, epsilon allows {most:.3f}, standard error {error:.3f}")
    assert found <= most + 2.0 * error


@pytest.mark.slow
def test_control_without_noise_it_is_told(noiseless):
    found, _ = area()
    print(f"without noise: AUC {found:.3f}")
    assert found >= 0.95
