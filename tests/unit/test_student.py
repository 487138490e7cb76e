"""The student encoder: what it hears, which channels it keeps, and that its integers give what training saw."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from earmark_client.audio.features import FeatureExtractor

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from student import sounds as student_sounds
from student.mixing import Mixer
from student.sounds import STORED_SCALE, MelFrames, Sounds, recordings

WIDTHS = (8, 16, 16, 16, 24, 24, 32, 32, 32, 32, 32, 32, 48, 1024)


@pytest.fixture
def sounds():
    """Eight recordings of noise, two of each kind, one of them held out."""
    rng = np.random.default_rng(0)
    frames = (rng.gamma(1.0, 0.1, (8 * 144, 64)) * STORED_SCALE).astype(np.float16)
    kinds = np.repeat(np.arange(4), 2)
    names = np.full(8, "noise")
    return Sounds(frames, np.arange(9) * 144, kinds, np.tile([False, True], 4), names, names)


def listed(folder):
    """The files that train, of a data folder whose tables name one file a fold and a package."""
    (folder / "esc10").mkdir()
    (folder / "corpus").mkdir()
    lines = ["file,fold,label,freesound_id", *(f"{fold}.ogg,{fold},rain,{fold}" for fold in (1, 2, 5))]
    (folder / "esc10" / "esc10.csv").write_text("\n".join(lines))
    (folder / "corpus" / "corpus.csv").write_text("file,category,package\nbell.opus,household,freedoom\n")
    return {item.path.name: item.is_held for item in recordings(folder)}


def test_the_test_fold_is_never_heard(tmp_path):
    assert listed(tmp_path) == {"2.ogg": False, "5.ogg": True, "bell.opus": True}


def test_control_without_the_rule_it_would_be(tmp_path, monkeypatch):
    monkeypatch.setattr(student_sounds, "TEST_FOLD", "none")
    assert "1.ogg" in listed(tmp_path)


def test_the_student_hears_what_the_product_hears():
    waveform = np.random.default_rng(1).normal(0, 0.1, 30_000).astype(np.float32)
    frames = np.log(MelFrames()(waveform) + np.float32(1e-3))
    segments = np.stack([waveform[:15_600], waveform[7_680:23_280]])
    assert frames.shape == (192, 64)
    assert np.allclose(FeatureExtractor()(segments).log_mel, [frames[:96], frames[48:144]], atol=1e-5)


def test_the_same_seed_gives_the_same_patches(sounds):
    first, again, other = (Mixer(sounds, seed).batch(20) for seed in (3, 3, 4))
    assert first.shape == (20, 96, 64)
    assert np.isfinite(first).all()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_held_out_recordings_are_not_mixed_in(sounds):
    held = sounds.is_held.repeat(144)
    sounds.frames[held] = 60_000
    assert Mixer(sounds, 3).batch(50).max() < 5
    assert Mixer(sounds, 3, with_held=True).batch(50).max() > 5


@pytest.mark.slow
def test_a_channel_that_others_make_up_for_goes_first():
    from student.pruning import keep

    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(500, 6))
    inputs[:, 4] = inputs[:, 0] - inputs[:, 1]  # adds nothing
    rows = np.c_[inputs, np.ones(500)]
    kernel = rng.normal(size=(7, 3))
    kernel[2] = 0.0  # is not used
    kept = keep(rows.T @ rows / 500, kernel, 4)
    assert {3, 5} < set(kept)
    assert 2 not in kept
    found, *_ = np.linalg.lstsq(rows[:, [*kept, 6]], rows @ kernel, rcond=None)
    assert np.allclose(rows[:, [*kept, 6]] @ found, rows @ kernel)


def random_student():
    """A small student with weights of a plausible size, rounding on."""
    import torch
    from student.network import Shape, empty

    torch.manual_seed(0)
    student = empty(Shape(WIDTHS)).requires_grad_(requires_grad=False)
    for layer in student.layers:
        layer.kernel.normal_(0, 1.5 / np.sqrt(layer.kernel[0].numel()))
        layer.bias.uniform_(0, 0.3)
    student.quantize()
    return student


@pytest.mark.slow
def test_the_graph_gives_what_training_saw():
    import torch
    from base_model.graph import to_bytes
    from student.export import encoder_graph

    student = random_student()
    log_mel = np.random.default_rng(2).normal(-1, 2, (8, 96, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(to_bytes(encoder_graph(student)), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"log_mel": log_mel})
    wanted = student(torch.from_numpy(log_mel)).numpy()
    assert found.shape == (8, 1024)
    assert wanted.std() > 0.05
    assert np.abs(found - wanted).mean() < 0.01 * wanted.std()
    student.quantize(on=False)
    assert np.abs(student(torch.from_numpy(log_mel)).numpy() - wanted).mean() > np.abs(found - wanted).mean()


@pytest.mark.slow
def test_equal_ranges_change_nothing_that_is_not_rounded():
    import torch
    from student.pruning import equalize

    student = random_student()
    student.quantize(on=False)
    log_mel = torch.from_numpy(np.random.default_rng(2).normal(-1, 2, (8, 96, 64)).astype(np.float32))
    before = student(log_mel)
    equalize(student, log_mel)
    assert torch.allclose(student(log_mel), before, rtol=1e-3, atol=1e-4)
    assert student.spread.std() > 0
