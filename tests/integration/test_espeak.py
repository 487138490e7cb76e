"""The synthesized words themselves: eSpeak NG says them in many voices, and the directions on disk tell them apart."""

import sys

import numpy as np
import pytest

from earmark_client.describe import Model
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_shared.head import unit_rows
from tests.house.sources import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from simulation.axes import RANK, discriminants, load_axes
from simulation.words import RENDERINGS, WORDS, Speaker, heard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def learned():
    return heard(Model(Bundle.load(BASE_MODEL)))


def apart(axes, outputs, words):
    """How much more alike renderings of one word are than those of two, as a head hears them: a difference of mean cosines."""
    said = unit_rows(outputs @ axes["down"].T + axes["shift"])
    counts = np.bincount(words)
    sums = np.stack([said[words == word].sum(axis=0) for word in range(len(counts))])
    alike, every = np.sum(sums**2) - len(said), np.sum(sums.sum(axis=0) ** 2) - np.sum(sums**2)
    return alike / np.sum(counts * (counts - 1)) - every / (len(said) ** 2 - np.sum(counts**2))


def test_a_word_sounds_otherwise_in_every_voice():
    speaker, rng = Speaker(), np.random.default_rng(0)
    said = [speaker.say("yellow", rng) for _ in range(5)]
    assert len({len(each) for each in said}) == 5
    for each in said:
        assert 0.2 < len(each) / speaker.rate_hz < 2.0
        assert 0.01 < np.abs(each).max() <= 1.0
        assert np.abs(each[[0, -1]]).max() > 0.0  # no silence around it


def test_words_are_heard_in_every_rendering(learned):
    outputs, words = learned
    counts = np.bincount(words)
    assert len(counts) == len(WORDS)
    assert counts.min() > RENDERINGS / 2
    assert outputs.shape == (len(words), 1024)


def test_the_directions_on_disk_tell_words_apart_that_are_said_anew(learned):
    """What is said now is not what they were learned from: eSpeak NG does not repeat itself to the sample."""
    outputs, words = learned
    kept = apart(load_axes(Bundle.load(BASE_MODEL), RANK), outputs, words)
    centre = outputs.mean(axis=0)
    _, lengths, main = np.linalg.svd(outputs - centre, full_matrices=False)
    down = main[:RANK] * lengths[0] / lengths[:RANK, None]
    assert kept > 0.05
    assert kept > 1.3 * apart({"down": down, "shift": -down @ centre}, outputs, words)


def test_control_directions_of_mixed_up_words_do_not(learned):
    outputs, words = learned
    mixed = discriminants(outputs, np.random.default_rng(0).permutation(words), RANK)
    assert apart(mixed, outputs, words) < 0.03
