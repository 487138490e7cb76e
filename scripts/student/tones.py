"""Synthesized tones for the student's mixtures: recordings hold few whistles, sirens and clicks that nothing masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from student.sounds import Floats

RATE_HZ, SECONDS, COUNT = 16_000, 3, 150
LOW_HZ, HIGH_HZ = 80.0, 6000.0
OVERTONES = 12


def tones(seed: int) -> Iterator[Floats]:
    """`COUNT` waveforms `(samples,)` at `RATE_HZ`: gliding, trembling or steady, with overtones, whole or in pulses; and clicks."""
    random = np.random.default_rng(seed)
    for at in range(COUNT):
        yield _clicks(random) if at % 5 == 0 else _tone(random)


def _tone(random: np.random.Generator) -> Floats:
    samples = SECONDS * RATE_HZ
    share = np.linspace(0, 1, samples)
    first, last = np.exp(random.uniform(np.log(LOW_HZ), np.log(HIGH_HZ), 2))
    if random.random() < 0.2:
        last = first
    hertz = first + (last - first) * share if random.random() < 0.5 else first * (last / first) ** share
    hertz = hertz * (1 + (random.random() < 0.3) * 0.03 * np.sin(2 * np.pi * random.uniform(3, 9) * SECONDS * share))
    phase = 2 * np.pi * np.cumsum(hertz) / RATE_HZ
    fall = random.uniform(0.5, 3)
    # Nothing above half the rate: it would come back lower.
    parts = [
        np.where(hertz * k < RATE_HZ / 2, np.sin(k * phase), 0.0) / k**fall
        for k in range(1, 1 + (int(random.integers(2, OVERTONES)) if random.random() < 0.5 else 1))
    ]
    made = np.sum(parts, axis=0)
    if random.random() < 0.3:
        made = made * (np.sin(2 * np.pi * random.uniform(1, 8) * SECONDS * share) > random.uniform(-0.8, 0.5))
    scaled: Floats = (made / np.abs(made).max() * 0.7).astype(np.float32)
    return scaled


def _clicks(random: np.random.Generator) -> Floats:
    """Short bursts of noise, evenly apart."""
    samples = SECONDS * RATE_HZ
    apart, long = int(random.integers(800, 8000)), int(random.integers(8, 200))
    bursts: Floats = (0.3 * random.normal(size=samples) * (np.arange(samples) % apart < long)).astype(np.float32)
    return bursts
