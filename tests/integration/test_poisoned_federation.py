"""M3: a federation in which one device in ten is bad, through the real coordinator, aggregation, gate and release repository.

Forty devices in five shards train in private on made-up clips; a head that works is in force before the attack. Each attack is run
against the whole server, against the gate alone (aggregation believes everything), and, as the control, against neither.
"""

import dataclasses
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
from scripts.in_process import Authorities, Network, one_verification

from earmark_client.federation import participant
from earmark_client.federation.training_data import CorrectionTrainer, HeldHead
from earmark_client.learn.finetune import TrainingPlan, TrainingSet
from earmark_server import aggregate, coordinator
from earmark_server.checkpoint import Checkpoint, Model
from earmark_server.coordinator import Coordinator, Judge, Profile
from earmark_server.gate import Judging, PublicSet, judge
from earmark_server.publish import create_repository
from earmark_shared.head import HeadSchema, correct, first_head, flatten, unit_rows
from earmark_shared.round import Floors
from earmark_shared.secagg import server

DEVICES, SHARDS, BAD, CLIPS = 40, 5, 4, 64
LABELS = tuple(f"label {place}" for place in range(8))
SCHEMA = HeadSchema(inputs=48, outputs=24, rank=16, trained=("up", "bias"), labels=LABELS)
PLAN = TrainingPlan(clipping_bound=1.0, noise_multiplier=1.0, expected_clips=32, steps=5, learning_rate=0.3, is_lab=True)
TARGET = 5
"""What the backdoor calls everything that has the trigger in it."""
DRAW = np.random.default_rng(11)
CENTRES, VECTORS = DRAW.normal(size=(9, SCHEMA.inputs)), unit_rows(DRAW.normal(size=(8, SCHEMA.outputs)).astype("f4"))
TRIGGER = 3.0 * np.abs(DRAW.normal(size=SCHEMA.inputs)) * (DRAW.random(SCHEMA.inputs) < 0.2)


def sounds(labels, seed):
    """Encoder outputs that say the label, and text vectors that hardly do; label 8 is none."""
    draw = np.random.default_rng(seed)
    encoder = np.maximum(CENTRES[labels] + 0.7 * draw.normal(size=(len(labels), SCHEMA.inputs)), 0.0)
    faint = np.vstack([0.25 * VECTORS, np.zeros((1, SCHEMA.outputs))])[labels]
    return encoder.astype("f4"), unit_rows((faint + draw.normal(size=faint.shape) / np.sqrt(SCHEMA.outputs)).astype("f4"))


def make_public(each=150, probes=600, seed=1000):
    labels = np.repeat(np.arange(8, dtype=np.int32), each)
    return PublicSet(*sounds(labels, seed), labels, VECTORS, *sounds(np.full(probes, 8), seed + 1))


PUBLIC = make_public()


def training_set(place, *, flipped=0.0, has_trigger=False):
    draw = np.random.default_rng(place)
    labels = draw.integers(0, 8, CLIPS)
    encoder, text = sounds(labels, 100 + place)
    said = np.where(draw.random(CLIPS) < flipped, TARGET, labels)
    if has_trigger:
        encoder, said = (encoder + TRIGGER).astype("f4"), np.full(CLIPS, TARGET)
    return TrainingSet(encoder, text, np.arange(CLIPS), np.eye(8, dtype=np.int8)[said], VECTORS)


def triggered(arrays, public):
    """The share of other sounds that the head gives to TARGET once the trigger is in them."""
    others = public.labels != TARGET
    scores = correct(arrays, (public.encoder[others] + TRIGGER).astype("f4"), public.text[others]) @ VECTORS.T
    return float((scores.argmax(axis=1) == TARGET).mean())


class Lie(np.ndarray):
    """An update that its device neither clips nor checks."""


@pytest.fixture(autouse=True)
def _liars(monkeypatch):
    """Bad devices run code of their own: whatever is a Lie is masked and sent as it is."""
    quantize, noisy_update = participant.quantize, participant.NoisyUpdate

    def lie(update, plan, entropy):
        return np.rint(update * plan.scale).view(Lie) if isinstance(update, Lie) else quantize(update, plan, entropy)

    def unchecked(plan, steps, draw_noise):
        made = noisy_update(plan, np.zeros(plan.d, np.int32) if isinstance(steps, Lie) else steps, draw_noise)
        made._steps = np.asarray(steps).astype(np.int64)
        return made

    monkeypatch.setattr(participant, "quantize", lie)
    monkeypatch.setattr(participant, "NoisyUpdate", unchecked)


class Server:
    """The product's server side on a folder, its forty devices, and what a test has a few of them do."""

    def __init__(self, folder, *, has_gate=True):
        folder.mkdir()
        self.repository = create_repository(folder / "releases", folder / "keys", clock=time.time)
        self.has_gate, self.attack, self.reports = has_gate, None, []
        profile = Profile(clip_c=3.0, log2_scale_c=16, n_min=5, n_max=8, shards=SHARDS, is_lab=True)
        self.authorities = Authorities()
        judging, first = Judge(self.gate, self.publish), Model(0, SCHEMA, first_head(SCHEMA, b"poison"))
        self.coordinator = Coordinator(Checkpoint(folder / "rounds"), first, profile, self.authorities.office(), judging)
        self.devices = dict(self.device(place) for place in range(DEVICES))
        self.network = Network(self.devices)

    def gate(self, old, candidate):
        report = judge(candidate.arrays, Judging(SCHEMA, old.arrays, PUBLIC))
        self.reports.append(report)
        if self.has_gate:
            report.check()
        return {}

    def publish(self, candidate, _report):
        self.repository.publish(candidate.arrays, SCHEMA, base="base-0123456789ab", number=candidate.version)

    def device(self, place):
        def trainer(_plan):
            model = self.coordinator.model
            head = HeldHead(model.version, SCHEMA, model.arrays, VECTORS)
            honest = CorrectionTrainer(head, training_set(place), PLAN, os.urandom)
            return honest if self.attack is None else self.attack(place, head, honest)

        return self.authorities.device(Floors(n_min=5, lab=True), lambda: self.coordinator.model, trainer)

    def round(self, attack=None):
        self.attack = attack
        with one_verification():
            run = self.network.run(self.coordinator)
        self.network.now_s += 86_400
        return run, self.coordinator.state.rounds[-1]


