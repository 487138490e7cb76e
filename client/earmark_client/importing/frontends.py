"""Front ends as torch modules, so that they are exported with their networks: 16 kHz waveforms in, the network's picture out.

Everything between a frame and its spectrum is linear (mean off, pre-emphasis, window, Fourier transform), so it is one matrix, and a
convolution applies it. Mel filters, window and constants are those of the checkpoint's own feature extractor, which the parity
check compares all this with. A segment that is filled up with zeros counts as far as its last sample that is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

RATE_HZ = 16_000
LN_10 = math.log(10)
HALF_TAPS = 32
"""Samples on either side that the resampler looks at."""
CUTOFF, BETA = 0.94, 10.0
"""Its edge as a share of 8 kHz, and its Kaiser window: what lies above is 90 dB down."""


def resampling_kernel(factor: int) -> Array:
    """The kernel `(2 * 32 * factor + 1,)` that turns samples with `factor - 1` zeros between them into a waveform."""
    at = np.arange(-HALF_TAPS * factor, HALF_TAPS * factor + 1) / factor
    kernel: Array = CUTOFF * np.sinc(CUTOFF * at) * np.kaiser(len(at), BETA)
    return kernel


class Upsample(nn.Module):
    """`(n, samples)` at 16 kHz -> `(n, samples * factor)`."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        kernel = resampling_kernel(factor)
        # Output sample i * factor + phase is the sum over j of x[i + j] h(phase / factor - j).
        rows = [[kernel[HALF_TAPS * factor + phase - j * factor] if abs(phase - j * factor) <= HALF_TAPS * factor else 0.0
                 for j in range(-HALF_TAPS, HALF_TAPS + 1)] for phase in range(factor)]  # fmt: skip
        self.register_buffer("rows", torch.tensor(rows, dtype=torch.float32)[:, None])

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """What the class says."""
        if self.factor == 1:
            return waveform
        phases = functional.conv1d(waveform[:, None], self.get_buffer("rows"), padding=HALF_TAPS)
        return phases.transpose(1, 2).flatten(1)


@dataclass(frozen=True)
class Framing:
    """How a spectrum is made of a waveform; `window (win,)`, `mel (n_fft // 2 + 1, bands)`."""

    window: Array
    n_fft: int
    hop: int
    mel: Array
    floor: float
    is_centred: bool
    preemphasis: float = 0.0
    removes_mean: bool = False


class MelPower(nn.Module):
    """`(n, samples)` -> `(n, frames, bands)` mel power, nowhere below the floor."""

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        win = len(framing.window)
        self.hop, self.floor = framing.hop, framing.floor
        self.padding = framing.n_fft // 2 if framing.is_centred else 0
        used = np.flatnonzero(framing.mel.any(axis=1))
        angles = -2 * np.pi * np.outer(used, np.arange(win)) / framing.n_fft
        before = np.eye(win) - (1 / win if framing.removes_mean else 0.0)
        emphasis = np.eye(win) - framing.preemphasis * np.eye(win, k=-1)
        emphasis[0, 0] -= framing.preemphasis
        linear = framing.window[:, None] * (emphasis @ before)
        kernel = np.concatenate([np.cos(angles) @ linear, np.sin(angles) @ linear])
        self.register_buffer("kernel", torch.tensor(kernel[:, None], dtype=torch.float32))
        self.register_buffer("mel", torch.tensor(framing.mel[used], dtype=torch.float32))

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """What the class says."""
        padded = waveform[:, None]
        if self.padding:
            padded = functional.pad(padded, (self.padding, self.padding), mode="reflect")
        parts = functional.conv1d(padded, self.get_buffer("kernel"), stride=self.hop)
        bins = len(self.get_buffer("mel"))
        power = parts[:, :bins] ** 2 + parts[:, bins:] ** 2
        return torch.clamp(power.transpose(1, 2) @ self.get_buffer("mel"), min=self.floor)


def sound_lengths(waveform: torch.Tensor) -> torch.Tensor:
    """`(n, samples)` -> `(n, 1) int64`: samples up to the last that is not zero, at least one."""
    places = torch.arange(1, waveform.shape[1] + 1, dtype=torch.int64)
    return (waveform.ne(0).to(torch.int64) * places).amax(dim=1, keepdim=True).clamp(min=1)


class ClapFrontend(nn.Module):
    """16 kHz `(n, samples)` -> `(n, 1 or 4, frames, bands)` in dB; a short sound is repeated as the checkpoint's extractor does."""

    def __init__(self, framing: Framing, *, factor: int, padding: str, is_fused: bool) -> None:
        super().__init__()
        self.upsample, self.mel = Upsample(factor), MelPower(framing)
        self.factor, self.padding, self.pictures = factor, padding, 4 if is_fused else 1

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """What the class says."""
        lengths = sound_lengths(waveform) * self.factor
        sound = self.upsample(waveform)
        places = torch.arange(sound.shape[1], dtype=torch.int64)[None]
        if self.padding == "pad":
            sound = torch.where(places < lengths, sound, torch.zeros_like(sound))
        else:
            repeated = torch.gather(sound, 1, places % lengths)
            whole = torch.div(sound.shape[1], lengths, rounding_mode="floor") * lengths
            sound = repeated if self.padding == "repeat" else torch.where(places < whole, repeated, torch.zeros_like(sound))
        decibels = 10 / LN_10 * torch.log(self.mel(sound))
        return decibels[:, None].expand(-1, self.pictures, -1, -1)


class AstFrontend(nn.Module):
    """16 kHz `(n, samples)` -> `(n, frames, bands)`: log mel, zero after the sound's end, then normalized."""

    def __init__(self, framing: Framing, *, mean: float, std: float) -> None:
        super().__init__()
        self.mel, self.mean, self.std = MelPower(framing), mean, std
        self.win, self.hop = len(framing.window), framing.hop

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """What the class says."""
        logged = torch.log(self.mel(waveform))
        frames = torch.div(sound_lengths(waveform) - self.win, self.hop, rounding_mode="floor") + 1
        places = torch.arange(logged.shape[1], dtype=torch.int64)[None]
        heard = torch.where((places < frames)[..., None], logged, torch.zeros_like(logged))
        return (heard - self.mean) / (2 * self.std)


class WhisperFrontend(nn.Module):
    """16 kHz `(n, samples)` -> `(n, bands, frames)`: log mel within eight decades of the loudest."""

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        self.mel = MelPower(framing)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """What the class says."""
        logged = torch.log(self.mel(waveform)[:, :-1]) / LN_10
        loudest = logged.amax(dim=(1, 2), keepdim=True)
        return ((torch.maximum(logged, loudest - 8.0) + 4.0) / 4.0).transpose(1, 2)
