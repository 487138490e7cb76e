"""Labels of three kinds in one list: the model's, a person's phrases, and taught sounds."""

from types import SimpleNamespace

import numpy as np
import pytest
from tests.support.calibrations import CALIBRATION

from earmark_client.describe import Model
from earmark_client.labelling import BEST, LabelSet, best_of_three, best_rows, taught_vectors
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_client.model.labeler import LEAST_LISTED
from earmark_client.records import Label
from earmark_client.store.database import LabelRow
from earmark_shared.errors import NotInLibraryError


class FakeLabeler:
    """Two labels of its own; a segment's text vector holds their scores."""

    sound_dim = 2
    calibration = CALIBRATION

    def label_list(self, own=()):
        return SimpleNamespace(names=("dog", "rain", *(name for name, _ in own)))

    def labels(self, text, strength, labels):
        return np.resize(text * strength[:, None], (len(text), len(labels.names))).astype(np.float32)

    def top_labels(self, scores, labels):
        return [(name, float(score)) for name, score in zip(labels.names, scores, strict=True) if score >= 0.2]


MODEL = SimpleNamespace(labeler=FakeLabeler(), base_version="m")
BELL = LabelRow("my doorbell", "my doorbell", "taught", "m", vector=np.array([1.0, 0.0], np.float32))


def test_a_taught_sound_scores_by_likeness_and_comes_first():
    labels = LabelSet(MODEL, [BELL])
    assert labels.names == ("dog", "rain", "my doorbell")
    assert labels.needs_sound
    sound = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    scores = labels.scores(np.full((2, 2), 0.8, np.float32), np.ones(2, np.float32), sound)
    assert scores.shape == (2, 3)
    assert scores[0, 2] > 0.99
    assert scores[1, 2] < 0.01
    assert [label.name for label in labels.top(scores[0])] == ["my doorbell", "dog", "rain"]
    assert [label.name for label in labels.top(scores[1])] == ["dog", "rain"]


def test_a_label_with_the_name_of_one_of_the_models_is_told_once():
    rain = LabelRow("rain", "rain", "taught", "m", vector=np.array([1.0, 0.0], np.float32))
    taught = LabelSet(MODEL, [rain])
    assert taught.names == ("dog", "rain", "rain")
    assert taught.top(np.array([0.9, 0.8, 0.6], np.float32)) == [
        Label("rain", pytest.approx(0.6)),
        Label("dog", pytest.approx(0.9)),
    ]
    assert [label.name for label in taught.top(np.array([0.9, 0.8, 0.1], np.float32))] == ["dog", "rain"]
    phrased = LabelSet(MODEL, [LabelRow("dog", "a dog barking", "user", "m")])
    assert [label.name for label in phrased.top(np.array([0.9, 0.8, 0.7], np.float32))] == ["dog", "rain"]


def test_what_another_model_was_taught_is_not_compared():
    other = SimpleNamespace(labeler=FakeLabeler(), base_version="another")
    assert LabelSet(other, [BELL]).names == ("dog", "rain")


def test_without_taught_sounds_no_sound_vector_is_needed():
    labels = LabelSet(MODEL, [LabelRow("kettle", "a kettle whistling", "user", "m")])
    assert not labels.needs_sound
    assert labels.scores(np.ones((1, 3), np.float32), np.ones(1, np.float32), None).shape == (1, 3)


def test_a_clips_best_rows_do_not_depend_on_how_it_came():
    scores = np.random.default_rng(0).random((20, 5)).astype(np.float32)
    whole = best_rows(None, scores)
    parts = None
    for start in range(0, 20, 7):
        parts = best_rows(parts, scores[start : start + 7])
    assert whole.shape == (BEST, 5)
    np.testing.assert_array_equal(whole, parts)


def test_the_best_three_are_those_of_a_sort():
    values = np.random.default_rng(0).integers(0, 9, (7, 6, 11)).astype(np.float32)
    values[2, 2:] = -np.inf
    np.testing.assert_array_equal(best_of_three(values), np.sort(values, axis=1)[:, ::-1][:, :BEST])


@pytest.mark.parametrize("is_taught", [False, True])
def test_many_spans_at_once_get_what_one_after_another_gets(is_taught):
    model = Model(Bundle.load(BASE_MODEL))
    random = np.random.default_rng(1)
    taught = random.standard_normal((3, model.labeler.sound_dim)).astype(np.float32)
    taught /= np.linalg.norm(taught, axis=1, keepdims=True)
    bell = LabelRow("my bell", "my bell", "taught", model.base_version, vector=taught.ravel())
    labels = LabelSet(model, [LabelRow("kettle", "a kettle whistling", "user", ""), *([bell] if is_taught else [])])
    lengths = [6, 1, 2, 3, 5, 6]
    vectors = model.labeler.label_list([("kettle", "a kettle whistling")]).vectors
    evidence = random.random((len(vectors), sum(lengths))) ** 40
    text = np.linalg.lstsq(vectors, evidence)[0].T.astype(np.float32)
    sound = (random.random((len(text), 1)) * taught[0] + 0.02).astype(np.float32) if is_taught else None
    spans = np.split(np.arange(len(text)), np.cumsum(lengths)[:-1])
    rows = np.array([[*span, *[-1] * (6 - len(span))] for span in spans])
    found = labels.span_scores(text, sound, rows)
    each = labels.scores(text, np.ones(len(text), np.float32), sound)
    expected = np.stack([best_rows(None, each[span]).mean(axis=0) for span in spans])
    assert (expected >= LEAST_LISTED).sum() > len(spans)
    could = (found > 0) | (expected >= LEAST_LISTED)
    np.testing.assert_allclose(found[could], expected[could], rtol=1e-4, atol=1e-5)
    assert [[label.name for label in labels.top(row)] for row in found] == [
        [label.name for label in labels.top(row)] for row in expected
    ]


def test_a_label_without_examples_is_refused():
    with pytest.raises(NotInLibraryError, match="no examples"):
        taught_vectors(LabelRow("x", "x", "taught", "m"), 2)
