"""The sentence encoder against transformers' own BERT in float32, frozen in tests/vectors/text_encoder.npz."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from earmark_client.model import bundle as bundle_module
from earmark_client.model.bundle import Bundle
from earmark_client.model.text import TextEncoder
from earmark_shared.errors import ModelError

BASE = Path(bundle_module.__file__).with_name("base")
VECTORS = Path(__file__).parents[1] / "vectors" / "text_encoder.npz"


@pytest.fixture(scope="module")
def bundle():
    return Bundle.load(BASE)


@pytest.fixture(scope="module")
def encoder(bundle):
    return TextEncoder(bundle)


@pytest.fixture(scope="module")
def reference():
    with np.load(VECTORS) as stored:
        return [str(text) for text in stored["texts"]], stored["sentence"]


def test_int8_agrees_with_float32(encoder, reference):
    texts, sentence = reference
    cosine = (encoder.encode(texts) * sentence).sum(axis=1)
    assert cosine.min() >= 0.99
    assert cosine.mean() >= 0.997


def test_control_another_text_s_vector_does_not_agree(encoder, reference):
    texts, sentence = reference
    assert (encoder.encode(texts) * np.roll(sentence, 1, axis=0)).sum(axis=1).max() < 0.9


def test_similarities_between_texts_agree_with_float32(encoder, reference):
    texts, sentence = reference
    found = encoder.encode(texts)
    assert np.abs(found @ found.T - sentence @ sentence.T).max() < 0.05


def test_rows_are_unit_float32(encoder, reference):
    found = encoder.encode(reference[0])
    assert found.shape == (12, encoder.dim) == (12, 384)
    assert found.dtype == np.float32
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5


def test_a_text_s_vector_does_not_depend_on_the_others(encoder, reference):
    texts, _ = reference
    together = encoder.encode(texts)
    for row, text in enumerate(texts):
        assert np.array_equal(encoder.encode([text])[0], together[row])


def test_two_encoders_and_several_threads_give_the_same_bits(bundle, encoder, reference):
    texts, _ = reference
    expected = encoder.encode(texts)
    assert np.array_equal(TextEncoder(bundle).encode(texts), expected)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(encoder.encode, [texts] * 6):
            assert np.array_equal(found, expected)


def test_meaning_is_nearer_than_words(encoder):
    query, near, far = encoder.encode(["puppy yapping", "dog barking", "church bells"])
    assert query @ near > query @ far + 0.2


def test_letter_case_does_not_count(encoder):
    low, high = encoder.encode(["dog barking", "DOG Barking"])
    assert np.array_equal(low, high)


def test_no_texts_no_rows(encoder):
    assert encoder.encode([]).shape == (0, 384)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\udcff", "dog \ud800 bark", "\x00", "🐕", "a" * 5000, "\u202eمرحبا"])
def test_any_text_gives_a_finite_unit_vector(encoder, text):
    found = encoder.encode([text])
    assert np.isfinite(found).all()
    assert abs(float(np.linalg.norm(found)) - 1) < 1e-5


def test_a_long_text_counts_as_far_as_the_model_reads(encoder):
    # 128 tokens less the two that mark beginning and end
    whole, head, less = encoder.encode(["rain " * 400, "rain " * 126, "rain " * 125])
    assert np.array_equal(whole, head)
    assert not np.array_equal(whole, less)


def test_the_tokenizer_pads_nothing(encoder):
    assert len(encoder._tokenizer.encode("dog barking").ids) == 4


def changed(bundle, **values):
    return dataclasses.replace(bundle, manifest={**bundle.manifest, "sentence": {**bundle.manifest["sentence"], **values}})


@pytest.mark.parametrize("values", [{"dim": 256}, {"output": "embedding"}, {"input": "ids"}, {"mask": "mask"}])
def test_a_graph_that_is_not_as_promised_is_refused(bundle, values):
    with pytest.raises(ModelError, match="promises"):
        TextEncoder(changed(bundle, **values))


def test_a_file_that_is_no_tokenizer_is_refused(bundle):
    with pytest.raises(ModelError, match="has no file"):
        TextEncoder(changed(bundle, tokenizer="other.json"))
    with pytest.raises(ModelError, match="tokenizer"):
        TextEncoder(changed(bundle, tokenizer="encoder.onnx"))
