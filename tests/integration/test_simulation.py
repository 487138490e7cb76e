"""The simulator: the product's own federation on made-up sound, its drop-outs, and what it says was spent."""

import argparse
import sys
from dataclasses import replace

import numpy as np
import pytest

from earmark_shared.head import HeadSchema, first_head, unit_rows
from tests.house.sources import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from simulation.federation import Recipe, Setting, federate, noise_for, training_plan
from simulation.run import SPLITS, epsilon
from simulation.sound import TEST, TRAINING, Sounds
from simulation.task import CLIPS, Task, accuracy, split

pytestmark = pytest.mark.usefixtures("epsilons_once")
LABELS = ("horn", "bell", "drum")


def made_up(devices=6):
    """A task of three labels that the base model hears as one; 64 clips a device and 60 held out."""
    rng = np.random.default_rng(3)
    count = devices * CLIPS + 60
    target = rng.integers(0, len(LABELS), count)
    centres = rng.normal(size=(len(LABELS), 8))
    encoder = (centres[target] + 0.2 * rng.normal(size=(count, 8))).astype(np.float32)
    text = unit_rows(np.tile(np.eye(6, dtype=np.float32)[0] + 0.1, (count, 1)))
    part = np.array([TRAINING] * (count - 60) + [TEST] * 60)
    owner = np.array([f"owner {each}" for each in rng.integers(0, 9, count)])
    sounds = Sounds(encoder, text, np.arange(count + 1), np.array(LABELS)[target], owner, part, rng.random(count) < 0.5)
    schema = HeadSchema(8, 6, 4, ("up", "bias"), LABELS)
    return Task(sounds, schema, first_head(schema, b"test"), np.eye(6, dtype=np.float32)[:3], target)


def quick(**changes):
    recipe = Recipe(rank=4, learning_rate=1.0, steps=2, expected_clips=32, sharpness=40.0, rate=1.0)
    return Setting(**({"rounds": 2, "epsilon": 8.0, "recipe": recipe} | changes))


@pytest.mark.parametrize("how", SPLITS)
def test_every_split_gives_each_device_64_clips_and_none_twice(how):
    task = made_up()
    dealt, is_again = split(task, 6, how, np.random.default_rng(0))
    together = np.concatenate(dealt)
    assert [len(each) for each in dealt] == [CLIPS] * 6
    assert len(np.unique(together)) == len(together)
    assert not is_again
    assert (task.sounds.part[together] == TRAINING).all()


def test_clips_are_drawn_again_only_where_there_are_too_few_and_it_is_said():
    dealt, is_again = split(made_up(), 9, "speaker", np.random.default_rng(0))
    assert is_again
    assert all(len(np.unique(each)) == CLIPS for each in dealt)


@pytest.fixture(scope="module")
def learned():
    task = made_up(20)
    clips, _ = split(task, 20, "dirichlet", np.random.default_rng(0))
    return task, federate(task, clips, quick())


def test_a_federation_learns_what_the_base_model_does_not_hear(learned):
    task, outcome = learned
    assert outcome.outcomes == ("published", "published")
    assert accuracy(task.recalls(outcome.arrays), list(LABELS)) > accuracy(task.recalls(None), list(LABELS)) + 0.3


def test_what_was_spent_is_what_the_ledgers_were_charged_and_within_what_was_asked(learned):
    _, outcome = learned
    assert 7.5 < outcome.epsilon <= 8.0


def test_silent_devices_do_not_stop_a_round_of_two_processes():
    task = made_up(26)
    clips, _ = split(task, 26, "uploader", np.random.default_rng(0))
    as_many = replace(quick().recipe, steps=4)  # as `learned` takes in two rounds, so that the noise for it is known
    outcome = federate(task, clips, quick(rounds=1, recipe=as_many, dropout=0.1, seed=2, workers=2))
    assert outcome.outcomes == ("published",)
    assert 20 <= outcome.largest_shard <= 26


def test_devices_that_lie_do_harm():
    task = made_up(20)
    clips, _ = split(task, 20, "dirichlet", np.random.default_rng(0))
    honest, lied = (federate(task, clips, quick(rounds=1, epsilon=None, lies=share)) for share in (0.0, 1.0))
    assert accuracy(task.recalls(lied.arrays), list(LABELS)) < accuracy(task.recalls(honest.arrays), list(LABELS)) - 0.3


def test_less_epsilon_means_more_noise_and_none_means_none():
    recipe = Recipe()
    assert noise_for(None, recipe, 10) < 1e-3 < noise_for(8.0, recipe, 10) < noise_for(1.0, recipe, 10)
    assert training_plan(quick(epsilon=None)).clipping_bound > training_plan(quick()).clipping_bound


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan"])
def test_an_epsilon_that_protects_nothing_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        epsilon(text)
    assert epsilon("none") is None
