import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.soundmaker import clicks, noise

from earmark_client.audio.segment import SILENCE_PEAK, SILENCE_RMS, Segmenter, is_silent


def cut(waveform, sizes=None):
    segmenter = Segmenter()
    cuts = []
    blocks = [waveform] if sizes is None else np.split(waveform, np.cumsum(sizes))
    for block in blocks:
        cuts += segmenter.push(block)
    return cuts + segmenter.flush()


def test_segments_overlap_by_about_half_and_cover_the_clip():
    waveform = noise(3.0)
    cuts = cut(waveform)
    assert [c.start_s for c in cuts] == [0.0, 0.48, 0.96, 1.44, 1.92, 2.4]
    assert cuts[-1].end_s == 3.0
    for c in cuts:
        start, end = round(c.start_s * 16000), round(c.end_s * 16000)
        assert np.array_equal(c.waveform[: end - start], waveform[start:end])
        assert not c.waveform[end - start :].any()


@pytest.mark.parametrize(
    ("samples", "count"), [(1599, 0), (1600, 1), (15600, 1), (15600 + 1599, 1), (15600 + 1600, 2), (7680 + 15600, 2)]
)
def test_the_tail_needs_a_tenth_of_a_second_of_its_own(samples, count):
    cuts = cut(noise(2.0)[:samples])
    assert len(cuts) == count
    assert all(c.waveform.shape == (15600,) for c in cuts)


def test_a_short_sound_is_one_padded_segment_with_its_true_end():
    (only,) = cut(noise(0.3))
    assert (only.start_s, only.end_s) == (0.0, 0.3)
    assert not only.waveform[4800:].any()


@given(st.lists(st.integers(0, 20_000), max_size=12), st.integers(0, 60_000))
@settings(max_examples=60, deadline=None)
def test_how_the_stream_is_divided_changes_nothing(sizes, samples):
    waveform = np.concatenate([noise(1.5), np.zeros(20_000, np.float32), noise(1.5, seed=3)])[:samples]
    whole, parts = cut(waveform), cut(waveform, sizes)
    assert [(c.start_s, c.end_s) for c in whole] == [(c.start_s, c.end_s) for c in parts]
    for a, b in zip(whole, parts, strict=True):
        assert np.array_equal(a.waveform, b.waveform)


def test_silence_gives_no_segment_and_what_follows_keeps_its_time():
    waveform = np.concatenate([np.zeros(16000 * 4, np.float32), noise(2.0)])
    cuts = cut(waveform)
    assert cuts[0].start_s > 3.0
    assert cuts[-1].end_s == 6.0
    assert cut(np.zeros(160_000, np.float32)) == []


def test_a_faint_tick_is_not_silence():
    tick = clicks(0.975, every_s=2.0, level=0.05)
    assert float(np.sqrt(np.mean(tick**2))) < 3 * SILENCE_RMS
    assert not is_silent(tick)
    assert is_silent(noise(0.975, level=SILENCE_RMS / 2))
    assert not is_silent(noise(0.975, level=SILENCE_RMS * 2))
    assert not is_silent(np.full(10, -2 * SILENCE_PEAK, np.float32))
    assert is_silent(np.empty(0, np.float32))


def test_a_segmenter_serves_one_clip_after_another():
    segmenter = Segmenter()
    first = segmenter.push(noise(1.2)) + segmenter.flush()
    second = segmenter.push(noise(1.2)) + segmenter.flush()
    assert [c.start_s for c in first] == [c.start_s for c in second]


def test_cuts_own_their_samples():
    block = noise(1.0)
    (only, *_rest) = Segmenter().push(block)
    before = only.waveform.copy()
    block[:] = 0
    assert np.array_equal(only.waveform, before)


@pytest.mark.parametrize("hop", [0, -1, 15_601])
def test_a_hop_beyond_a_segment_is_refused(hop):
    with pytest.raises(ValueError, match="hop"):
        Segmenter(15_600, hop)
