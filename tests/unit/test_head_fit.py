"""How the shipped head is fitted: each piece on made-up recordings whose answer is known."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from earmark_client import ranking
from earmark_client.audio.features import FeatureExtractor, MelSpec
from earmark_client.model.head import Head

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import head_calibration
import head_fit
from head_fit import Recipe, Sounds

DIM, CLASSES, CLIPS, SEGMENTS = 30, 12, 60, 4
MULTI = FeatureExtractor(MelSpec()).layout[-1][2]


@pytest.fixture(scope="module")
def sounds():
    """60 clips of 4 segments and 6 labels; output 0 to 5 says the label, output 6 is loud and says nothing."""
    generator = np.random.default_rng(3)
    label = np.arange(CLIPS) % 6
    output = generator.gamma(1.0, 0.2, (CLIPS, DIM))
    output[np.arange(CLIPS), label] += 2
    output[:, 6] = generator.gamma(1.0, 20.0, CLIPS)
    segments = np.repeat(output, SEGMENTS, axis=0) + generator.gamma(1.0, 0.02, (CLIPS * SEGMENTS, DIM))
    part = np.where(np.arange(CLIPS) < 30, "fold 2", "creature")
    return Sounds(
        segments.astype(np.float32),
        generator.normal(size=(CLIPS * SEGMENTS, MULTI)).astype(np.float32),
        np.arange(CLIPS + 1) * SEGMENTS,
        np.array([f"label {each}" for each in label]),
        np.array([f"group {each}" for each in range(CLIPS)]),
        part,
    )


@pytest.fixture(scope="module")
def arrays():
    """A class layer whose classes 0 to 5 are the labels, and a fold that keeps all."""
    codes = np.zeros((DIM, CLASSES), np.int8)
    codes[np.arange(6), np.arange(6)] = 100
    return {
        "class_codes": codes,
        "class_scale": np.full(CLASSES, 0.05, np.float32),
        "class_bias": np.full(CLASSES, -5, np.float32),
        "fold": np.eye(CLASSES, dtype=np.float16),
        "class_spread": np.ones(CLASSES, np.float32),
        "phrase_codes": (np.eye(CLASSES) * 127).astype(np.int8),
        "phrase_scale": np.full(CLASSES, 1 / 127, np.float16),
        "phrase_starts": np.arange(CLASSES, dtype=np.int32),
        "sharpness": np.array([30.0], np.float32),
    }


def spread_within_and_between(values, sounds):
    """Variance of clips about their label's mean, and of the labels' means, summed over axes."""
    centres = values.reshape(CLIPS, SEGMENTS, -1).mean(axis=1)
    means = np.stack([centres[sounds.label == label].mean(axis=0) for label in np.unique(sounds.label)])
    of_clip = means[np.unique(sounds.label, return_inverse=True)[1]]
    return float(((centres - of_clip) ** 2).sum()), float(((of_clip - centres.mean(axis=0)) ** 2).sum())


def project(part, values):
    return ((values - part["mean"]) / part["spread"]) @ part["axes"].astype(np.float64)


def test_telling_axes_say_the_label(sounds):
    told = head_fit.telling(sounds.output, sounds, np.arange(CLIPS), 5)
    within, between = spread_within_and_between(project(told, sounds.output), sounds)
    assert between > 10 * within


def test_control_principal_axes_say_it_less(sounds):
    plain = head_fit.principal(sounds.output, 5, 0.0)
    within, between = spread_within_and_between(project(plain, sounds.output), sounds)
    assert between < 10 * within


def test_labels_of_other_clips_are_not_looked_at(sounds):
    few = np.arange(30)
    swapped = replace(sounds, label=np.concatenate((sounds.label[:30], sounds.label[30:][::-1])))
    first, second = (head_fit.telling(each.output, each, few, 5)["axes"] for each in (sounds, swapped))
    assert np.array_equal(first, second)
    assert not np.array_equal(
        head_fit.telling(sounds.output, sounds, np.arange(CLIPS), 5)["axes"],
        head_fit.telling(swapped.output, swapped, np.arange(CLIPS), 5)["axes"],
    )


def test_principal_axes_are_the_widest_and_point_one_way():
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(500, 2)) * (3.0, 1.0)
    values = hidden @ np.linalg.qr(generator.normal(size=(8, 2)))[0].T + 0.01 * generator.normal(size=(500, 8))
    found = head_fit.principal(values, 2, 0.0)
    again = head_fit.principal(values[::-1], 2, 0.0)
    assert np.allclose(found["axes"], again["axes"], atol=2e-3)
    standard = (values - found["mean"]) / found["spread"]
    assert (standard @ found["axes"].astype(np.float64)).var(axis=0).sum() > 0.98 * standard.var(axis=0).sum()


def test_a_background_is_what_a_tenth_of_the_clips_exceed(sounds):
    probabilities = np.random.default_rng(1).random((CLIPS * SEGMENTS, CLASSES)).astype(np.float32)
    clips = np.flatnonzero(sounds.part == "creature")
    found = head_fit.background(sounds, probabilities, clips)
    for each in range(CLASSES):
        best = [np.sort(probabilities[clip * SEGMENTS :][:SEGMENTS, each])[-ranking.BEST_SEGMENTS :].mean() for clip in clips]
        assert found[each] == pytest.approx(np.quantile(best, 0.9), abs=1e-5)


def test_a_fold_keeps_inner_products_and_turns_classes_to_their_names(monkeypatch):
    monkeypatch.setattr(head_fit, "TEXT_DIM", 8)
    monkeypatch.setattr(head_fit, "SPREAD_FLOOR", 0.0)
    generator = np.random.default_rng(2)
    probabilities = (generator.random((300, 8)) @ generator.random((8, CLASSES)) / 8).astype(np.float32)  # of rank 8
    names = generator.normal(size=(CLASSES, 8))
    folded = head_fit.fold_arrays(probabilities, names)
    fold, spread = folded["fold"].astype(np.float64), folded["class_spread"].astype(np.float64)
    weights = generator.random((5, CLASSES))
    text, query = probabilities / spread @ fold.T, weights * spread @ fold.T
    assert np.allclose(text @ query.T, probabilities @ weights.T, atol=0.02)
    turn = np.linalg.qr(generator.normal(size=(8, 8)))[0]
    assert np.trace(fold @ names) > np.trace(turn @ fold @ names)


@pytest.mark.parametrize(
    ("recipe", "dim"),
    [(Recipe(0, 8, 4, 0.2, 6, 0.1), 18), (Recipe(2, 8, 4, 0.5, 6, 0.3), 18), (Recipe(1, 8, 0, 0.2, 6, 0.1), 14)],
)
def test_a_recipe_is_what_the_head_makes_sound_vectors_by(sounds, arrays, recipe, dim):
    probabilities = head_fit.class_probabilities(arrays, sounds.output)
    head = Head({**arrays, **head_fit.sound_arrays(sounds, probabilities, np.arange(CLIPS), recipe)})
    assert np.allclose(head.class_probabilities(sounds.output), probabilities, atol=1e-5)
    sound = head.describe(sounds.output, sounds.multi).sound
    assert sound.shape == (CLIPS * SEGMENTS, dim) == (CLIPS * SEGMENTS, head.sound_dim)
    assert np.allclose(np.linalg.norm(sound, axis=1), 1, atol=1e-5)
    assert np.allclose((sound[:, -6:] ** 2).sum(axis=1), recipe.multi_share, atol=1e-4)
    assert np.allclose(
        (sound[:, :8] ** 2).sum(axis=1), (1 - recipe.multi_share) * (1 - recipe.class_share * bool(recipe.class_axes))
    )


def test_a_logistic_regression_finds_what_made_the_answers():
    generator = np.random.default_rng(4)
    inputs = generator.normal(size=(20_000, 2))
    wanted = (generator.random(20_000) < 1 / (1 + np.exp(-(2 * inputs[:, 0] - inputs[:, 1])))).astype(float)
    assert np.allclose(head_calibration.fit_logistic(inputs, wanted, 1e-6), (2, -1, 0), atol=0.1)


def test_it_counts_yes_and_no_equally():
    generator = np.random.default_rng(5)
    inputs = np.concatenate((generator.normal(1, 1, 200), generator.normal(-1, 1, 20_000)))[:, None]
    weight, offset = head_calibration.fit_logistic(inputs, np.repeat([1.0, 0.0], (200, 20_000)), 1e-6)
    assert offset == pytest.approx(0, abs=0.3)
    assert weight == pytest.approx(2, abs=0.4)


def test_what_only_names_the_topic_helps_nobody_on_topics_left_out():
    """A number that is right for some topics by chance lowers the loss of a fit on all, and not the loss of topics left out."""
    generator = np.random.default_rng(6)
    topics = [f"topic {at % 12}" for at in range(600)]
    wanted = generator.integers(0, 2, 600).astype(float)
    honest = wanted + generator.normal(size=600)
    by_topic = dict(zip(dict.fromkeys(topics), generator.normal(size=12), strict=True))
    chance = np.array([by_topic[name] for name in topics])
    alone, with_chance, with_answer = (
        np.mean(head_calibration.left_out_losses(np.c_[columns], wanted, topics))
        for columns in ((honest,), (honest, chance), (honest, wanted))
    )
    assert with_chance > alone - 0.005
    assert with_answer < alone / 2


def test_trials_ask_every_question_of_every_library(sounds, arrays):
    probabilities = head_fit.class_probabilities(arrays, sounds.output)
    head = Head({**arrays, **head_fit.sound_arrays(sounds, probabilities, np.arange(CLIPS), Recipe(1, 8, 4, 0.2, 6, 0.1))})
    few = replace(sounds, part=np.where(np.arange(CLIPS) < 30, sounds.part, "fold 3"))
    vectors = head.describe(sounds.output, sounds.multi)
    vector = head.fold_query(np.eye(CLASSES, dtype=np.float32)[0])
    asked = [head_calibration.Question(name, name, vector, 1.0, 0.1) for name in ("label 0", "")]
    folds = [np.flatnonzero(few.part == fold) for fold in ("fold 2", "fold 3")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_calibration, "libraries", lambda _sounds: iter(folds))
        trials = list(head_calibration.text_trials(few, vectors, asked))
        alike = list(head_calibration.example_trials(few, vectors))
    assert [(question.label, right) for _, question, right in trials] == [("label 0", False), ("label 0", True), ("", False)] * 2
    assert all(trials[at + 1][0] > trials[at][0] for at in (0, 3))
    assert len(alike) == 2 * CLIPS
    assert np.mean([score for score, right in alike if right]) > np.mean([score for score, right in alike if not right])