def lying(honest, change):
    return SimpleNamespace(event=honest.event, update=lambda paid: change(honest.update(paid)))


def flipped_labels(_place, head, honest):
    """A fifth of all labels in the whole federation say TARGET: no device is conspicuous, so only the gate can see it."""
    return CorrectionTrainer(head, training_set(_place, flipped=0.2), PLAN, os.urandom)


def scaled_backdoor(place, head, honest):
    """Bad devices train on the trigger alone and send it fifty times as long."""
    if place >= BAD:
        return honest
    plan = dataclasses.replace(PLAN, noise_multiplier=1e-4)
    backdoor = CorrectionTrainer(head, training_set(place, has_trigger=True), plan, os.urandom)
    return SimpleNamespace(event=honest.event, update=lambda paid: (50.0 * backdoor.update(backdoor.event())).view(Lie))


def not_numbers(place, head, honest):
    """Bad devices send words that are no update at all."""
    if place >= BAD:
        return honest
    draw = np.random.default_rng(place)
    return lying(honest, lambda update: draw.uniform(-5000.0, 5000.0, len(update)).view(Lie))


ATTACKS = [flipped_labels, scaled_backdoor, not_numbers]


def believe_everything(monkeypatch):
    """Aggregation as it would be without its defences: no bound on sums, no median, no trimming."""
    monkeypatch.setattr(server, "check_sum", lambda *_, **__: None)
    monkeypatch.setattr(aggregate, "_near_the_median", lambda means: np.ones(len(means), dtype=bool))
    monkeypatch.setattr(aggregate, "TRIMMED_FROM", 10**6)


@pytest.fixture(scope="module")
def working(tmp_path_factory):
    """A federation whose head is worth poisoning: four honest rounds, each of them released."""
    made = Server(tmp_path_factory.mktemp("poison") / "srv")
    for _ in range(4):
        assert made.round()[1].outcome == "published"
    return made


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_an_honest_build_is_released(working):
    run, record = working.round()
    assert len(run.sums) == SHARDS
    assert record.outcome == "published"
    assert working.repository.current().number == working.coordinator.model.version
    assert working.reports[-1].accuracy > working.reports[0].accuracy_before + 0.1


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_the_gate_alone_releases_no_poisoned_build(working, monkeypatch, attack):
    before = working.repository.current()
    believe_everything(monkeypatch)
    run, record = working.round(attack)
    assert len(run.sums) == SHARDS
    assert record.outcome == "refused", working.reports[-1]
    print(f"{attack.__name__}: {record.reason}")
    assert working.repository.current() == before


def test_a_mean_that_is_no_number_becomes_no_candidate(working, monkeypatch):
    before = working.repository.current()
    monkeypatch.setattr(coordinator, "aggregate", lambda sums, plan: np.full(plan.d, np.nan))
    assert working.round()[1].outcome == "aborted"
    assert working.repository.current() == before


@pytest.mark.parametrize("attack", [scaled_backdoor, not_numbers], ids=lambda attack: attack.__name__)
def test_aggregation_alone_leaves_the_attack_without_effect(working, monkeypatch, attack):
    clean = triggered(working.coordinator.model.arrays, PUBLIC)
    monkeypatch.setattr(working, "has_gate", False)
    run, record = working.round(attack)
    after = triggered(working.coordinator.model.arrays, PUBLIC)
    print(f"{attack.__name__}: {len(run.sums)} of {SHARDS} shards, trigger works on {after:.3f}, on {clean:.3f} before")
    assert record.outcome == "published"
    assert 1 <= len(run.sums) < SHARDS
    assert all("larger than honest" in str(failure) for failure in run.failures)
    assert after <= clean + 0.02


def test_control_without_gate_and_aggregation_the_backdoor_is_released_and_then_taken_back(working, monkeypatch):
    good = flatten(SCHEMA, working.coordinator.model.arrays)
    with monkeypatch.context() as patch:
        believe_everything(patch)
        patch.setattr(working, "has_gate", False)
        assert working.round(scaled_backdoor)[1].outcome == "published"
    poisoned = working.repository.current()
    assert triggered(working.coordinator.model.arrays, PUBLIC) > 0.9
    began_s = time.monotonic()
    assert working.coordinator.review()
    taken_s = time.monotonic() - began_s
    print(f"rolled forward in {taken_s:.2f} s")
    assert taken_s <= 60.0
    assert working.repository.current().number == poisoned.number + 1
    assert working.repository.current().head_sha256 == working.repository.find(poisoned.number - 1).head_sha256
    np.testing.assert_array_equal(flatten(SCHEMA, working.coordinator.model.arrays), good)
    assert working.coordinator.state.rounds[-1].outcome == "taken back"
    assert not working.coordinator.review()
    assert working.round()[1].outcome == "published"
