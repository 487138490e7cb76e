"""D9: who was in the training set can't be told from a federated head. Black box: the attacker asks the head about clips.

The federation is the product's: 32 devices (the fewest that a shard outside a lab forms with) of 64 clips, participants, secure
aggregation, coordinator. Half of 4,096 made-up clips train. The attacks are a loss threshold and LiRA with 16 shadow models that
know everything but the noise. "A year" is the simulator's recipe at epsilon 8, "a month" the shipped training plan for as many
rounds as epsilon 2 pays for.
"""

import sys
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from scripts.in_process import Authorities, Network, one_verification
from tests.house.sources import ROOT
from tests.support.auditing import auc
from tests.support.membership import SCHEMA, confidence, likelihood_ratios, make_pool, shadow, true_positives
from tests.support.privacy import ReplayableEntropy

from earmark_client.federation.device import training_plan as shipped_plan
from earmark_client.federation.training_data import CorrectionTrainer, HeldHead
from earmark_client.learn.finetune import TrainingPlan, planned_event
from earmark_client.learn.ledger import Budget
from earmark_server.checkpoint import Checkpoint, Model
from earmark_server.coordinator import Coordinator, Judge, Profile, no_gate, publish_nowhere
from earmark_shared.privacy.accountant import record_epsilon
from earmark_shared.round import Floors

sys.path.insert(0, str(ROOT / "scripts"))
from simulation.federation import NO_NOISE, UNCLIPPED, Setting, training_plan

DEVICES, CLIPS, SHADOWS, TARGETS = 32, 64, 16, 8
MEMBERS = DEVICES * CLIPS


class Regime(NamedTuple):
    """What devices do in a round, how many rounds there are, and how far the server moves the head along their mean update."""

    plan: TrainingPlan
    rounds: int
    rate: float = 1.0


def rounds_for(plan, epsilon):
    """How many rounds of `plan` a budget pays for."""
    event, rounds = planned_event(plan, CLIPS), 1
    while record_epsilon([event] * (rounds + 1)) <= epsilon:
        rounds += 1
    return rounds


def a_year():
    setting = Setting(rounds=10, epsilon=Budget().record_epsilon)
    return Regime(training_plan(setting), 10, setting.recipe.rate)


def a_month():
    plan = shipped_plan(CLIPS, is_lab=False)
    return Regime(plan, rounds_for(plan, Budget().record_epsilon_month))


def without_privacy():
    plan = replace(shipped_plan(CLIPS, is_lab=False), noise_multiplier=NO_NOISE, clipping_bound=UNCLIPPED, expected_clips=CLIPS)
    return Regime(plan, 10)


def federated(pool, members, regime, *, seed, folder):
    """The head that the product's own federation makes of `members`."""
    authorities, devices = Authorities(), {}
    profile = Profile(clip_c=10.0, log2_scale_c=16, n_max=64, rate=regime.rate)
    judge = Judge(no_gate, publish_nowhere)
    coordinator = Coordinator(Checkpoint(folder), Model(0, SCHEMA, pool.first), profile, authorities.office(), judge)
    for place, own in enumerate(np.array_split(members, DEVICES)):
        data, entropy = pool.training_set(own), ReplayableEntropy(f"{seed} {place}".encode())

        def trainer(_plan, data=data, entropy=entropy):
            model = coordinator.model
            return CorrectionTrainer(
                HeldHead(model.version, SCHEMA, model.arrays, data.label_vectors), data, regime.plan, entropy
            )

        alias, device = authorities.device(Floors(), lambda: coordinator.model, trainer)
        devices[alias] = device
    network = Network(devices)
    with one_verification():
        for _ in range(regime.rounds):
            assert len(network.run(coordinator).sums) == 1
            network.now_s += 86_400
    assert coordinator.model.version == regime.rounds
    return coordinator.model.arrays


def halves(count, seed):
    draw = np.random.default_rng(seed)
    for _ in range(count):
        present = np.zeros(2 * MEMBERS, bool)
        present[draw.permutation(2 * MEMBERS)[:MEMBERS]] = True
        yield present, draw.permutation(np.flatnonzero(present))


def attacked(make_regime, targets, folder):
    """Mean AUC and mean true positives at 1 % false ones over `targets` federations: `{attack: (auc, tpr)}`."""
    regime, pool = make_regime(), make_pool(2 * MEMBERS)
    plan, rounds, rate = regime
    presents, scores = [], []
    for seed, (present, members) in enumerate(halves(SHADOWS, seed=1)):
        arrays = shadow(pool, members, plan, devices=DEVICES, rounds=rounds, rate=rate, seed=seed)
        presents.append(present)
        scores.append(confidence(pool, arrays, plan.sharpness))
    found = {"loss": [], "lira": []}
    for seed, (present, members) in enumerate(halves(targets, seed=2)):
        arrays = federated(pool, members, regime, seed=seed, folder=folder / str(seed))
        loss = confidence(pool, arrays, plan.sharpness)
        for name, score in (("loss", loss), ("lira", likelihood_ratios(loss, np.array(scores), np.array(presents)))):
            found[name].append((auc(score, present), true_positives(score, present)))
    for name, pairs in found.items():
        print(f"{make_regime.__name__}, {name}: AUC and true positives at 1 % {np.round(pairs, 4).tolist()}")
    return {name: tuple(np.mean(pairs, axis=0)) for name, pairs in found.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("regime", [a_year, a_month], ids=lambda regime: regime.__name__)
def test_members_are_hardly_told_from_others(regime, tmp_path):
    for area, hits in attacked(regime, TARGETS, tmp_path).values():
        assert area <= 0.53
        assert hits <= 0.02


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_control_without_privacy_members_are_told(tmp_path):
    area, hits = attacked(without_privacy, 1, tmp_path)["lira"]
    assert area >= 0.70
    assert hits > 0.04
