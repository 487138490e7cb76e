"""Endless training patches out of few recordings: cut, mixed, filtered, stretched and made noisy as linear mel magnitudes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from student.sounds import Floats, Sounds

FRAMES, BANDS = 96, 64
KIND_SHARES = (0.2375, 0.475, 0.1425, 0.095, 0.05)
"""How often each of `sounds.KINDS` is drawn."""
CLEAN_SHARE = 0.35
"""Patches that are cut and changed in level, and nothing else."""
LOG_OFFSET = np.float32(1e-3)
AUDIBLE = 5e-3
TRIES = 20


class Mixer:
    """Draws log-mel patches; the same seed gives the same patches."""

    def __init__(self, sounds: Sounds, seed: int, *, with_held: bool = False) -> None:
        """Take the recordings that are not held out, or all."""
        self._sounds = sounds
        self._random = np.random.default_rng(seed)
        usable = np.full(len(sounds.kind), True) if with_held else ~sounds.is_held
        self._pools = [np.flatnonzero(usable & (sounds.kind == kind)) for kind in range(len(KIND_SHARES))]
        lengths = np.sqrt(np.diff(sounds.offsets).astype(np.float64))
        self._odds = [lengths[pool] / lengths[pool].sum() for pool in self._pools]

    def batch(self, count: int) -> Floats:
        """`(count, FRAMES, BANDS)` log-mel patches."""
        patches = np.stack([self._patch() for _ in range(count)])
        return np.log(patches + LOG_OFFSET)

    def _patch(self) -> Floats:
        patch = self._cut()
        if self._random.random() > CLEAN_SHARE:
            patch = self._disturb(patch)
        return patch * self._gain(0.0, 5.0)

    def _cut(self) -> Floats:
        """A stretch of a recording that has something to hear."""
        for _ in range(TRIES):
            kind = self._random.choice(len(KIND_SHARES), p=KIND_SHARES)
            clip = self._random.choice(self._pools[kind], p=self._odds[kind])
            first, last = self._sounds.offsets[clip], self._sounds.offsets[clip + 1] - FRAMES
            patch = self._sounds.magnitudes(int(self._random.integers(first, last + 1)), FRAMES)
            if patch.max() > AUDIBLE:
                break
        return patch

    def _gain(self, mean_db: float, deviation_db: float) -> np.float32:
        return np.float32(10 ** (self._random.normal(mean_db, deviation_db) / 20))

    def _disturb(self, patch: Floats) -> Floats:
        chance = self._random.random(7)
        if chance[0] < 0.3:
            patch = self._stretch(patch)
        if chance[1] < 0.7:
            patch = self._add(patch)
        if chance[2] < 0.1:
            place = int(self._random.integers(8, BANDS - 8))
            patch = np.concatenate([patch[:, :place], self._cut()[:, place:]], axis=1)
        if chance[3] < 0.4:
            patch = patch * self._filter()
        if chance[4] < 0.25:
            patch = self._shift_bands(patch)
        if chance[5] < 0.3:
            patch = np.hypot(patch, self._noise(patch))
        if chance[6] < 0.15:
            patch = self._shorten(patch)
        return patch.astype(np.float32, copy=False)

    def _add(self, patch: Floats) -> Floats:
        """One or two other sounds; powers add up."""
        for _ in range(1 if self._random.random() < 0.75 else 2):
            other = self._cut()
            level = np.float32(np.sqrt(np.mean(patch**2) / max(float(np.mean(other**2)), 1e-12)))
            level = min(level, np.float32(100.0))
            patch = np.hypot(patch, other * level * self._gain(-6.0, 8.0))
        return patch

    def _stretch(self, patch: Floats) -> Floats:
        """Faster or slower by up to a third, or backwards."""
        rate = np.exp(self._random.uniform(-0.29, 0.29))
        places = np.clip((np.arange(FRAMES) - FRAMES / 2) * rate + FRAMES / 2, 0, FRAMES - 1)
        if self._random.random() < 0.2:
            places = places[::-1]
        low = np.minimum(places.astype(int), FRAMES - 2)
        part = (places - low).astype(np.float32)[:, None]
        stretched: Floats = patch[low] * (1 - part) + patch[low + 1] * part
        return stretched

    def _filter(self) -> Floats:
        """A smooth gain over the bands."""
        knots = self._random.normal(0, 7, 5)
        decibels = np.interp(np.arange(BANDS), np.linspace(0, BANDS - 1, 5), knots)
        gains: Floats = (10 ** (decibels / 20)).astype(np.float32)
        return gains

    def _shift_bands(self, patch: Floats) -> Floats:
        """Higher or lower by up to five bands."""
        places = np.clip(np.arange(BANDS) + self._random.integers(-5, 6), 0, BANDS - 1)
        return patch[:, places]

    def _noise(self, patch: Floats) -> Floats:
        """Steady noise of a random colour, 0 to 30 dB below the sound."""
        bumps = self._random.gamma(6.0, 1 / 6.0, (FRAMES, BANDS)).astype(np.float32)
        noise = bumps * self._filter()
        level = np.sqrt(np.mean(patch**2) / np.mean(noise**2)) * 10 ** (-self._random.uniform(0, 30) / 20)
        scaled: Floats = noise * np.float32(level)
        return scaled

    def _shorten(self, patch: Floats) -> Floats:
        """Silence behind, or before."""
        place = int(self._random.integers(16, FRAMES))
        kept = np.arange(FRAMES) < place
        if self._random.random() < 0.3:
            kept = kept[::-1]
        return patch * kept[:, None]
