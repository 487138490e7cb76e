"""Directions learned from public speech: what tells utterances apart, found as a textbook would."""

import sys

import numpy as np
import pytest
from scipy import linalg
from tests.house.sources import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from simulation.public import EVENNESS, SAMPLE_RATE, VERSIONS, axes, versions

INPUTS = 12


def utterances():
    """40 utterances, 7 versions each, that differ in input 2; versions of one differ in input 5, and far more."""
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(40), 1 + VERSIONS)
    outputs = 0.1 * rng.normal(size=(len(of), INPUTS))
    outputs[:, 2] += rng.normal(size=40)[of]
    outputs[:, 5] += 10.0 * rng.normal(size=len(of))
    return outputs.astype(np.float32), of


def test_the_first_direction_tells_utterances_apart_where_the_widest_does_not():
    outputs, of = utterances()
    first = axes(outputs, of, 1)["down"][0]
    assert np.abs(first).argmax() == 2
    widest = np.linalg.svd(outputs - outputs.mean(axis=0), full_matrices=False)[2][0]
    assert np.abs(widest).argmax() == 5  # the control: plain principal axes hear how it was spoken


def test_directions_are_the_generalized_eigenvectors():
    outputs, of = utterances()
    means = np.stack([outputs[of == each].mean(axis=0, dtype=np.float64) for each in range(40)])
    within = np.zeros((INPUTS, INPUTS))
    for row, each in zip(outputs.astype(np.float64), of, strict=True):
        within += np.outer(row - means[each], row - means[each]) / len(of)
    within += EVENNESS * np.trace(within) / INPUTS * np.eye(INPUTS)
    between = np.cov(means.T, bias=True)
    _, slow = linalg.eigh(between, within)
    found = axes(outputs, of, 5)
    for direction, expected in zip(found["down"], slow.T[::-1], strict=False):
        assert abs(direction @ within @ expected) == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_allclose(found["down"] @ means.mean(axis=0) + found["shift"], 0.0, atol=1e-5)


def test_versions_are_the_same_for_the_same_seed_and_begin_with_the_sound_itself():
    waveform = np.sin(np.arange(SAMPLE_RATE) * 0.2).astype(np.float32)
    first, again, other = versions(waveform, 1), versions(waveform, 1), versions(waveform, 2)
    assert len(first) == 1 + VERSIONS
    np.testing.assert_array_equal(first[0], waveform)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert all(len(one) != len(two) for one, two in zip(first[1:], other[1:], strict=True))
    assert all(each.dtype == np.float32 and np.abs(each).max() <= 1.0 for each in first)


def test_a_long_recording_is_cut():
    assert len(versions(np.zeros(10 * SAMPLE_RATE, np.float32), 0)[0]) == 4 * SAMPLE_RATE
