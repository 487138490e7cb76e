"""Cuts a waveform, as it streams in, into overlapping segments of one encoder patch each, and leaves silence out.

A segment is silent when its root mean square stays below -60 dBFS *and* its peak below -40 dBFS: a faint tick in a quiet room
is a sound, the noise floor of a muted input is not. Silence is judged on the true samples, before padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SILENCE_RMS = 1e-3
SILENCE_PEAK = 1e-2
SHORTEST_TAIL_S = 0.1
USUAL_SAMPLES = 15_600


@dataclass(frozen=True)
class Cut:
    """`[start_s, end_s)` of a clip and its `waveform (segment_samples,)`, zero padded where the clip ends before."""

    start_s: float
    end_s: float
    waveform: Floats


class Segmenter:
    """Segments of one clip; what they are doesn't depend on how the waveform was divided into blocks.

    The last segment is zero padded. It exists if the clip has at least `SHORTEST_TAIL_S` of sound that no segment holds yet, so a
    short sound gets exactly one.
    """

    def __init__(self, segment_samples: int = USUAL_SAMPLES, hop_samples: int = 7_680, *, sample_rate_hz: int = 16_000) -> None:
        """Lengths in samples; a hop is at most a segment."""
        if not 0 < hop_samples <= segment_samples:
            raise ValueError("a hop is at least one sample and at most a segment")
        self._segment, self._hop, self._rate_hz = segment_samples, hop_samples, sample_rate_hz
        self._pending: Floats = np.empty(0, dtype=np.float32)
        self._start = 0
        self._covered = 0

    def share_of(self, segments: int) -> int:
        """How many of these segments hold as much sound as so many usual ones; at least one."""
        return max(1, min(segments, segments * USUAL_SAMPLES // self._segment))

    def push(self, block: Floats) -> list[Cut]:
        """The segments that `block (samples,)` completes, silent ones left out."""
        pending = np.concatenate([self._pending, block])
        cuts = []
        place = 0
        while pending.size - place >= self._segment:
            cuts += self._cut(pending[place : place + self._segment])
            place += self._hop
            self._start += self._hop
        self._pending = pending[place:].copy()
        return cuts

    def flush(self) -> list[Cut]:
        """The padded last segment, if there is one; the segmenter is ready for another clip."""
        fresh = self._start + self._pending.size - self._covered
        cuts = self._cut(self._pending) if fresh >= round(SHORTEST_TAIL_S * self._rate_hz) else []
        self._pending = self._pending[:0]
        self._start = self._covered = 0
        return cuts

    def _cut(self, samples: Floats) -> list[Cut]:
        """One segment, or none if it is silent; counts its samples as covered."""
        end = self._covered = self._start + samples.size
        if is_silent(samples):
            return []
        waveform = np.zeros(self._segment, dtype=np.float32)
        waveform[: samples.size] = samples
        return [Cut(self._start / self._rate_hz, end / self._rate_hz, waveform)]


def is_silent(samples: Floats) -> bool:
    """Whether there is nothing to hear in `samples (n,)`."""
    if not samples.size:
        return True
    if max(float(samples.max()), -float(samples.min())) >= SILENCE_PEAK:
        return False
    return float(np.mean(np.square(samples, dtype=np.float64))) < SILENCE_RMS**2
