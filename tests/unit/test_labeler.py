"""The labeler on heads made up here: its arithmetic, its bits, and what it refuses; then the shipped head on words."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save

import earmark_client
from earmark_client.model import labeler as module
from earmark_client.model.bundle import Bundle
from earmark_client.model.head import Head, dequantize_output, mean_direction, quantize_output
from earmark_client.model.labeler import Labeler
from earmark_shared.errors import ModelError

OUTPUT, CLASSES, SENTENCE, MULTI = 64, 10, 12, 20
NAMES = ["dog", "animal", "rain", "siren", "bell", "piano", "cough", "door", "wind", "hall"]
CONSTANTS = {
    "text_slope": 1.0,
    "text_offset": 0.0,
    "text_similarity": 0.0,
    "example_slope": 10.0,
    "example_offset": -5.0,
    "word_weight": 0.9,
    "threshold": 0.5,
    "templates": ["{}", "the sound of {}"],
}
BASE = Path(earmark_client.__file__).parent / "model" / "base"


def made_up_arrays():
    """A head with one orthogonal direction a class, and two phrases a class: its unit vector, and that with a little of the next."""
    generator = np.random.default_rng(7)
    fold = np.eye(SENTENCE, CLASSES, dtype=np.float32)
    first = np.eye(CLASSES, SENTENCE, dtype=np.float32)
    second = first + 0.2 * np.roll(first, 1, axis=0)
    phrases = np.stack([first, second], axis=1).reshape(-1, SENTENCE)
    phrases /= np.linalg.norm(phrases, axis=1, keepdims=True)
    return {
        "class_codes": generator.integers(-127, 127, (OUTPUT, CLASSES)).astype(np.int8),
        "class_scale": np.full(CLASSES, 0.01, np.float32),
        "class_bias": np.full(CLASSES, -1, np.float32),
        "fold": fold.astype(np.float16),
        "class_spread": generator.uniform(0.5, 2, CLASSES).astype(np.float32),
        "phrase_codes": np.rint(phrases * 127).astype(np.int8),
        "phrase_scale": np.full(2 * CLASSES, 1 / 127, np.float16),
        "phrase_starts": np.arange(0, 2 * CLASSES, 2, dtype=np.int32),
        "sharpness": np.array([33.0], np.float32),
        "output_mean": generator.uniform(0, 1, OUTPUT).astype(np.float32),
        "output_spread": generator.uniform(0.5, 1, OUTPUT).astype(np.float32),
        "output_axes": generator.normal(size=(OUTPUT, 6)).astype(np.float16),
        "multi_mean": generator.normal(size=8).astype(np.float32),
        "multi_spread": generator.uniform(0.5, 1, 8).astype(np.float32),
        "multi_axes": generator.normal(size=(8, 4)).astype(np.float16),
        "multi_start": np.array([5], np.int32),
        "sound_shares": np.array([0.85, 0.15], np.float32),
    }


class MadeUpSentences:
    """Knows the class names: one direction each; everything else lies evenly between all."""

    def __init__(self, _bundle=None):
        self.asked = []

    def encode(self, texts):
        self.asked += texts
        rows = [
            np.eye(SENTENCE)[NAMES.index(word)] if (word := text.removeprefix("the sound of ")) in NAMES else np.ones(SENTENCE)
            for text in texts
        ]
        return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)


def made_up_bundle(arrays=None, rows=None, calibration=None):
    rows = [{"name": name, "broad": name == "animal", "listed": name != "hall"} for name in NAMES] if rows is None else rows
    files = {"head": save(made_up_arrays() if arrays is None else arrays), "labels": json.dumps({"labels": rows}).encode()}
    sections = {
        "head": {"file": "head"},
        "labels": {"file": "labels"},
        "calibration": CONSTANTS if calibration is None else calibration,
    }
    return SimpleNamespace(section=sections.__getitem__, read=files.__getitem__)


@pytest.fixture
def labeler(monkeypatch):
    monkeypatch.setattr(module, "TextEncoder", MadeUpSentences)
    return Labeler(made_up_bundle())


def sounds(rows, seed=0):
    generator = np.random.default_rng(seed)
    output = np.maximum(generator.normal(size=(rows, OUTPUT)) - 1, 0).astype(np.float32)
    return output, generator.normal(size=(rows, MULTI)).astype(np.float32)


def test_quantized_outputs_come_back_within_half_a_step():
    output, _ = sounds(50)
    output[3] = 0
    codes, scale = quantize_output(output)
    assert codes.dtype == np.int8
    assert codes.min() >= 0
    assert scale.dtype == np.float32
    error = np.abs(dequantize_output(codes, scale) - output)
    assert np.all(error <= scale[:, None] / 2 * (1 + 1e-5))
    np.testing.assert_array_equal(codes[3], 0)


def test_quantizing_what_was_quantized_changes_nothing():
    codes, scale = quantize_output(sounds(20)[0])
    again, same = quantize_output(dequantize_output(codes, scale))
    np.testing.assert_array_equal(codes, again)
    np.testing.assert_allclose(scale, same, rtol=1e-6)


def test_vectors_have_the_promised_form(labeler):
    vectors = labeler.describe(*sounds(9))
    assert vectors.text.shape == (9, labeler.text_dim) == (9, SENTENCE)
    assert vectors.sound.shape == (9, labeler.sound_dim) == (9, 10)
    assert {vectors.text.dtype, vectors.strength.dtype, vectors.sound.dtype} == {np.dtype(np.float32)}
    np.testing.assert_allclose(np.linalg.norm(vectors.text, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors.sound, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 33])
def test_a_segment_keeps_the_same_bits_in_any_batch(labeler, rows):
    output, multi = sounds(33)
    whole = labeler.describe(output, multi)
    part = labeler.describe(output[33 - rows :], multi[33 - rows :])
    for name in ("text", "strength", "sound"):
        assert getattr(part, name).tobytes() == getattr(whole, name)[33 - rows :].tobytes()


def test_labels_keep_the_same_bits_in_any_batch(labeler):
    vectors = labeler.describe(*sounds(19))
    labels = labeler.label_list()
    whole = labeler.labels(vectors.text, vectors.strength, labels)
    for row in range(19):
        alone = labeler.labels(vectors.text[row : row + 1], vectors.strength[row : row + 1], labels)
        assert alone.tobytes() == whole[row : row + 1].tobytes()


def test_evidence_is_the_weighted_class_probability(labeler):
    """The fold must not change what the bridge says: query . (strength * text) = weights . probabilities."""
    head = Head(made_up_arrays())
    output, multi = sounds(6)
    vectors = labeler.describe(output, multi)
    weights = np.random.default_rng(3).dirichlet(np.ones(CLASSES)).astype(np.float32)
    expected = head.class_probabilities(output) @ weights
    np.testing.assert_allclose((vectors.text @ head.fold_query(weights)) * vectors.strength, expected, atol=1e-4)


def test_sound_parts_get_their_shares(labeler):
    sound = labeler.describe(*sounds(5)).sound
    np.testing.assert_allclose(np.sum(sound[:, :6] ** 2, axis=1), 0.85, atol=1e-5)
    np.testing.assert_allclose(np.sum(sound[:, 6:] ** 2, axis=1), 0.15, atol=1e-5)


def test_class_probabilities_are_a_part_where_the_head_has_one(monkeypatch):
    monkeypatch.setattr(module, "TextEncoder", MadeUpSentences)
    generator = np.random.default_rng(3)
    arrays = made_up_arrays() | {
        "classes_mean": generator.uniform(0, 1, CLASSES).astype(np.float32),
        "classes_spread": generator.uniform(0.5, 1, CLASSES).astype(np.float32),
        "classes_axes": generator.normal(size=(CLASSES, 3)).astype(np.float16),
        "output_roots": np.array([2], np.int32),
        "sound_shares": np.array([0.6, 0.25, 0.15], np.float32),
    }
    labeler = Labeler(made_up_bundle(arrays))
    output, multi = sounds(5)
    full = {name: array.astype(np.float64) for name, array in arrays.items()}
    logits = output @ (full["class_codes"] * full["class_scale"]) + full["class_bias"]
    inputs = {"output": output**0.25, "classes": np.sqrt(1 / (1 + np.exp(-logits))), "multi": multi[:, 5:13]}
    wanted = []
    for (part, values), share in zip(inputs.items(), full["sound_shares"], strict=True):
        piece = (values - full[f"{part}_mean"]) / full[f"{part}_spread"] @ full[f"{part}_axes"]
        wanted.append(piece / np.linalg.norm(piece, axis=1, keepdims=True) * np.sqrt(share))
    np.testing.assert_allclose(labeler.describe(output, multi).sound, np.concatenate(wanted, axis=1), atol=1e-4)


def test_a_silent_output_has_finite_vectors(labeler):
    vectors = labeler.describe(np.zeros((1, OUTPUT), np.float32), np.zeros((1, MULTI), np.float32))
    assert all(np.isfinite(part).all() for part in (vectors.text, vectors.strength, vectors.sound))


def test_a_known_word_points_at_its_class(labeler):
    query = labeler.text_query("Rain ")
    assert query.nearest[0][0] == "rain"
    assert query.similarity == pytest.approx(1, abs=0.02)
    assert query.nearest[0][1] > 0.9
    np.testing.assert_array_equal(labeler.query_vector("Rain "), query.vector)


def test_an_unknown_word_is_spread_thin(labeler):
    query = labeler.text_query("tax return")
    assert query.similarity < 0.5
    assert query.nearest[0][1] < 0.5


def test_a_query_is_understood_once(labeler):
    labeler.text_query("rain")
    before = list(labeler._sentences.asked)
    labeler.text_query("rain")
    assert before == labeler._sentences.asked == ["rain", "the sound of rain"]


def test_what_a_query_begins_with_is_not_said_twice():
    assert module.query_phrases(" The sound of Rain", ("{}", "the sound of {}")) == ["the sound of rain", "the sound of rain"]
    assert module.query_phrases("Rain", ("{}", "the sound of {}")) == ["rain", "the sound of rain"]


def test_what_could_not_be_understood_is_tried_again(labeler, monkeypatch):
    encode = labeler._sentences.encode
    monkeypatch.setattr(labeler._sentences, "encode", lambda texts: 1 / 0)
    assert isinstance(labeler.understand("rain").exception(), ZeroDivisionError)
    monkeypatch.setattr(labeler._sentences, "encode", encode)
    assert labeler.text_query("rain").nearest[0][0] == "rain"


def test_an_interrupted_query_can_be_asked_again(labeler, monkeypatch):
    encode = labeler._sentences.encode

    def interrupt(_texts):
        raise KeyboardInterrupt

    monkeypatch.setattr(labeler._sentences, "encode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        labeler.understand("rain")
    monkeypatch.setattr(labeler._sentences, "encode", encode)
    assert labeler.text_query("rain").nearest[0][0] == "rain"


def test_old_queries_are_forgotten(labeler, monkeypatch):
    monkeypatch.setattr(module, "KEPT_QUERIES", 2)
    for text in ("rain", "dog", "bell"):
        labeler.text_query(text)
    assert list(labeler._known) == ["dog", "bell"]


def test_a_phrase_becomes_a_label_at_once(labeler):
    labels = labeler.label_list([("my doorbell", "bell")])
    assert "hall" not in labels.names
    assert labels.names[-1] == "my doorbell"
    vectors = labeler.describe(*sounds(4))
    scores = labeler.labels(vectors.text, vectors.strength, labels)
    assert scores.shape == (4, len(labels.names))
    np.testing.assert_allclose(scores[:, -1], scores[:, labels.names.index("bell")], atol=0.1)


def test_weighted_vectors_score_the_same(labeler):
    vectors = labeler.describe(*sounds(4))
    labels = labeler.label_list()
    weighted = vectors.text * vectors.strength[:, None]
    np.testing.assert_array_equal(
        labeler.labels(weighted, np.ones(4, np.float32), labels), labeler.labels(vectors.text, vectors.strength, labels)
    )


def scores_of(labels, **values):
    scores = np.zeros(len(labels.names), np.float32)
    for name, value in values.items():
        scores[labels.names.index(name)] = value
    return scores


def test_a_broad_label_yields_to_a_narrow_one(labeler):
    labels = labeler.label_list()
    assert [name for name, _ in labeler.top_labels(scores_of(labels, dog=0.6, animal=0.9), labels)] == ["dog"]


def test_a_broad_label_stays_where_nothing_narrow_says_more(labeler):
    labels = labeler.label_list()
    assert [name for name, _ in labeler.top_labels(scores_of(labels, dog=0.1, animal=0.9), labels)] == ["animal"]


def test_only_likely_labels_are_shown_best_first(labeler):
    labels = labeler.label_list()
    shown = labeler.top_labels(scores_of(labels, dog=0.5, rain=0.9, bell=0.1, wind=0.3), labels, limit=2)
    assert [name for name, _ in shown] == ["rain", "dog"]
    assert shown[0][1] == pytest.approx(0.9)


def test_mean_direction_is_a_unit_vector_between():
    between = mean_direction(np.array([[1, 0], [0, 1]], np.float32))
    np.testing.assert_allclose(between, [2**-0.5, 2**-0.5], atol=1e-6)
    assert np.isfinite(mean_direction(np.array([[1, 0], [-1, 0]], np.float32))).all()


def test_a_head_without_an_array_is_refused():
    arrays = made_up_arrays()
    del arrays["fold"]
    with pytest.raises(ModelError, match="fold"):
        Labeler(made_up_bundle(arrays=arrays))


def test_labels_of_another_head_are_refused():
    with pytest.raises(ModelError, match="belong together"):
        Labeler(made_up_bundle(rows=[{"name": "dog", "broad": False, "listed": True}]))
    with pytest.raises(ModelError, match="labels"):
        Labeler(made_up_bundle(rows=[{"title": "dog"}]))


def test_a_model_without_calibration_is_refused():
    with pytest.raises(ModelError, match="calibration"):
        Labeler(made_up_bundle(calibration={"threshold": 0.5}))


@pytest.fixture(scope="module")
def shipped():
    return Labeler(Bundle.load(BASE))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("someone is typing on a computer", "typing"),
        ("kettle drums", "timpani"),
        ("the neighbour's puppy barks", "bark"),
        ("machine to cut the grass", "lawn mower"),
        ("a choir of monks", "chant"),
    ],
)
def test_the_shipped_head_understands_everyday_words(shipped, text, label):
    assert label in [name for name, _ in shipped.text_query(text).nearest]


def test_the_shipped_head_keeps_the_bridge_through_its_fold(shipped):
    """384 dimensions for 521 classes: what a query asks of a class comes back within a few hundredths."""
    head = shipped._head
    probabilities = np.random.default_rng(1).dirichlet(np.full(len(head.class_vectors), 0.02), 40).astype(np.float32)
    folded = probabilities @ head._fold
    np.testing.assert_allclose(np.mean(np.abs(folded @ head.class_vectors.T - probabilities)), 0, atol=0.01)


def test_words_know_the_background_of_their_classes(monkeypatch):
    monkeypatch.setattr(module, "TextEncoder", MadeUpSentences)
    background = np.linspace(0.1, 0.9, CLASSES, dtype=np.float32)
    labeler = Labeler(made_up_bundle({**made_up_arrays(), "class_background": background}))
    weights, _ = Head(made_up_arrays()).weigh_classes(np.eye(SENTENCE, dtype=np.float32)[2])
    assert labeler.text_query("rain").background == pytest.approx(float(weights @ background), rel=1e-5)
    assert Labeler(made_up_bundle()).text_query("rain").background is None


def test_the_shipped_labels_are_distinct_and_worth_reading(shipped):
    names = shipped.label_list().names
    assert len(set(names)) == len(names)
    assert all(name == name.lower().strip() and name for name in names)
    assert shipped.text_dim == 384
    assert shipped.sound_dim <= 256


def test_the_shipped_head_is_the_fitted_one():
    """A build without recordings takes what is committed beside the script; both must be of one fit."""
    fitted = Path(__file__).parents[2] / "scripts" / "head_data"
    bundle = Bundle.load(BASE)
    constants = json.loads((fitted / "fitted.json").read_text(encoding="utf-8"))
    assert {key: bundle.section("calibration")[key] for key in constants} == constants
    head = load_file(bundle.file("head.safetensors"))
    for name, array in load_file(fitted / "fitted.safetensors").items():
        np.testing.assert_array_equal(head[name], array)
