"""The audio encoder against torch's float32 run of the upstream checkpoint, frozen in tests/vectors/audio_encoder.npz.

Made by ``scripts/build_base_model.py --vectors``: eight synthesized sounds through the layers as published (batch norm not
folded, padding spelt out), so folding, padding, pruning, quantization and the runtime are all under test here.
"""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from earmark_client.model import bundle as bundle_module
from earmark_client.model import encoder as encoder_module
from earmark_client.model.bundle import Bundle
from earmark_client.model.encoder import AudioEncoder
from earmark_shared.errors import ModelError, SettingsError

BASE = Path(bundle_module.__file__).with_name("base")
VECTORS = Path(__file__).parents[1] / "vectors" / "audio_encoder.npz"
LEAST_ALIKE = 0.88
"""Cosine of a sound's embedding to upstream's: clicks (.90) and a rising tone (.91) lose most."""


@pytest.fixture(scope="module")
def bundle():
    return Bundle.load(BASE)


@pytest.fixture(scope="module")
def encoder(bundle):
    return AudioEncoder(bundle)


@pytest.fixture(scope="module")
def reference():
    with np.load(VECTORS) as stored:
        return stored["log_mel"].astype(np.float32), stored["embedding"]


@pytest.fixture(scope="module")
def many(reference):
    """33 patches: the reference ones, louder, softer, backwards, and noise."""
    log_mel, _ = reference
    noise = np.random.default_rng(1).normal(-3, 2, size=(1, 96, 64)).astype(np.float32)
    return np.concatenate([log_mel, log_mel - 1, log_mel + 0.5, log_mel[:, ::-1], noise])


def cosine(one, other):
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def test_the_pruned_encoder_agrees_with_the_one_it_was_pruned_from(encoder, reference):
    """Benchmarks say what that is worth on real sound; here folding, padding, pruning and the runtime are held against upstream.

    The last sound is near silence, to which upstream answers tenfold as loud as to any other, with outputs that are pruned.
    """
    log_mel, embedding = reference
    found = encoder.encode(log_mel)
    alike = cosine(found, embedding)[:-1]
    assert alike.min() >= LEAST_ALIKE
    assert alike.mean() >= 0.95
    length = np.linalg.norm(found, axis=1) / np.linalg.norm(embedding, axis=1)
    assert np.abs(length[:-1] - 1).max() < 0.2
    heard = (found != 0).any(axis=0)
    assert cosine(found[:, heard], embedding[:, heard]).min() >= LEAST_ALIKE


def test_control_a_shifted_patch_does_not_agree(encoder, reference):
    log_mel, embedding = reference
    turned = np.ascontiguousarray(log_mel.transpose(0, 2, 1)).reshape(log_mel.shape)
    assert cosine(encoder.encode(turned), embedding).max() < LEAST_ALIKE - 0.1
    assert cosine(encoder.encode(log_mel), np.roll(embedding, 1, axis=0)).max() < LEAST_ALIKE - 0.1


def test_shape_and_type(encoder, reference):
    found = encoder.encode(reference[0])
    assert found.shape == (8, encoder.dim) == (8, 1024)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (found >= 0).all()  # a mean of rectified values


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 9, 33])
def test_a_row_is_the_same_to_the_bit_whatever_the_batch(encoder, many, rows):
    whole = encoder.encode(many)
    parts = np.concatenate([encoder.encode(many[start : start + rows]) for start in range(0, len(many), rows)])
    assert np.array_equal(whole, parts)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_row_is_the_same_to_the_bit_whatever_the_threads(bundle, encoder, many, threads):
    other = AudioEncoder(bundle, threads=threads)
    assert np.array_equal(other.encode(many), encoder.encode(many))
    assert np.array_equal(other.encode(many[5:6]), encoder.encode(many[5:6]))


def test_a_row_does_not_depend_on_its_neighbours(encoder, many):
    alone = encoder.encode(many[3:4])
    loud = np.full((encoder_module.BATCH - 1, 96, 64), 5.0, np.float32)
    for place in range(encoder_module.BATCH):
        batch = np.insert(loud, place, many[3], axis=0)
        assert np.array_equal(encoder.encode(batch)[place], alone[0])


