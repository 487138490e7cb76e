"""Every textbook piece against librosa, and the whole extractor against pieces put together with it."""

import warnings

import librosa
import numpy as np
import pytest
from tests.soundmaker import chirp, clicks, noise, tone

from earmark_client.audio import spectral
from earmark_client.audio.features import FeatureExtractor, MelSpec, ShortTimeSpectrum

SOUNDS = {
    "tone": tone(0.975),
    "noise": noise(0.975),
    "chirp": chirp(0.975),
    "clicks": clicks(0.975) + noise(0.975, level=1e-4),
    "quiet": noise(0.975, level=1e-3, seed=2),
}


@pytest.fixture(params=SOUNDS)
def waveform(request):
    return SOUNDS[request.param]


def stft(waveform):
    """librosa's STFT puts a 400-sample window in the middle of 512 samples; its magnitude is ours of 512-sample frames' middles."""
    padded = np.pad(waveform, (56, 56))
    return np.abs(librosa.stft(padded, n_fft=512, hop_length=160, win_length=400, window="hann", center=False))


def ours(waveform):
    power = ShortTimeSpectrum(400, 160, 512).power(waveform[None])[0]
    return power, np.sqrt(power)


def test_stft(waveform):
    _, magnitude = ours(waveform)
    theirs = stft(waveform).T
    assert magnitude.shape == theirs.shape == (96, 257)
    np.testing.assert_allclose(magnitude, theirs, rtol=2e-4, atol=2e-5 * theirs.max())


def test_stft_is_the_fft_of_hann_windowed_frames(waveform):
    frames = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float64), 400)[::160]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    theirs = np.abs(np.fft.rfft(frames * window, 512))
    np.testing.assert_allclose(ours(waveform)[1], theirs, rtol=2e-4, atol=1e-5 * theirs.max())


@pytest.mark.parametrize("htk", [False, True])
@pytest.mark.parametrize(("bands", "fmin", "fmax"), [(40, 0.0, 8000.0), (64, 125.0, 7500.0), (20, 50.0, 4000.0)])
def test_mel_filterbank(htk, bands, fmin, fmax):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # librosa warns of narrow filters
        theirs = librosa.filters.mel(sr=16000, n_fft=512, n_mels=bands, fmin=fmin, fmax=fmax, htk=htk)
    mine = spectral.mel_filterbank(16000, 512, bands=bands, fmin_hz=fmin, fmax_hz=fmax, htk=htk)
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("htk", [False, True])
def test_mel_scales(htk):
    hz = np.linspace(0, 8000, 400)
    np.testing.assert_allclose(spectral.hz_to_mel(hz, htk=htk), librosa.hz_to_mel(hz, htk=htk), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(spectral.mel_to_hz(spectral.hz_to_mel(hz, htk=htk), htk=htk), hz, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("rate_hz", "n_fft"), [(16000, 512), (22050, 2048), (44100, 4096)])
def test_chroma_filterbank(rate_hz, n_fft):
    theirs = librosa.filters.chroma(sr=rate_hz, n_fft=n_fft, tuning=0.0)
    np.testing.assert_allclose(spectral.chroma_filterbank(rate_hz, n_fft), theirs, rtol=1e-5, atol=1e-7)


def test_chroma(waveform):
    power, magnitude = ours(waveform)
    theirs = librosa.feature.chroma_stft(S=magnitude.T**2, sr=16000, n_fft=512, tuning=0.0).T
    mine = spectral.normalized_chroma(power @ spectral.chroma_filterbank(16000, 512).T)
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_mfcc(waveform):
    power, _ = ours(waveform)
    bank = spectral.mel_filterbank(16000, 512, bands=40, fmin_hz=0.0, fmax_hz=8000.0)
    mine = spectral.mfcc(power @ bank.T, spectral.dct_matrix(40, 20))
    mel = librosa.feature.melspectrogram(S=stft(waveform) ** 2, sr=16000, n_fft=512, n_mels=40)
    theirs = librosa.feature.mfcc(S=librosa.power_to_db(mel, top_db=None), n_mfcc=20).T
    np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=0.05)


def test_preemphasis_as_a_weight_is_the_filters_power_response():
    from scipy.signal import freqz

    _, response = freqz([1, -0.97], worN=np.linspace(0, np.pi, 257))
    np.testing.assert_allclose(spectral.preemphasis_power(512, 0.97), np.abs(response) ** 2, rtol=1e-9)


