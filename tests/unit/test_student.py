"""The student encoder: what it hears, which channels it keeps, and that its integers give what training saw."""

import itertools
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile as sf

from earmark_client.audio.features import FeatureExtractor
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_client.model.encoder import AudioEncoder

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import recordings as public
from student import sounds as student_sounds
from student.mixing import Mixer
from student.sounds import KINDS, STORED_SCALE, MelFrames, Sounds, load_sounds, recordings
from student.tones import COUNT, RATE_HZ, SECONDS, tones

OUTPUTS = 682
WIDTHS = (8, 16, 16, 16, 24, 24, 32, 32, 32, 32, 32, 32, 48, 1024)


@pytest.fixture
def sounds():
    """Ten recordings of noise, two of each kind, one of them held out."""
    rng = np.random.default_rng(0)
    frames = (rng.gamma(1.0, 0.1, (10 * 144, 64)) * STORED_SCALE).astype(np.float16)
    kinds = np.repeat(np.arange(len(KINDS)), 2)
    names = np.full(10, "noise")
    return Sounds(frames, np.arange(11) * 144, kinds, np.tile([False, True], 5), names, names)


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
    monkeypatch.setattr(public, "BENCHMARK_FOLD", "none")
    assert "1.ogg" in listed(tmp_path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder whose files can be read, beside two made-up tones."""
    listed(tmp_path)
    for item in recordings(tmp_path):
        sf.write(item.path.with_suffix(".wav"), np.zeros(RATE_HZ), RATE_HZ)
        item.path.with_suffix(".wav").rename(item.path)
    monkeypatch.setattr(student_sounds, "tones", lambda _: itertools.repeat(np.zeros(RATE_HZ, np.float32), COUNT))
    return tmp_path


def test_what_was_heard_is_kept(folder, monkeypatch):
    first = load_sounds(folder, folder)
    monkeypatch.setattr(student_sounds, "read_mono", lambda path: pytest.fail(f"{path} was read again"))
    assert np.array_equal(load_sounds(folder, folder).frames, first.frames)


def change_sound(folder):
    sf.write(folder / "esc10" / "2.wav", np.full(RATE_HZ, 0.1), RATE_HZ)
    (folder / "esc10" / "2.wav").replace(folder / "esc10" / "2.ogg")


def change_label(folder):
    table = folder / "esc10" / "esc10.csv"
    table.write_text(table.read_text().replace("rain", "hail"))


def take_away(folder):
    table = folder / "esc10" / "esc10.csv"
    table.write_text(table.read_text().replace("\n5.ogg,5,rain,5", ""))


def forget_what_it_was_made_of(folder):
    with np.load(folder / "sounds_and_tones.npz") as stored:
        older = {name: stored[name] for name in stored.files if name != "made_of"}
    np.savez(folder / "sounds_and_tones.npz", **older)


@pytest.mark.parametrize("change", [change_sound, change_label, take_away, forget_what_it_was_made_of])
def test_what_was_heard_of_other_files_is_heard_anew(change, folder, monkeypatch):
    load_sounds(folder, folder)
    change(folder)
    again = []
    monkeypatch.setattr(student_sounds, "read_mono", lambda path: again.append(path) or np.zeros(RATE_HZ, np.float32))
    load_sounds(folder, folder)
    assert again == [item.path for item in recordings(folder)]


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


@pytest.fixture(scope="module")
def made():
    return list(tones(5))


def test_tones_are_of_one_form_and_repeat(made):
    assert len(made) == COUNT
    assert all(wave.shape == (SECONDS * RATE_HZ,) and wave.dtype == np.float32 for wave in made)
    assert all(0.1 < np.abs(wave).max() < 3 for wave in made)
    assert all(map(np.array_equal, made, tones(5)))
    assert not np.array_equal(made[1], next(itertools.islice(tones(6), 1, None)))


def test_tones_glide_between_high_and_low(made):
    """Where a tone is loudest, half a second after its beginning and before its end, as bands of the product's front end."""
    loudest = np.array([MelFrames()(wave)[[50, 250]].argmax(axis=1) for at, wave in enumerate(made) if at % 5])
    moved = np.abs(loudest[:, 1] - loudest[:, 0])
    assert np.mean(moved > 5) > 0.4
    assert np.mean(moved < 2) > 0.1
    assert loudest.min() < 10
    assert loudest.max() > 50


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


@pytest.mark.parametrize("quad", [(64, 64, 64, 64), (127, 1, -127, -1), (-64, -64, 127, 0)])
def test_the_largest_integers_are_summed_exactly(quad):
    """Two products of 255 and weights of one sign that sum to 128 fit 16 bits, all that AVX2's fastest instruction has for them."""
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.tile(np.array(quad, np.int8), 128)[None, :, None, None].repeat(16, axis=0)
    total, bias = 255 * int(kernel[0].astype(np.int64).sum()), 255 * 64 * 512
    constants = [("one", np.float32(1)), ("zero", np.uint8(0)), ("kernel", kernel)]
    constants += [("none", np.zeros(16, np.int8)), ("fine", np.full(16, 100 / (total + bias), np.float32))]
    constants += [("bias", np.full(16, bias, np.int32))]
    node = helper.make_node("QLinearConv", ["x", "one", "zero", "kernel", "fine", "none", "one", "zero", "bias"], ["y"])
    value = [helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:], [numpy_helper.from_array(np.array(v), n) for n, v in constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((1, 512, 6, 4), 255, np.uint8)})
    assert set(found.ravel()) == {100}


