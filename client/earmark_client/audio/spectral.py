"""The textbook pieces of sound analysis: filterbanks and per-frame measures, by librosa's definitions, in numpy alone.

Spectra are `(..., frames, bins)` with bins last, magnitudes or powers of a one-sided FFT. Matrices are built in float64 and
used in float32. `tests/oracle/test_features_librosa.py` holds them against librosa, and the encoder's
own mel bands (`mel_weights_tf`) are held against float32's by `tests/oracle/test_encoder.py`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_SLAY_LINEAR_HZ = 200.0 / 3.0
_SLAY_BREAK_HZ = 1000.0
_SLAY_BREAK_MEL = _SLAY_BREAK_HZ / _SLAY_LINEAR_HZ
_SLAY_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(frequency_hz: npt.ArrayLike, *, htk: bool = False) -> npt.NDArray[np.float64]:
    """Frequencies in Hz on the mel scale: Slaney's (linear, then logarithmic) or HTK's."""
    hz = np.asarray(frequency_hz, dtype=np.float64)
    if htk:
        return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))
    above = _SLAY_BREAK_MEL + np.log(np.maximum(hz, _SLAY_BREAK_HZ) / _SLAY_BREAK_HZ) / _SLAY_LOG_STEP
    return np.where(hz >= _SLAY_BREAK_HZ, above, hz / _SLAY_LINEAR_HZ)


def mel_to_hz(mel: npt.ArrayLike, *, htk: bool = False) -> npt.NDArray[np.float64]:
    """The inverse of `hz_to_mel`, in Hz."""
    mels = np.asarray(mel, dtype=np.float64)
    if htk:
        return np.asarray(700.0 * (10.0 ** (mels / 2595.0) - 1.0))
    above = _SLAY_BREAK_HZ * np.exp(_SLAY_LOG_STEP * (np.maximum(mels, _SLAY_BREAK_MEL) - _SLAY_BREAK_MEL))
    return np.where(mels >= _SLAY_BREAK_MEL, above, mels * _SLAY_LINEAR_HZ)


def bin_frequencies(sample_rate_hz: int, n_fft: int) -> npt.NDArray[np.float64]:
    """The centre of every FFT bin in Hz, `(n_fft // 2 + 1,)`."""
    return np.linspace(0.0, sample_rate_hz / 2.0, n_fft // 2 + 1)


def mel_filterbank(sample_rate_hz: int, n_fft: int, *, bands: int, fmin_hz: float, fmax_hz: float, htk: bool = False) -> Floats:
    """`(bands, bins)` triangles, linear in Hz, each of area one: librosa.filters.mel with its norm "slaney"."""
    lowest, highest = hz_to_mel([fmin_hz, fmax_hz], htk=htk)
    edges = mel_to_hz(np.linspace(lowest, highest, bands + 2), htk=htk)
    frequencies = bin_frequencies(sample_rate_hz, n_fft)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None], dtype=np.float32)


def mel_weights_tf(sample_rate_hz: int, n_fft: int, *, bands: int, fmin_hz: float, fmax_hz: float) -> Floats:
    """`(bins, bands)` triangles, linear in mel, peaks near one, no DC: tf.signal.linear_to_mel_weight_matrix."""

    def mel(hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(1127.0 * np.log1p(np.asarray(hz, dtype=np.float64) / 700.0))

    bins = mel(bin_frequencies(sample_rate_hz, n_fft))[:, None]
    edges = np.linspace(mel(fmin_hz), mel(fmax_hz), bands + 2)
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return np.asarray(weights, dtype=np.float32)


def chroma_filterbank(sample_rate_hz: int, n_fft: int, *, classes: int = 12) -> Floats:
    """`(classes, bins)` from C, A4 = 440 Hz: librosa.filters.chroma with its defaults."""
    octave_hz = 440.0 / 16.0
    frequencies = np.linspace(0.0, sample_rate_hz, n_fft, endpoint=False)[1:]
    bins = classes * np.log2(frequencies / octave_hz)
    bins = np.concatenate([[bins[0] - 1.5 * classes], bins])
    widths = np.concatenate([np.maximum(np.diff(bins), 1.0), [1.0]])
    half = round(classes / 2.0)
    offsets = np.remainder(np.subtract.outer(bins, np.arange(classes)).T + half + 10 * classes, classes) - half
    weights = np.exp(-0.5 * (2.0 * offsets / widths) ** 2)
    weights /= np.linalg.norm(weights, axis=0)
    weights *= np.exp(-0.5 * ((bins / classes - 5.0) / 2.0) ** 2)
    rolled = np.roll(weights, -3 * (classes // 12), axis=0)
    return np.asarray(rolled[:, : n_fft // 2 + 1], dtype=np.float32)


def dct_matrix(inputs: int, outputs: int) -> Floats:
    """`(inputs, outputs)`: the orthonormal DCT-II that turns log-mel bands into cepstral coefficients."""
    angles = np.pi * np.outer(np.arange(inputs) + 0.5, np.arange(outputs)) / inputs
    matrix = np.cos(angles) * np.sqrt(2.0 / inputs)
    matrix[:, 0] = np.sqrt(1.0 / inputs)
    return np.asarray(matrix, dtype=np.float32)


def preemphasis_power(n_fft: int, coefficient: float) -> npt.NDArray[np.float64]:
    """Pre-emphasis as a weight on each power bin, `(n_fft // 2 + 1,)`: `|1 - coefficient * exp(-i w)|^2`."""
    angles = 2.0 * np.pi * np.arange(n_fft // 2 + 1) / n_fft
    return np.asarray(1.0 + coefficient**2 - 2.0 * coefficient * np.cos(angles))


def power_to_db(power: Floats, *, floor: float = 1e-10) -> Floats:
    """Decibels re 1; powers below `floor` count as `floor`."""
    return np.asarray(np.float32(10.0 / np.log(10.0)) * np.log(np.maximum(power, np.float32(floor))), dtype=np.float32)


def mfcc(mel_power: Floats, dct: Floats, *, floor: float = 1e-10) -> Floats:
    """Cepstral coefficients `(..., frames, outputs)` of mel powers `(..., frames, bands)`."""
    return np.asarray(power_to_db(mel_power, floor=floor) @ dct)


def normalized_chroma(chroma_power: Floats) -> Floats:
    """Each frame divided by its largest pitch class; a frame without sound stays zero."""
    peak = chroma_power.max(axis=-1, keepdims=True)
    return np.asarray(chroma_power / np.where(peak > np.finfo(np.float32).tiny, peak, np.float32(1.0)))


def moment_weights(frequencies: Floats) -> Floats:
    """`(bins, 3)`: a magnitude spectrum times this gives the sums that `centroid_and_bandwidth` needs."""
    return np.stack([np.ones_like(frequencies), frequencies, frequencies**2], axis=-1)


def centroid_and_bandwidth(moments: Floats) -> Floats:
    """`(..., 2)` in the unit of the frequencies: the mean frequency and its spread; zero for silence."""
    total = np.maximum(moments[..., 0], np.finfo(np.float32).tiny)
    centroid = moments[..., 1] / total
    spread = np.sqrt(np.maximum(moments[..., 2] / total - centroid**2, 0.0))
    return np.stack([centroid, spread], axis=-1)


def rolloff(magnitude: Floats, frequencies: Floats, *, share: float = 0.85) -> Floats:
    """`(..., frames)`: the lowest frequency below which `share` of the magnitude lies.

    Sought first among blocks of 16 bins, then within one: a running sum over all bins would take three times as long.
    """
    bins = magnitude.shape[-1]
    blocks = -(-bins // 16)
    to_blocks = np.repeat(np.eye(blocks, dtype=np.float32), 16, axis=0)[:bins]
    running = np.cumsum(magnitude @ to_blocks, axis=-1)
    wanted = np.float32(share) * running[..., -1:]
    block = np.argmax(running >= wanted, axis=-1)[..., None]
    before = np.where(block > 0, np.take_along_axis(running, np.maximum(block - 1, 0), axis=-1), np.float32(0.0))
    inside = np.minimum(block * 16 + np.arange(16), bins - 1)
    fine = before + np.cumsum(np.take_along_axis(magnitude, inside, axis=-1), axis=-1)
    reached = fine >= wanted
    reached[..., -1] = True  # rounding may leave the block's own sum a hair short
    return np.asarray(frequencies[np.take_along_axis(inside, np.argmax(reached, axis=-1)[..., None], axis=-1)[..., 0]])


def flatness(power: Floats, *, floor: float = 1e-10) -> Floats:
    """`(..., frames)` in (0, 1]: geometric over arithmetic mean of the power; 1 is white noise (and silence)."""
    floored = np.maximum(power, np.float32(floor))
    uniform = np.full(power.shape[-1], 1.0 / power.shape[-1], dtype=np.float32)
    return np.asarray(np.exp(np.log(floored) @ uniform) / (floored @ uniform))


def zero_crossings(waveform: Floats) -> npt.NDArray[np.bool_]:
    """Whether the sign changes at each sample, `(..., samples)`; the first never; |x| <= 1e-10 counts as zero, positive."""
    negative = waveform < np.float32(-1e-10)
    crossings = np.zeros(waveform.shape, dtype=np.bool_)
    np.not_equal(negative[..., 1:], negative[..., :-1], out=crossings[..., 1:])
    return crossings
