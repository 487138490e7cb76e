"""The directions that a head hears in, learned from speech that everybody may hear: what is said rather than how.

Each public utterance is played again in other voices and through other channels. Directions in which different utterances differ more
than versions of one do are the ones that help to tell words apart; the noise of private training costs the same in every direction.
"""

from __future__ import annotations

import librosa
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
SAMPLE_RATE = 16_000
VERSIONS = 6
"""Other versions of each utterance."""
LONGEST_S = 4
SPEEDS = 0.25
"""Largest change of the logarithm of speed, and with it of pitch."""
BANDS, TILT_DB = 6, 4.0
NARROW_SHARE, NARROW_HZ = 0.6, (3_000.0, 3_900.0)
"""How often a version is cut off as a telephone does, and where."""
NOISY_SHARE, SNR_DB = 0.5, (10.0, 35.0)
LEVEL_DB = (-12.0, 6.0)
EVENNESS = 1.0
"""Added to the spread within utterances, in units of its mean over all inputs: directions that hardly vary must not count most."""


def versions(waveform: Floats, seed: int) -> list[Floats]:
    """Return a 16 kHz waveform `(samples,)` and VERSIONS others of it: faster or slower, filtered, noisy, louder or quieter."""
    rng = np.random.default_rng(seed)
    waveform = waveform[: LONGEST_S * SAMPLE_RATE]
    return [waveform, *(_otherwise(waveform, rng) for _ in range(VERSIONS))]


def _otherwise(waveform: Floats, rng: np.random.Generator) -> Floats:
    speed = np.exp(rng.uniform(-SPEEDS, SPEEDS))
    changed = librosa.resample(waveform, orig_sr=SAMPLE_RATE, target_sr=round(SAMPLE_RATE / speed))
    spectrum = np.fft.rfft(changed)
    places = np.linspace(0.0, 1.0, len(spectrum))
    gain_db = np.interp(places, np.linspace(0.0, 1.0, BANDS), rng.normal(0.0, TILT_DB, BANDS)) + rng.uniform(*LEVEL_DB)
    if rng.random() < NARROW_SHARE:
        spectrum[places > rng.uniform(*NARROW_HZ) / (SAMPLE_RATE / 2)] = 0.0
    changed = np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(changed))
    if rng.random() < NOISY_SHARE:
        noise = rng.normal(size=len(changed)) * np.sqrt(np.mean(changed**2))
        changed = changed + noise * 10 ** (-rng.uniform(*SNR_DB) / 20)
    return np.clip(changed, -1.0, 1.0).astype(np.float32)


def axes(outputs: Floats, utterances: npt.NDArray[np.int64], rank: int) -> dict[str, Floats]:
    """Return `down` `(rank, inputs)` and `shift` `(rank,)`: the directions that tell utterances apart best, centred.

    Linear discriminants (C. R. Rao, 1948; the solution is e.g. K. Fukunaga, Introduction to Statistical Pattern Recognition, 10.2):
    versions of an utterance vary by one in each.

    Args:
        outputs: `(segments, inputs)` encoder outputs.
        utterances: `(segments,)` the utterance that each is a version of.
        rank: how many directions.
    """
    _, places, counts = np.unique(utterances, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), outputs.shape[1]))
    np.add.at(means, places, outputs.astype(np.float64))
    means /= counts[:, None]
    within, between = outputs - means[places], means - means.mean(axis=0)
    spread = within.T @ within / len(within)
    spread += EVENNESS * np.trace(spread) / len(spread) * np.eye(len(spread))
    lengths, turned = np.linalg.eigh(spread)
    whiten = turned / np.sqrt(lengths)
    _, _, found = np.linalg.svd(between @ whiten, full_matrices=False)
    down = found[:rank] @ whiten.T
    return {"down": down.astype(np.float32), "shift": (-down @ means.mean(axis=0)).astype(np.float32)}
