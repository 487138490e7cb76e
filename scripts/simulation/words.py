"""Words that eSpeak NG says in many voices, each through another channel: public speech, and no digit in it.

The library is GPL-3.0-or-later and comes in the wheel `espeakng-loader`, an extra that only scripts/build_word_axes.py needs.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt
import soxr

from earmark_client.describe import Model

Floats = npt.NDArray[np.float32]

WORDS = tuple(Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split())
"""Common ones; no digit among them."""
RENDERINGS = 16
"""Of each word."""
ACCENTS = ("en", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc", "en-gb-x-gbclan")
NO_SPEAKERS = {"whisper", "whisperf", "Demonic", "Mr serious"}
"""Variants of a voice that nobody speaks with."""
SPEEDS, PITCHES, RANGES = (110, 230), (15, 85), (20, 80)
"""Words a minute, and what eSpeak NG counts from 0 to 100."""
SAMPLE_RATE = 16_000
PLAYED_FASTER = 0.15
"""Largest change of the logarithm of speed, and with it of pitch and formants: longer and shorter throats."""
TRIM = 0.01
"""What is below this share of the peak, at the ends, is silence."""
BANDS, TILT_DB = 6, 4.0
NARROW_SHARE, NARROW_HZ = 0.6, (3_000.0, 3_900.0)
"""How often a rendering is cut off as a telephone does, and where."""
SNR_DB = (12.0, 45.0)
LATE_SHARE, LATEST_S = 0.5, 0.1
PEAK_DB = (-18.0, 0.0)
_SPEED, _PITCH, _RANGE = 1, 3, 4
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1


def heard(model: Model) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return `(renderings, inputs)` outputs of the model's encoder and `(renderings,)` the place of each one's word in WORDS."""
    speaker = Speaker()
    outputs, words = [], []
    for place, word in enumerate(WORDS):
        if place % 100 == 0:
            print(f"hearing word {place} of {len(WORDS)}", file=sys.stderr, flush=True)
        outputs.append(model.describe(np.stack(list(_segments(model, speaker, word))))[1])
        words += [place] * len(outputs[-1])
    return np.concatenate(outputs), np.array(words)


def _segments(model: Model, speaker: Speaker, word: str) -> Iterator[Floats]:
    """Yield the first segment `(segment_samples,)` of each rendering."""
    rng = np.random.default_rng(crc32(word.encode()))
    for _ in range(RENDERINGS):
        segmenter = model.segmenter()
        waveform = through_channel(speaker.say(word, rng), speaker.rate_hz, rng)
        yield from (cut.waveform for cut in (segmenter.push(waveform) + segmenter.flush())[:1])


class Speaker:
    """eSpeak NG (https://github.com/espeak-ng/espeak-ng, `speak_lib.h`): one a process, since the library keeps its state to itself."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library, self._parts = ctypes.CDLL(espeakng_loader.get_library_path()), list[Floats]()
        data = Path(espeakng_loader.get_data_path())
        self.rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 0, bytes(data.parent), _DONT_EXIT)
        if self.rate_hz <= 0:
            raise RuntimeError(f"{data}: eSpeak NG can't read its voices; install the wheel again")
        self._callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)(self._take)
        self._library.espeak_SetSynthCallback(self._callback)
        variants = sorted(path.name for path in (data / "voices" / "!v").iterdir())
        self.voices = [f"{accent}+{variant}" for accent in ACCENTS for variant in variants if variant not in NO_SPEAKERS]

    def say(self, word: str, rng: np.random.Generator) -> Floats:
        """Return a word at `rate_hz`, in a random voice, fast or slow, high or low, without the silence around it."""
        if self._library.espeak_SetVoiceByName(self.voices[rng.integers(len(self.voices))].encode()):
            raise RuntimeError("eSpeak NG knows no such voice")
        for knob, (low, high) in ((_SPEED, SPEEDS), (_PITCH, PITCHES), (_RANGE, RANGES)):
            self._library.espeak_SetParameter(knob, int(rng.integers(low, high + 1)), 0)
        self._parts.clear()
        text = word.encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        waveform = np.concatenate(self._parts)
        loud = np.flatnonzero(np.abs(waveform) > TRIM * np.abs(waveform).max())
        return waveform[loud[0] : loud[-1] + 1]

    def _take(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32) / 32_768)
        return 0


def through_channel(waveform: Floats, rate_hz: int, rng: np.random.Generator) -> Floats:
    """Return a waveform `(samples,)` at 16 kHz: played faster or slower, filtered, noisy, a little late, louder or quieter."""
    faster = np.exp(rng.uniform(-PLAYED_FASTER, PLAYED_FASTER))
    changed = soxr.resample(waveform, rate_hz * faster, SAMPLE_RATE)
    spectrum = np.fft.rfft(changed)
    places = np.linspace(0.0, 1.0, len(spectrum))
    spectrum *= 10 ** (np.interp(places, np.linspace(0.0, 1.0, BANDS), rng.normal(0.0, TILT_DB, BANDS)) / 20)
    if rng.random() < NARROW_SHARE:
        spectrum[places > rng.uniform(*NARROW_HZ) / (SAMPLE_RATE / 2)] = 0.0
    changed = np.fft.irfft(spectrum, len(changed))
    if rng.random() < LATE_SHARE:
        changed = np.concatenate((np.zeros(int(rng.uniform(0.0, LATEST_S) * SAMPLE_RATE)), changed))
    loudness = np.sqrt(np.mean(changed**2))
    changed = changed + rng.normal(size=len(changed)) * loudness * 10 ** (-rng.uniform(*SNR_DB) / 20)
    return (changed / np.abs(changed).max() * 10 ** (rng.uniform(*PEAK_DB) / 20)).astype(np.float32)
