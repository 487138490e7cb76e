"""The synthesized words themselves: eSpeak NG says them in many voices, and they give the directions on disk again."""

import sys

import numpy as np
import pytest

from earmark_client.describe import Model
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from tests.house.sources import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from simulation.axes import RANK, discriminants, load_axes
from simulation.words import RENDERINGS, WORDS, Speaker, heard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def learned():
    return heard(Model(Bundle.load(BASE_MODEL)))


def overlap(ours, theirs):
    """How much of the space that one set of directions spans the other spans too, 0 to 1."""
    ours, theirs = (np.linalg.qr(each.T.astype(np.float64))[0] for each in (ours, theirs))
    return np.sum((ours.T @ theirs) ** 2) / len(ours.T)


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


def test_they_give_the_directions_on_disk_again(learned):
    kept = load_axes(Bundle.load(BASE_MODEL), RANK)["down"]
    assert overlap(discriminants(*learned, RANK)["down"], kept) > 0.9


def test_control_words_that_are_mixed_up_give_others(learned):
    outputs, words = learned
    kept = load_axes(Bundle.load(BASE_MODEL), RANK)["down"]
    mixed = np.random.default_rng(0).permutation(words)
    assert overlap(discriminants(outputs, mixed, RANK)["down"], kept) < 0.5
