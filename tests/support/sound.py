"""Sound made in code, so that no test needs a recording."""

import wave

import numpy as np

RATE_HZ = 16_000


def tone(seconds, frequency_hz=440.0, level=0.3):
    """A sine: (samples,) float32."""
    times_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)


def noise(seconds, seed=0, level=0.2):
    """White noise: (samples,) float32."""
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * RATE_HZ))).clip(-1, 1).astype(np.float32)


def beeps(seconds, frequency_hz=1000.0, level=0.3):
    """A tone that is on for a quarter of a second in every half: (samples,) float32."""
    waveform = tone(seconds, frequency_hz, level)
    waveform[np.arange(len(waveform)) % (RATE_HZ // 2) >= RATE_HZ // 4] = 0
    return waveform


def write_wav(path, waveform, rate_hz=RATE_HZ):
    """Write a waveform in [-1, 1] as 16-bit mono WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def fill_folder(folder):
    """Write three different sounds into `folder`: tone.wav, noise.wav, beeps.wav."""
    folder.mkdir(parents=True, exist_ok=True)
    write_wav(folder / "tone.wav", tone(3.0))
    write_wav(folder / "noise.wav", noise(3.0))
    write_wav(folder / "beeps.wav", beeps(3.0))
    return folder
