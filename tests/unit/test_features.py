import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from tests.soundmaker import chirp, noise

from earmark_client.audio import features as features_module
from earmark_client.audio.features import FeatureExtractor, MelSpec

EXTRACTOR = FeatureExtractor()


def overlapping(rows, seed=0):
    long = noise(1.0 + rows * 0.48, seed=seed)
    return np.stack([long[row * 7680 : row * 7680 + 15600] for row in range(rows)])


def test_a_patch_is_exactly_one_segment():
    assert MelSpec().segment_samples == 15_600 == 95 * 160 + 400


def test_shapes_and_layout():
    features = EXTRACTOR(overlapping(3))
    assert features.log_mel.shape == (3, 96, 64)
    assert features.multi_scale.shape == (3, EXTRACTOR.multi_scale_size)
    assert features.log_mel.dtype == features.multi_scale.dtype == np.float32
    assert EXTRACTOR.layout[0][1] == 0
    for (_, _, stop), (_, start, _) in zip(EXTRACTOR.layout, EXTRACTOR.layout[1:], strict=False):
        assert stop == start


def test_a_mean_between_frames_counts_each_frame_by_how_much_of_it_is_meant():
    random = np.random.default_rng(3)
    values = random.standard_normal((5, 96, 13)).astype(np.float32)
    first, last = np.array([0, 10, 95, 3, 40]), np.array([96, 11, 96, 90, 43])
    means = features_module._means_between(values, first, last, 8)
    for row, part in np.ndindex(5, 8):
        length = (last[row] - first[row]) / 8
        begin, end = first[row] + part * length, first[row] + (part + 1) * length
        shares = np.array([max(0.0, min(end, frame + 1) - max(begin, frame)) for frame in range(96)])
        assert np.allclose(means[row, part], shares @ values[row] / length, atol=1e-5)


def test_the_sounding_stretch_leaves_out_what_is_far_quieter():
    loudness = np.full((3, 96), -4.0, np.float32)
    loudness[0, 20:50] = -1.0
    loudness[0, 18] = loudness[0, 60] = -2.0  # within 1.3 of the loudest
    loudness[1] = -5.0  # silence sounds from beginning to end
    loudness[2, 7:12] = 0.0
    loudness[0, 80] = 0.0  # a click does not set what is loud
    first, last = features_module._sounding_stretch(loudness)
    assert first.tolist() == [18, 0, 7]
    assert last.tolist() == [81, 96, 12]


def test_a_word_said_later_has_the_same_cepstra_in_its_eighths():
    parts = {name: slice(start, stop) for name, start, stop in EXTRACTOR.layout}
    word = chirp(0.4)
    early, late = (np.concatenate([np.zeros(at), word, np.zeros(15600 - at - len(word))]) for at in (160 * 5, 160 * 35))
    rows = EXTRACTOR(np.stack([early, late]).astype(np.float32)).multi_scale
    eighths = rows[:, parts["sounding_eighths"]].reshape(2, 8, 13)[..., 1:]
    thirds = rows[:, parts["mfcc_thirds"]].reshape(2, 3, 20)[..., 1:13]
    moved = [np.abs(each[0] - each[1]).mean() / np.abs(each).mean() for each in (eighths, thirds)]
    assert moved[0] < 0.05
    assert moved[1] > 0.5, "the control: thirds of the segment change when the word is said later"


def test_no_rows_give_no_features():
    assert EXTRACTOR(np.empty((0, 15600), np.float32)).multi_scale.shape == (0, EXTRACTOR.multi_scale_size)


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(15600),
        np.full(15600, 4.0),
        np.full(15600, 1e-30),
        np.eye(1, 15600)[0],
        np.full(15600, 1e-42),
        np.where(np.arange(15600) % 2, 4.0, -4.0),
        np.concatenate([noise(0.2), np.zeros(15600 - 3200)]),
    ],
    ids=["silence", "constant", "tiny", "impulse", "subnormal", "nyquist", "padded"],
)
def test_finite_for_any_waveform_in_range(waveform):
    features = EXTRACTOR(waveform[None].astype(np.float32))
    assert np.isfinite(features.log_mel).all()
    assert np.isfinite(features.multi_scale).all()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 16, 17, features_module._GROUP - 1, features_module._GROUP])
def test_a_row_is_the_same_to_the_bit_whatever_stands_beside_it(size):
    waveforms = np.concatenate([overlapping(features_module._GROUP + 4), overlapping(5, seed=1)])
    whole = EXTRACTOR(waveforms)
    for start in range(0, len(waveforms), size):
        part = EXTRACTOR(waveforms[start : start + size])
        assert np.array_equal(part.log_mel, whole.log_mel[start : start + size])
        assert np.array_equal(part.multi_scale, whole.multi_scale[start : start + size])
    shuffled = np.random.default_rng(0).permutation(len(waveforms))
    assert np.array_equal(EXTRACTOR(waveforms[shuffled]).multi_scale, whole.multi_scale[shuffled])


def test_the_same_to_the_bit_for_any_number_of_threads():
    program = (
        "import numpy, hashlib; from earmark_client.audio.features import FeatureExtractor;"
        "w = numpy.random.default_rng(5).standard_normal((9, 15600)).astype('f4');"
        "f = FeatureExtractor()(w); print(hashlib.sha256(f.log_mel.tobytes() + f.multi_scale.tobytes()).hexdigest())"
    )
    digests = set()
    for threads in ("1", "2", "4"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        digests.add(run.stdout)
    here = EXTRACTOR(np.random.default_rng(5).standard_normal((9, 15600)).astype("f4"))
    digests.add(hashlib.sha256(here.log_mel.tobytes() + here.multi_scale.tobytes()).hexdigest() + "\n")
    assert len(digests) == 1


def test_order_within_a_segment_shows():
    """Thirds and sixths tell a rising sweep from a falling one; means over the whole can't."""
    up = chirp(0.975)
    both = EXTRACTOR(np.stack([up, up[::-1]])).multi_scale
    parts = {name: (start, stop) for name, start, stop in EXTRACTOR.layout}
    thirds = slice(*parts["shape_thirds"])
    whole = slice(*parts["shape_mean"])
    assert both[0, thirds][0] < both[0, thirds][12]
    assert both[1, thirds][0] > both[1, thirds][12]
    np.testing.assert_allclose(both[0, whole], both[1, whole], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("shape", [(15600,), (2, 15599), (1, 2, 15600)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="waveforms must be"):
        EXTRACTOR(np.zeros(shape, np.float32))


@pytest.mark.parametrize("spec", [MelSpec(power=2.0), MelSpec(htk=False), MelSpec(frames=95)])
def test_specs_it_does_not_make_are_refused(spec):
    with pytest.raises(ValueError, match="log-mel"):
        FeatureExtractor(spec)