def test_power_to_db(waveform):
    power, _ = ours(waveform)
    np.testing.assert_allclose(spectral.power_to_db(power), librosa.power_to_db(power, top_db=None), rtol=1e-5, atol=1e-4)


def test_centroid_and_bandwidth(waveform):
    _, magnitude = ours(waveform)
    frequencies = spectral.bin_frequencies(16000, 512).astype(np.float32)
    mine = spectral.centroid_and_bandwidth(magnitude @ spectral.moment_weights(frequencies / 1000))
    np.testing.assert_allclose(mine[:, 0] * 1000, librosa.feature.spectral_centroid(S=magnitude.T, sr=16000)[0], rtol=1e-4)
    np.testing.assert_allclose(
        mine[:, 1] * 1000, librosa.feature.spectral_bandwidth(S=magnitude.T, sr=16000)[0], rtol=2e-3, atol=0.5
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.85, 0.99])
def test_rolloff(waveform, share):
    _, magnitude = ours(waveform)
    frequencies = spectral.bin_frequencies(16000, 512).astype(np.float32)
    mine = spectral.rolloff(magnitude, frequencies, share=share)
    theirs = librosa.feature.spectral_rolloff(S=magnitude.T, sr=16000, roll_percent=share)[0]
    assert np.abs(mine - theirs).max() <= 31.25  # one bin, where rounding decides
    assert (mine == theirs).mean() > 0.97


def test_flatness(waveform):
    power, magnitude = ours(waveform)
    np.testing.assert_allclose(spectral.flatness(power), librosa.feature.spectral_flatness(S=magnitude.T)[0], rtol=1e-3)


def test_zero_crossing_rate_and_rms(waveform):
    extractor = FeatureExtractor()
    halves = np.stack([waveform[:7920], waveform[7680:15600]])
    mine = extractor._time_domain(halves).reshape(96, 2)
    rate = librosa.feature.zero_crossing_rate(waveform, frame_length=400, hop_length=160, center=False)[0]
    loudness = librosa.feature.rms(y=waveform, frame_length=400, hop_length=160, center=False)[0]
    np.testing.assert_allclose(mine[:, 0], rate, atol=1e-6)
    np.testing.assert_allclose(10 ** mine[:, 1] - 1e-5, loudness, rtol=1e-3, atol=1e-6)


def tensorflow_mel_matrix():
    """tf.signal.linear_to_mel_weight_matrix, written out from its documentation, in loops."""

    def mel(hz):
        return 1127.0 * np.log(1.0 + hz / 700.0)

    edges = np.linspace(mel(125.0), mel(7500.0), 66)
    matrix = np.zeros((257, 64))
    for place in range(1, 257):
        m = mel(place * 8000.0 / 256)
        for band in range(64):
            low, centre, high = edges[band : band + 3]
            matrix[place, band] = max(0.0, min((m - low) / (centre - low), (high - m) / (high - centre)))
    return matrix


def test_the_encoders_log_mel(waveform):
    log_mel = FeatureExtractor(MelSpec())(waveform[None]).log_mel[0]
    assert log_mel.shape == (96, 64)
    np.testing.assert_allclose(log_mel, np.log(stft(waveform).T @ tensorflow_mel_matrix() + 1e-3), rtol=1e-3, atol=1e-3)


def test_multi_scale_is_the_pooled_pieces(waveform):
    extractor = FeatureExtractor(emphasis=0.0)
    parts = {name: extractor(waveform[None]).multi_scale[0, start:stop] for name, start, stop in extractor.layout}
    log_mel = np.log(stft(waveform).T @ tensorflow_mel_matrix() + 1e-3)
    mel = librosa.feature.melspectrogram(S=stft(waveform) ** 2, sr=16000, n_fft=512, n_mels=40)
    cepstra = librosa.feature.mfcc(S=librosa.power_to_db(mel, amin=1e-5, top_db=None), n_mfcc=20).T
    expected = {
        "log_mel_mean": log_mel.mean(axis=0),
        "log_mel_std": log_mel.std(axis=0),
        "mfcc_mean": cepstra.mean(axis=0),
        "mfcc_std": cepstra.std(axis=0),
        "mfcc_thirds": cepstra.reshape(3, 32, 20).mean(axis=1).ravel(),
        "mfcc_sixths": cepstra.reshape(6, 16, 20).mean(axis=1).ravel(),
        "mfcc_delta_9": np.sqrt(((cepstra[9:] - cepstra[:-9]) ** 2).mean(axis=0)),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(parts[name], values, rtol=2e-3, atol=0.02, err_msg=name)