def test_callers_in_several_threads_get_the_same_bits(encoder, many):
    expected = encoder.encode(many)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(encoder.encode, [many] * 8):
            assert np.array_equal(found, expected)


def test_another_process_gives_the_same_bits(encoder, many, tmp_path):
    np.save(tmp_path / "many.npy", many)
    program = f"""
        import hashlib, sys
        from pathlib import Path
        import numpy as np
        from earmark_client.model.bundle import Bundle
        from earmark_client.model.encoder import AudioEncoder
        rows = AudioEncoder(Bundle.load(Path({str(BASE)!r}))).encode(np.load(sys.argv[1]))
        sys.stdout.write(hashlib.sha256(rows.tobytes()).hexdigest())
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "many.npy")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert found == hashlib.sha256(encoder.encode(many).tobytes()).hexdigest()


def test_no_patches_no_rows(encoder):
    assert encoder.encode(np.empty((0, 96, 64), np.float32)).shape == (0, 1024)


def test_input_of_another_type_or_order_in_memory_is_taken(encoder, many):
    expected = encoder.encode(many[:5])
    assert np.array_equal(encoder.encode(many[:5].astype(np.float64)), expected)
    assert np.array_equal(encoder.encode(np.asfortranarray(many[:5])), expected)


def test_the_input_is_left_as_it_was(encoder, many):
    before = many.copy()
    encoder.encode(many)
    assert np.array_equal(before, many)


@pytest.mark.parametrize("shape", [(96, 64), (1, 64, 96), (1, 96, 65), (1, 95, 64), (1, 1, 96, 64), (0,)])
def test_another_shape_is_refused(encoder, shape):
    with pytest.raises(ValueError, match="96, 64"):
        encoder.encode(np.zeros(shape, np.float32))


def test_silence_gives_a_finite_vector(encoder):
    silence = np.full((1, 96, 64), np.log(0.001), np.float32)
    assert np.isfinite(encoder.encode(silence)).all()


def test_an_unknown_device_is_a_setting_to_correct(bundle):
    with pytest.raises(SettingsError, match="tpu") as caught:
        AudioEncoder(bundle, "tpu")
    assert "cuda" in caught.value.hint


def test_cuda_without_cuda_says_what_to_do(bundle, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(SettingsError, match="cuda") as caught:
        AudioEncoder(bundle, "cuda")
    assert "onnxruntime-gpu" in caught.value.hint


def test_with_cuda_the_session_asks_for_it_first(bundle, monkeypatch):
    asked = []
    real = onnxruntime.InferenceSession

    def session(graph, options, *, providers):
        asked.extend(providers)
        return real(graph, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    AudioEncoder(bundle, "cuda")
    assert asked == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def changed(bundle, part, **values):
    return dataclasses.replace(bundle, manifest={**bundle.manifest, part: {**bundle.manifest[part], **values}})


@pytest.mark.parametrize("values", [{"dim": 512}, {"output": "logits"}, {"input": "waveform"}])
def test_a_graph_that_is_not_as_promised_is_refused(bundle, values):
    with pytest.raises(ModelError, match="promises"):
        AudioEncoder(changed(bundle, "encoder", **values))


@pytest.mark.parametrize("values", [{"frames": 48}, {"bands": 40}])
def test_a_graph_for_other_patches_is_refused(bundle, values):
    with pytest.raises(ModelError, match="promises"):
        AudioEncoder(changed(bundle, "frontend", **values))


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(BASE, folder)
    (folder / "encoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"encoder\.onnx is not the one"):
        AudioEncoder(Bundle.load(folder))
    with pytest.raises(ModelError, match=r"encoder\.onnx can't be opened"):
        AudioEncoder(Bundle.load(folder, verify=False))


def test_the_graph_is_run_in_batches_of_one_size(encoder, many, monkeypatch):
    sizes = []

    class Spy:
        def __init__(self, session):
            self.session = session

        def run(self, outputs, inputs):
            sizes.extend(len(rows) for rows in inputs.values())
            return self.session.run(outputs, inputs)

    monkeypatch.setattr(encoder, "_session", Spy(encoder._session))
    encoder.encode(many)
    encoder.encode(many[:1])
    assert set(sizes) == {encoder_module.BATCH}
