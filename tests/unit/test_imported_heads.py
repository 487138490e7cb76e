"""Heads of imported models: what their arithmetic says, that a row's bits are its own, and what is refused."""

import numpy as np
import pytest
from tests.support.models import CONSTANTS, DIM, class_arrays, usual_sound

from earmark_client.model.calibration import Calibration, text_probability
from earmark_client.model.imported import ClassHead, JointHead, SoundHead, read_head
from earmark_shared.errors import ModelError

CLASSES = 5


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def output():
    return np.random.default_rng(3).standard_normal((21, DIM)).astype(np.float32)


@pytest.fixture
def joint():
    names = unit(np.random.default_rng(4).standard_normal((40, DIM))).astype(np.float32)
    return JointHead(usual_sound() | {"names": names, "scale": np.array([18.0], np.float32)}), names


def describe(head, output):
    return head.describe(output, np.zeros((0, 0), np.float32))


def test_words_fit_a_sound_as_far_as_they_fit_it_better_than_all_labels(joint, output):
    head, names = joint
    sound = unit(output).astype(np.float32)
    vectors = describe(head, sound)
    words = unit(np.random.default_rng(9).standard_normal(DIM)).astype(np.float32)
    query, _, weights = head.understand(words)
    assert head.background(weights) is None
    raw = (vectors.text * vectors.strength[:, None]) @ query
    expected = 18 * sound @ words - np.log(np.exp(18 * sound @ names.T).sum(axis=1))
    assert np.allclose(raw, expected, atol=1e-4)
    assert weights.argmax() == (names @ words).argmax()


def test_a_label_of_a_joint_model_scores_as_its_share_of_all_labels(joint, output):
    head, names = joint
    sound = unit(output).astype(np.float32)
    vectors = describe(head, sound)
    raw = (vectors.text * vectors.strength[:, None]) @ head.class_vectors.T
    constants = CONSTANTS | {"is_log_odds": 1.0}
    scores = text_probability(raw, 1.0, Calibration.read({key: constants[key] for key in constants if key != "templates"}))
    odds = np.exp(18 * sound @ names.T)
    shares = odds / odds.sum(axis=1, keepdims=True)
    assert np.allclose(scores, shares / (1 + shares), atol=1e-4)


def test_without_that_constant_evidence_is_a_share_as_before():
    constants = Calibration.read({key: value for key, value in CONSTANTS.items() if key != "templates"})
    assert constants.is_log_odds == 0
    assert np.allclose(text_probability(np.array([0.2, 0.7], np.float32), 0.0, constants), [0.2, 0.7], atol=1e-6)


@pytest.mark.parametrize("is_one_of", [0, 1])
def test_a_class_head_s_evidence_is_the_weighted_class_probabilities(output, is_one_of):
    arrays = usual_sound() | class_arrays(CLASSES, 1) | {"is_one_of": np.array([is_one_of], np.uint8)}
    head = ClassHead(arrays)
    logits = output @ arrays["class_kernel"] + arrays["class_bias"]
    expected = np.exp(logits - logits.max(axis=1, keepdims=True)) if is_one_of else 1 / (1 + np.exp(-logits))
    expected = expected / expected.sum(axis=1, keepdims=True) if is_one_of else expected
    vectors = describe(head, output)
    query, similarity, weights = head.understand(arrays["phrases"][2])
    assert weights.argmax() == 2 and similarity == pytest.approx(1, abs=1e-5)
    assert np.allclose((vectors.text * vectors.strength[:, None]) @ query, expected @ weights, atol=1e-5)


def test_an_encoder_alone_says_nothing_of_words_and_compares_sounds(output):
    head = SoundHead(usual_sound())
    vectors = describe(head, output)
    assert not head.knows_words
    assert not vectors.strength.any()
    assert np.allclose(vectors.sound, unit((output - 0.05) / 0.1), atol=1e-6)


@pytest.mark.parametrize("kind", ["classes", "joint", "sound"])
def test_a_row_s_bits_do_not_depend_on_the_others(kind, joint, output):
    head = {"classes": ClassHead(usual_sound() | class_arrays(CLASSES, 1)), "joint": joint[0], "sound": SoundHead(usual_sound())}[
        kind
    ]
    whole = describe(head, output)
    for row in (0, 7, 20):
        alone = describe(head, output[row : row + 1])
        assert alone.text.tobytes() == whole.text[row : row + 1].tobytes()
        assert alone.sound.tobytes() == whole.sound[row : row + 1].tobytes()


def test_an_unknown_kind_and_a_missing_array_are_refused():
    with pytest.raises(ModelError, match="unknown kind"):
        read_head("oracle", usual_sound())
    with pytest.raises(ModelError, match="sound_mean"):
        read_head("sound", {})
    with pytest.raises(ModelError, match="scale"):
        read_head("joint", usual_sound() | {"names": np.zeros((1, DIM), np.float32)})