def random_student():
    """A small student with weights of a plausible size and every third output gone, rounding on."""
    import torch
    from student.network import Encoder, Layer

    torch.manual_seed(0)
    layers = []
    for at in range(27):
        width = OUTPUTS if at == 26 else WIDTHS[at // 2]
        inputs = 1 if at == 0 or at % 2 else WIDTHS[at // 2 - 1]
        size = 3 if at == 0 or at % 2 else 1
        kernel = torch.randn(width, inputs, size, size) * 1.5 / np.sqrt(inputs * size**2)
        layers.append(Layer(kernel, torch.rand(width) * 0.3, at))
    student = Encoder(layers, torch.ones(OUTPUTS), torch.arange(1024)[torch.arange(1024) % 3 > 0])
    student.quantize()
    return student


def shipped_student():
    """What the shipped graph is written from."""
    from student import stored

    return stored.load(Path(stored.__file__).with_name(stored.FITTED))


@pytest.mark.slow
def test_the_shipped_graph_is_the_fitted_student_to_the_byte():
    from base_model.graph import to_bytes
    from student.export import encoder_graph

    assert to_bytes(encoder_graph(shipped_student())) == (BASE_MODEL / "encoder.onnx").read_bytes()


@pytest.mark.slow
def test_the_shipped_graph_computes_what_the_fitted_student_does():
    """Sums that fall between two steps go either way by their last bits, and 20 layers make that more: clicks reach .993."""
    import torch
    from student.network import ACTIVATION_STEP

    with np.load(Path(__file__).parents[1] / "vectors" / "audio_encoder.npz") as stored:
        log_mel = stored["log_mel"].astype(np.float32)
    student = shipped_student()
    for layer in student.layers:
        if layer.rounds_kernel and layer.rounds_output:  # the graph's integer layers have whole biases
            layer.bias = (layer.bias / (layer.scale * ACTIVATION_STEP)).round() * (layer.scale * ACTIVATION_STEP)
    found, wanted = AudioEncoder(Bundle.load(BASE_MODEL)).encode(log_mel), student(torch.from_numpy(log_mel)).numpy()

    def alike(other):
        return (found * other).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(other, axis=1)

    assert alike(wanted).min() >= 0.98
    assert alike(wanted).mean() >= 0.995
    assert alike(np.roll(wanted, 1, axis=0)).max() < 0.9


@pytest.mark.slow
def test_no_two_weights_that_are_added_in_16_bits_overflow_them():
    from student.network import FLOAT_LAYERS, PAIR_PEAK, QUAD

    for layer in shipped_student().layers[FLOAT_LAYERS:]:
        rows = layer.codes().flatten(1).numpy()
        quads = np.pad(rows, ((0, 0), (0, -rows.shape[1] % QUAD))).reshape(len(rows), -1, QUAD)
        for sign in (1, -1):
            pairs = np.sort(np.maximum(sign * quads, 0), axis=-1)[..., -2:].sum(axis=-1)
            assert pairs.max() <= PAIR_PEAK
        assert np.abs(rows).max() > PAIR_PEAK / 2


@pytest.mark.slow
def test_the_graph_gives_what_training_saw():
    import torch
    from base_model.graph import to_bytes
    from student.export import encoder_graph
    from student.network import ACTIVATION_STEP

    student = random_student()
    log_mel = np.random.default_rng(2).normal(-1, 2, (8, 96, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(to_bytes(encoder_graph(student)), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"log_mel": log_mel})
    wanted = student(torch.from_numpy(log_mel)).numpy()
    assert found.shape == (8, 1024)
    assert wanted.std() > 0.05
    assert np.abs(found - wanted).mean() < ACTIVATION_STEP / 2
    assert not found[:, ::3].any()
    student.quantize(on=False)
    assert np.abs(student(torch.from_numpy(log_mel)).numpy() - wanted).mean() > np.abs(found - wanted).mean()


@pytest.mark.slow
def test_weights_rounded_in_turn_make_up_for_each_other():
    import torch
    from student.network import grid
    from student.pruning import round_in_turn

    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2000, 32)) @ rng.normal(size=(32, 32))
    rows = np.c_[inputs, np.ones(2000)]
    kernel = rng.normal(size=(33, 8))
    step = grid(torch.from_numpy(kernel[:-1].T.copy())).numpy()
    in_turn = round_in_turn(rows.T @ rows / 2000, kernel)
    alone = np.r_[np.rint(kernel[:-1] / step) * step, kernel[-1:]]
    assert np.allclose(in_turn[:-1] / step, np.rint(in_turn[:-1] / step), atol=1e-6)
    assert np.square(rows @ (in_turn - kernel)).mean() < 0.75 * np.square(rows @ (alone - kernel)).mean()


@pytest.mark.slow
def test_a_pruned_and_rounded_student_is_near_its_teacher_and_a_random_one_is_not():
    import torch
    from student.pruning import choose, prune

    teacher = random_student()
    teacher.quantize(on=False)
    log_mel = torch.from_numpy(np.random.default_rng(2).normal(-1, 2, (64, 96, 64)).astype(np.float32))
    widths = (8, 14, 16, 14, 22, 24, 30, 32, 30, 32, 30, 32, 44, 1024)
    student = prune(teacher, choose(teacher, log_mel, widths), log_mel)
    assert tuple(len(layer.bias) for layer in student.layers[:-1:2]) == widths[:-1]
    wanted, found = (encoder(log_mel).detach().numpy() for encoder in (teacher, student))
    left = np.square(found - wanted).mean() / wanted.var(axis=0).mean()
    shuffled = np.square(found[::-1] - wanted).mean() / wanted.var(axis=0).mean()
    assert left < 0.7 * shuffled
