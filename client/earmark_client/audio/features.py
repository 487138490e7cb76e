"""One short-time Fourier transform, two uses: the encoder's log-mel patch and the multi-scale description of a segment.

Work is done per *half segment* (48 frames, 7,920 samples), because neighbouring segments of a clip overlap by half: where row
i + 1 repeats the second half of row i, its frames are computed once. Every matrix product has the shape of one half segment,
whatever the batch, so a row's features are the same to the bit alone or among others.

Layout of `multi_scale` (also as data: `FeatureExtractor.layout`), all means over frames unless said otherwise:

    log_mel_mean 64, log_mel_std 64     the encoder's own bands over the whole segment
    mfcc_mean 20, mfcc_std 20           cepstra in dB, 40 Slaney bands, pre-emphasis as a weight on the power spectrum
    mfcc_thirds 60, mfcc_sixths 120     means over each third and sixth: what comes first and what next
    mfcc_delta_1, _3, _9 20 each        root mean square of the change over 10, 30 and 90 ms
    sounding_length 1                   log of the share of the segment from the first sounding frame to the last
    sounding_eighths 104                means of 13 cepstra over each eighth of that stretch: a word, however fast it is said
    chroma_mean 12, _std 12, _thirds 36 pitch classes from C, each frame's largest is 1
    shape_mean 6, _std 6, _thirds 18    centroid, bandwidth, rolloff (kHz), flatness, zero-crossing rate, log10 RMS
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from earmark_client import blas
from earmark_client.audio import spectral

Floats = npt.NDArray[np.float32]

_GROUP = 80  # half segments, or segments, worked on at once: few calls, and little waiting for the interpreter among threads
_CEPSTRA = 20
_CEPSTRAL_BANDS = 40
_CEPSTRAL_FLOOR = 1e-5  # of power: below it lies the rounding noise of lossy codecs
_RMS_FLOOR = 1e-5
_LAGS = (1, 3, 9)
_SCALES = (1, 3, 6)  # how many equal parts of a segment are averaged
_SOUNDING_DECADES = 1.3  # a frame sounds if its RMS is within this many powers of ten of the loudest five's
_LOUDEST = 5
_EIGHTHS = 8
_SOUNDING_CEPSTRA = 13


@dataclass(frozen=True)
class MelSpec:
    """What the encoder expects to hear; mirrors a model manifest's "frontend". Lengths in samples, frequencies in Hz."""

    sample_rate_hz: int = 16000
    n_fft: int = 512
    win: int = 400
    hop: int = 160
    bands: int = 64
    fmin: float = 125.0
    fmax: float = 7500.0
    log_offset: float = 1e-3
    power: float = 1.0
    htk: bool = True
    frames: int = 96

    @property
    def segment_samples(self) -> int:
        """Samples under one patch of `frames` frames."""
        return (self.frames - 1) * self.hop + self.win

    @property
    def half_frames(self) -> int:
        """Frames in half a segment, by which neighbouring segments overlap."""
        return self.frames // 2

    @property
    def half_samples(self) -> int:
        """Samples under half a segment's frames."""
        return (self.half_frames - 1) * self.hop + self.win


@dataclass(frozen=True)
class Features:
    """Per segment: `log_mel (n, frames, bands)` for the encoder and `multi_scale (n, F)`, both finite float32."""

    log_mel: Floats
    multi_scale: Floats


