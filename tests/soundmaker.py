"""Makes sound for tests: waveforms from formulas, and files of every container Earmark reads."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import soundfile

CONTAINERS = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wavfloat": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
}
SUFFIX = {"wav24": "wav", "wavfloat": "wav"}


def times(seconds: float, rate_hz: int = 16_000) -> np.ndarray:
    return np.arange(round(seconds * rate_hz)) / rate_hz


def tone(seconds: float, frequency_hz: float = 440.0, *, rate_hz: int = 16_000, level: float = 0.3) -> np.ndarray:
    """A sine, (samples,) float32."""
    return (level * np.sin(2 * np.pi * frequency_hz * times(seconds, rate_hz))).astype(np.float32)


def noise(seconds: float, *, seed: int = 0, rate_hz: int = 16_000, level: float = 0.1) -> np.ndarray:
    """White noise, (samples,) float32."""
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))).clip(-1, 1).astype(np.float32)


def chirp(seconds: float, *, rate_hz: int = 16_000, level: float = 0.3) -> np.ndarray:
    """A sweep from 100 Hz to 6 kHz, (samples,) float32."""
    t = times(seconds, rate_hz)
    return (level * np.sin(2 * np.pi * (100 * t + (6_000 - 100) / (2 * seconds) * t**2))).astype(np.float32)


def clicks(seconds: float, *, every_s: float = 0.25, rate_hz: int = 16_000, level: float = 0.8) -> np.ndarray:
    """Short decaying ticks, (samples,) float32."""
    t = times(seconds, rate_hz)
    phase = np.mod(t, every_s)
    return (level * np.exp(-phase * 200) * np.sin(2 * np.pi * 2_000 * phase)).astype(np.float32)


def write_sound(folder: Path, name: str, waveform: np.ndarray, *, container: str = "wav", rate_hz: int = 16_000) -> Path:
    """Write `(samples,)` or `(samples, channels)` as a file of `CONTAINERS[container]`; its path."""
    path = Path(folder) / f"{name}.{SUFFIX.get(container, container)}"
    kind, subtype = CONTAINERS[container]
    soundfile.write(path, waveform, rate_hz, format=kind, subtype=subtype)
    return path


def sound_bytes(folder: Path, container: str, seconds: float = 0.5) -> bytes:
    """The bytes of a small, valid file."""
    rate_hz = 16_000
    path = write_sound(
        folder, f"seed-{container}", tone(seconds) + noise(seconds, level=0.01), container=container, rate_hz=rate_hz
    )
    data = path.read_bytes()
    path.unlink()
    return data


def wav_bytes(payload: bytes, *, rate_hz: int = 16_000, channels: int = 1, bits: int = 16, code: int = 1, **lies: int) -> bytes:
    """A WAV with any header; `lies` may give a `data_length` and a `riff_length` that aren't so."""
    frame = max(1, channels * bits // 8)
    header = struct.pack(
        "<HHIIHH", code, channels & 0xFFFF, rate_hz & 0xFFFFFFFF, (rate_hz * frame) & 0xFFFFFFFF, frame & 0xFFFF, bits & 0xFFFF
    )
    data_length = lies.get("data_length", len(payload))
    riff_length = lies.get("riff_length", 36 + len(payload))
    return (
        b"RIFF"
        + struct.pack("<I", riff_length)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + header
        + b"data"
        + struct.pack("<I", data_length)
        + payload
    )


def write_constant(
    path: Path,
    seconds: int,
    *,
    container: str = "flac",
    channels: int = 1,
    rate_hz: int = 48_000,
    level: float = 0.01,
    beep_s: float = 0.02,
) -> Path:
    """A beep of `beep_s`, then `seconds` of one constant value, written in blocks: what a decompression bomb is made of."""
    kind, subtype = CONTAINERS[container]
    block = np.full((rate_hz, channels), level, dtype=np.float32)
    with soundfile.SoundFile(path, "w", rate_hz, channels, subtype=subtype, format=kind) as file:
        file.write(np.repeat(tone(beep_s, rate_hz=rate_hz)[:, None], channels, axis=1))
        for _ in range(seconds):
            file.write(block)
    return path
