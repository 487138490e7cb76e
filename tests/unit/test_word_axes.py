"""Directions that a simulated head hears in: found as a textbook finds them, and those on disk are of the shipped encoder."""

import sys

import numpy as np
import pytest
import scipy.linalg
from tests.house.sources import ROOT

from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_shared.errors import ModelError

sys.path.insert(0, str(ROOT / "scripts"))
from simulation.axes import EVENNESS, RANK, discriminants, load_axes, save_axes
from simulation.sound import DIGITS
from simulation.task import HEARD_IN_DIGITS, label_vectors
from simulation.words import BANDS, SAMPLE_RATE, WORDS, through_channel


def renderings(rng, *, words=30, each=8, inputs=12):
    """Words that differ in four directions; who says them moves all the others far more."""
    spread = np.concatenate((np.full(4, 0.3), np.full(inputs - 4, 3.0)))
    means = np.concatenate((rng.normal(size=(words, 4)), np.zeros((words, inputs - 4))), axis=1)
    turned = np.linalg.qr(rng.normal(size=(inputs, inputs)))[0]
    said = np.repeat(means, each, axis=0) + rng.normal(size=(words * each, inputs)) * spread
    return ((said + 5.0) @ turned).astype(np.float32), np.repeat(np.arange(words), each), turned[:4]


def test_they_are_linear_discriminants_by_another_solver():
    outputs, words, _ = renderings(np.random.default_rng(1))
    axes = discriminants(outputs, words, 5)
    means = np.stack([outputs[words == word].astype(np.float64).mean(axis=0) for word in np.unique(words)])
    within = np.mean([np.outer(row - means[word], row - means[word]) for row, word in zip(outputs, words, strict=True)], axis=0)
    within += EVENNESS * np.trace(within) / len(within) * np.eye(len(within))
    _, expected = scipy.linalg.eigh(np.cov(means.T, bias=True), within)
    for ours, theirs in zip(axes["down"], expected[:, ::-1].T, strict=False):
        assert min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max()) < 1e-4
    assert axes["down"].dtype == axes["shift"].dtype == np.float32
    np.testing.assert_allclose(means.mean(axis=0) @ axes["down"].T + axes["shift"], 0.0, atol=1e-4)


def test_they_lie_in_what_words_differ_in_and_main_axes_do_not():
    outputs, words, where = renderings(np.random.default_rng(2))

    def share(axes):
        return np.mean(np.sum((axes / np.linalg.norm(axes, axis=1, keepdims=True) @ where.T) ** 2, axis=1))

    assert share(discriminants(outputs, words, 4)["down"]) > 0.9
    assert share(np.linalg.svd(outputs - outputs.mean(axis=0), full_matrices=False)[2][:4]) < 0.1


def test_those_on_disk_are_of_the_shipped_encoder_and_fewer_are_the_first_of_them():
    bundle = Bundle.load(BASE_MODEL)
    axes, few = load_axes(bundle, RANK), load_axes(bundle, 3)
    assert axes["down"].shape == (RANK, 1024)
    assert axes["shift"].shape == (RANK,)
    for name, array in few.items():
        np.testing.assert_array_equal(array, axes[name][:3])


def test_another_encoder_s_are_refused_and_so_are_more_than_there_are(tmp_path):
    bundle, other = Bundle.load(BASE_MODEL), tmp_path / "axes.safetensors"
    with pytest.raises(ModelError, match="64 directions") as told:
        load_axes(bundle, RANK + 1)
    assert told.value.hint == "ask for no more (--rank)"

    class Another:
        version = "another"

        def section(self, name):
            return {"file": name}

        def read(self, name):
            return name.encode()

    save_axes(load_axes(bundle, 2), Another(), other)
    assert load_axes(Another(), 2, other)["down"].shape == (2, 1024)
    with pytest.raises(ModelError, match="another encoder") as told:
        load_axes(bundle, 2, other)
    assert told.value.hint == "run `make axes`"


def test_words_are_many_and_no_digit_is_among_them():
    assert len(WORDS) == len(set(WORDS)) > 5 * RANK
    assert not set(WORDS) & set(DIGITS)


def test_a_channel_changes_how_a_word_sounds_and_keeps_it_in_range():
    rate_hz = 22_050
    word = np.sin(2 * np.pi * 440 * np.arange(rate_hz // 2) / rate_hz).astype(np.float32)
    heard = [through_channel(word, rate_hz, np.random.default_rng(seed)) for seed in range(20)]
    assert {each.dtype for each in heard} == {np.dtype(np.float32)}
    assert 0.1 < min(np.abs(each).max() for each in heard) < max(np.abs(each).max() for each in heard) <= 1.0
    seconds = [len(each) / SAMPLE_RATE for each in heard]
    assert 0.5 * np.exp(-0.16) < min(seconds) < max(seconds) < 0.5 * np.exp(0.16) + 0.11
    assert len(set(seconds)) == 20
    np.testing.assert_array_equal(heard[3], through_channel(word, rate_hz, np.random.default_rng(3)))


def test_a_telephone_cuts_high_tones_off():
    rate_hz = 22_050
    hiss = np.random.default_rng(0).normal(size=rate_hz).astype(np.float32)
    loudness = []
    for seed in range(20):
        spectrum = np.abs(np.fft.rfft(through_channel(hiss, rate_hz, np.random.default_rng(seed)))) ** 2
        loudness.append(spectrum[-len(spectrum) // BANDS :].sum() / spectrum.sum())
    assert 5 <= sum(each < 0.03 for each in loudness) <= 17  # six in ten are narrow


def test_a_digit_s_vector_is_speech_and_how_it_differs_from_other_digits():
    vectors = label_vectors((*DIGITS, HEARD_IN_DIGITS, "rain"))
    digits, speech, rain = vectors[:10], vectors[10], vectors[11]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert (digits @ speech > 0.6).all()
    assert (np.abs(digits @ rain) < 0.2).all()
    assert ((digits @ digits.T)[~np.eye(10, dtype=bool)] < 0.8).all()