class ShortTimeSpectrum:
    """Power spectra of Hann-windowed frames, `(m, frames, n_fft // 2 + 1)`, by two matrix products.

    The window is symmetric about the frame's middle, so with time counted from there the real part needs only the even half of
    the frame and the imaginary part the odd half. On short frames that beats numpy's FFT fourfold.
    """

    def __init__(self, win: int, hop: int, n_fft: int) -> None:
        """Precompute the cosines and sines, `(win // 2, bins)`, with the window folded in."""
        self._win, self._hop, self._middle = win, hop, win // 2
        offsets = np.arange(self._middle)
        window = 0.5 + 0.5 * np.cos(2.0 * np.pi * offsets / win)
        angles = 2.0 * np.pi * np.outer(offsets, np.arange(n_fft // 2 + 1)) / n_fft
        self._cosines = (window[:, None] * np.cos(angles)).astype(np.float32)
        self._sines = (window[:, None] * np.sin(angles)).astype(np.float32)

    def power(self, waveforms: Floats) -> Floats:
        """`(m, samples)` to `(m, frames, bins)`; every row is transformed on its own."""
        windows = np.lib.stride_tricks.sliding_window_view(waveforms, self._win, axis=-1)[:, :: self._hop]
        after = windows[..., self._middle :]
        before = windows[..., self._middle : 0 : -1]
        even = after + before
        even[..., 0] *= np.float32(0.5)
        real = even @ self._cosines
        imaginary = (after - before) @ self._sines
        np.multiply(real, real, out=real)
        np.multiply(imaginary, imaginary, out=imaginary)
        return np.add(real, imaginary, out=real)


class FeatureExtractor:
    """Waveforms to `Features`. Immutable after construction: any number of threads may call one."""

    def __init__(self, spec: MelSpec | None = None, *, emphasis: float = 0.97) -> None:
        """Build the matrices for `spec`; `emphasis` is the pre-emphasis of the cepstra, 0 for none."""
        self.spec = spec = spec or MelSpec()
        if spec.power != 1.0 or not spec.htk or spec.frames % 6 or spec.half_frames * 2 != spec.frames:
            raise ValueError("the extractor makes magnitude HTK log-mel patches whose frame count is a multiple of 6")
        blas.use_one_thread()  # shared out to several, these products are summed in another order on some processors
        self._spectrum = ShortTimeSpectrum(spec.win, spec.hop, spec.n_fft)
        self._kilohertz = (spectral.bin_frequencies(spec.sample_rate_hz, spec.n_fft) / 1000.0).astype(np.float32)
        mel = spectral.mel_weights_tf(spec.sample_rate_hz, spec.n_fft, bands=spec.bands, fmin_hz=spec.fmin, fmax_hz=spec.fmax)
        self._mel = np.concatenate([mel, spectral.moment_weights(self._kilohertz)], axis=1)
        cepstral = spectral.mel_filterbank(
            spec.sample_rate_hz, spec.n_fft, bands=_CEPSTRAL_BANDS, fmin_hz=0.0, fmax_hz=spec.sample_rate_hz / 2
        )
        weighted = cepstral * spectral.preemphasis_power(spec.n_fft, emphasis)
        chroma = spectral.chroma_filterbank(spec.sample_rate_hz, spec.n_fft)
        self._bands = np.ascontiguousarray(np.concatenate([weighted, chroma]).T, dtype=np.float32)
        self._dct = spectral.dct_matrix(_CEPSTRAL_BANDS, _CEPSTRA)
        self._pooling = _pooling_matrix(spec.frames)
        self.layout = _layout(spec.bands)
        self.multi_scale_size = self.layout[-1][2]

    def __call__(self, waveforms: Floats) -> Features:
        """Features of `(n, segment_samples)` float32 waveforms at `sample_rate_hz`; finite for finite waveforms."""
        spec = self.spec
        if waveforms.ndim != 2 or waveforms.shape[1] != spec.segment_samples:
            raise ValueError(f"waveforms must be (n, {spec.segment_samples}), not {waveforms.shape}")
        halves, places = _distinct_halves(np.asarray(waveforms, dtype=np.float32), spec)
        rows = np.empty((len(halves), spec.half_frames, spec.bands + _CEPSTRA + 18), dtype=np.float32)
        for start in range(0, len(halves), _GROUP):
            group = slice(start, start + _GROUP)
            self._describe(halves[group], rows[group])
        log_mel = np.empty((len(waveforms), spec.frames, spec.bands), dtype=np.float32)
        multi_scale = np.empty((len(waveforms), self.multi_scale_size), dtype=np.float32)
        for start in range(0, len(waveforms), _GROUP):
            group = slice(start, start + _GROUP)
            frames = rows[places[group]].reshape(-1, spec.frames, rows.shape[2])
            log_mel[group] = frames[..., : spec.bands]
            self._pool(frames, multi_scale[group])
        return Features(log_mel, multi_scale)

    def _describe(self, halves: Floats, out: Floats) -> None:
        """Fill `out (m, half_frames, bands + 38)`: log-mel, cepstra, chroma and shape of every frame."""
        power = self._spectrum.power(halves)
        magnitude = np.sqrt(power)
        bands, cepstra = self.spec.bands, self.spec.bands + _CEPSTRA
        summed = magnitude @ self._mel
        out[..., :bands] = np.log(summed[..., :bands] + np.float32(self.spec.log_offset))
        out[..., cepstra + 12 : cepstra + 14] = spectral.centroid_and_bandwidth(summed[..., bands:])
        summed = power @ self._bands
        out[..., bands:cepstra] = spectral.mfcc(summed[..., :_CEPSTRAL_BANDS], self._dct, floor=_CEPSTRAL_FLOOR)
        out[..., cepstra : cepstra + 12] = spectral.normalized_chroma(summed[..., _CEPSTRAL_BANDS:])
        out[..., cepstra + 14] = spectral.rolloff(magnitude, self._kilohertz)
        out[..., cepstra + 15] = spectral.flatness(power, floor=_CEPSTRAL_FLOOR)
        out[..., cepstra + 16 :] = self._time_domain(halves)

    def _time_domain(self, halves: Floats) -> Floats:
        """`(m, half_frames, 2)`: zero-crossing rate and log10 RMS of every frame, summed from blocks of 80 samples."""
        win, hop, frames = self.spec.win, self.spec.hop, self.spec.half_frames
        crossings = spectral.zero_crossings(halves).astype(np.float32)
        counted = self._framed_sums(crossings) - crossings[:, : frames * hop : hop]
        loudness = np.sqrt(self._framed_sums(np.square(halves)) / np.float32(win))
        return np.stack([counted / np.float32(win), np.log10(loudness + np.float32(_RMS_FLOOR))], axis=-1)

    def _framed_sums(self, values: Floats) -> Floats:
        """Sums of `(m, half_samples)` over every frame, `(m, half_frames)`."""
        block = int(np.gcd(self.spec.win, self.spec.hop))
        sums = values.reshape(len(values), -1, block) @ np.ones(block, dtype=np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(sums, self.spec.win // block, axis=-1)
        return np.asarray(windows[:, :: self.spec.hop // block].sum(axis=-1))

    def _pool(self, frames: Floats, out: Floats) -> None:
        """Fill `out (n, F)`, in the order of `layout`, from `frames (n, frames, bands + 38)`."""
        bands, cepstra = self.spec.bands, self.spec.bands + _CEPSTRA
        means = self._pooling @ frames
        changes = frames - means[:, :1]
        spread = np.sqrt(self._pooling[:1] @ np.square(changes, out=changes))
        coefficients = frames[..., bands:cepstra]
        parts = [means[:, :1, :bands], spread[..., :bands], means[:, :1, bands:cepstra], spread[..., bands:cepstra]]
        parts += [means[:, 1:4, bands:cepstra], means[:, 4:, bands:cepstra]]
        parts += [_root_mean_square(coefficients[:, lag:] - coefficients[:, :-lag]) for lag in _LAGS]
        first, last = _sounding_stretch(frames[..., -1])
        parts += [np.log((last - first) / np.float32(self.spec.frames)).astype(np.float32)]
        parts += [_means_between(coefficients[..., :_SOUNDING_CEPSTRA], first, last, _EIGHTHS)]
        for columns in (slice(cepstra, cepstra + 12), slice(cepstra + 12, None)):
            parts += [means[:, :1, columns], spread[..., columns], means[:, 1:4, columns]]
        np.concatenate([part.reshape(len(frames), -1) for part in parts], axis=1, out=out)


def _distinct_halves(waveforms: Floats, spec: MelSpec) -> tuple[Floats, npt.NDArray[np.intp]]:
    """The different half segments `(m, half_samples)` and, for each row, where its two halves are `(n, 2)`."""
    step = spec.half_frames * spec.hop
    rest = spec.segment_samples - step
    halves: list[Floats] = []
    places = np.empty((len(waveforms), 2), dtype=np.intp)
    for row, waveform in enumerate(waveforms):
        shared = row > 0 and np.array_equal(waveforms[row - 1, step:], waveform[:rest])
        if not shared:
            halves.append(waveform[:rest])
        halves.append(waveform[step:])
        places[row] = len(halves) - 2, len(halves) - 1
    if not halves:
        return np.empty((0, rest), dtype=np.float32), places
    return np.stack(halves), places


def _pooling_matrix(frames: int) -> Floats:
    """`(10, frames)`: row by row the mean over the whole, each third and each sixth."""
    matrix = np.concatenate([np.repeat(np.eye(parts) * parts / frames, frames // parts, axis=1) for parts in _SCALES])
    return matrix.astype(np.float32)


def _sounding_stretch(loudness: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Frames' log10 RMS `(n, frames)` -> the first frame that sounds and the one after the last, each `(n,)`."""
    loudest = np.sort(loudness, axis=1)[:, -_LOUDEST:].mean(axis=1, keepdims=True)
    sounds = loudness >= np.minimum(loudest - np.float32(_SOUNDING_DECADES), loudness.max(axis=1, keepdims=True))
    return sounds.argmax(axis=1), sounds.shape[1] - sounds[:, ::-1].argmax(axis=1)


def _means_between(values: Floats, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], parts: int) -> Floats:
    """Means of `values (n, frames, k)` over equal parts of each row's frames `first` to `last`: `(n, parts, k)`.

    A part may begin within a frame: means are differences of a running sum that is taken to be straight within a frame.
    """
    running = np.zeros((len(values), values.shape[1] + 1, values.shape[2]))
    np.cumsum(values, axis=1, dtype=np.float64, out=running[:, 1:])
    edges = first[:, None] + (last - first)[:, None] * (np.arange(parts + 1) / parts)
    whole = np.minimum(edges.astype(np.int64), values.shape[1] - 1)
    row = np.arange(len(values))[:, None]
    before, after = running[row, whole], running[row, whole + 1]
    at_edges = before + (after - before) * (edges - whole)[..., None]
    means: Floats = (np.diff(at_edges, axis=1) * (parts / (last - first))[:, None, None]).astype(np.float32)
    return means


def _root_mean_square(changes: Floats) -> Floats:
    """Over the frames axis: `(n, frames, k)` to `(n, 1, k)`."""
    uniform = np.full((1, changes.shape[1]), 1.0 / changes.shape[1], dtype=np.float32)
    return np.asarray(np.sqrt(uniform @ np.square(changes)))


def _layout(bands: int) -> tuple[tuple[str, int, int], ...]:
    """`(name, start, stop)` of every part of `multi_scale`."""
    sizes = [("log_mel_mean", bands), ("log_mel_std", bands), ("mfcc_mean", _CEPSTRA), ("mfcc_std", _CEPSTRA)]
    sizes += [("mfcc_thirds", 3 * _CEPSTRA), ("mfcc_sixths", 6 * _CEPSTRA)]
    sizes += [(f"mfcc_delta_{lag}", _CEPSTRA) for lag in _LAGS]
    sizes += [("sounding_length", 1), ("sounding_eighths", _EIGHTHS * _SOUNDING_CEPSTRA)]
    for name, width in (("chroma", 12), ("shape", 6)):
        sizes += [(f"{name}_mean", width), (f"{name}_std", width), (f"{name}_thirds", 3 * width)]
    stops = np.cumsum([size for _, size in sizes]).tolist()
    return tuple((name, stop - size, stop) for (name, size), stop in zip(sizes, stops, strict=True))
