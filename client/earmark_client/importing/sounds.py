"""Sounds made up from formulas: a graph is compared with its network on them, and a model's usual output is taken from them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

RATE_HZ = 16_000
SEED = 20


def make_sounds(samples: int, count: int) -> list[Floats]:
    """`count` different sounds, each `(up to samples,) float32` at 16 kHz within [-1, 1]; some fill a segment, some are short."""
    draw = np.random.default_rng(SEED)
    makers = (_tone, _sweep, _noise, _clicks, _bell, _voice)
    sounds = []
    for number in range(count):
        share = (1.0, 0.13, 0.5, 0.97)[number // len(makers) % 4]
        t = np.arange(max(round(samples * share), RATE_HZ // 4)) / RATE_HZ
        level = 10 ** draw.uniform(-1.5, 0)
        sound = makers[number % len(makers)](t[:samples], draw)
        sounds.append((level * sound / np.abs(sound).max()).astype(np.float32))
    return sounds


def fill(sounds: list[Floats], samples: int) -> Floats:
    """Sounds as segments `(n, samples)`: what is short is filled up with zeros, as `Segmenter` does."""
    filled = np.zeros((len(sounds), samples), np.float32)
    for row, sound in zip(filled, sounds, strict=True):
        row[: len(sound)] = sound
    return filled


Draw = np.random.Generator
Samples = npt.NDArray[np.float64]


def _tone(t: Samples, draw: Draw) -> Samples:
    return np.asarray(np.sin(2 * np.pi * 80 * 2 ** draw.uniform(0, 6) * t))


def _sweep(t: Samples, draw: Draw) -> Samples:
    low, high = sorted(draw.uniform(100, 7000, 2))
    return np.asarray(np.sin(2 * np.pi * (low * t + (high - low) / (2 * t[-1]) * t**2)))


def _noise(t: Samples, draw: Draw) -> Samples:
    white = draw.standard_normal(len(t))
    return white if draw.uniform() < 0.5 else np.cumsum(white) - np.linspace(0, white.sum(), len(t))


def _clicks(t: Samples, draw: Draw) -> Samples:
    phase = np.mod(t, draw.uniform(0.1, 1.0))
    return np.asarray(
        np.exp(-phase * 150) * np.sin(2 * np.pi * draw.uniform(500, 4000) * phase) + 1e-4 * draw.standard_normal(len(t))
    )


def _bell(t: Samples, draw: Draw) -> Samples:
    base = draw.uniform(200, 900)
    parts = [np.exp(-order * 2 * t) * np.sin(2 * np.pi * base * ratio * t) for order, ratio in ((1, 1), (2, 2.76), (3, 5.4))]
    return np.asarray(np.sum(parts, axis=0) + 1e-4 * draw.standard_normal(len(t)))


def _voice(t: Samples, draw: Draw) -> Samples:
    pitch = draw.uniform(90, 250)
    buzz = np.sum([np.sin(2 * np.pi * pitch * order * t) / order for order in range(1, 20)], axis=0)
    return np.asarray(buzz * (1.2 + np.sin(2 * np.pi * 4 * t)))
